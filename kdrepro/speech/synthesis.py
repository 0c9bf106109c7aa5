"""Synthetic speech: sentences of our grammar in many voices of espeak-ng, in rooms, with noise; exact phone times."""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import scipy.signal

from kdrepro.errors import InputError
from kdrepro.speech import espeak, grammar
from kdrepro.speech.corpus import RATE, SPLITS, Segment, Utterance

VERSION = 2  # raised when the same settings would give other recordings

ACCENTS = ("en-us", "en", "en-029", "en-gb-scotland", "en-gb-x-rp")
# Checked to exist: espeak-ng ignores a variant that it does not know without a word.
_VARIANTS = """
    m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt2 klatt4 Alex Alicia Andrea Andy Annie Denis Gene Jacky Lee
    Marco Mario Michael Mike adam anika antonio aunty belinda benjamin boris edward grandma grandpa iven john
    linda max michel norbert paul quincy rob robert sandro steph travis zac
"""
VARIANTS = tuple(_VARIANTS.split())

SILENCE = "sil"
# espeak-ng's mnemonics, without their stress marks, as phones in ARPABET's spelling.
PHONE_OF = {
    "i:": "iy", "i": "iy", "I": "ih", "I2": "ih", "I#": "ih", "E": "eh", "E2": "eh", "a": "ae", "aa": "ae", "a#": "ax",
    "V": "ah", "@": "ax", "@2": "ax", "@5": "ax", "@-": "ax", "3": "er", "3:": "er", "VR": "er", "IR": "er", "ER": "er",
    "@r": "er", "0": "aa", "0#": "aa", "A:": "aa", "A#": "aa", "A@": "ar", "O:": "ao", "O": "ao", "O2": "ao",
    "O@": "or", "o@": "or", "o": "ao", "U": "uh", "u:": "uw", "u": "uw", "U@": "ur", "eI": "ey", "e": "ey", "e:": "ey",
    "aI": "ay", "aI2": "ay", "aI@": "ay", "aI3": "ay", "OI": "oy", "aU": "aw", "aU@": "aw", "oU": "ow", "oU#": "ow",
    "o:": "ow", "e@": "ea", "i@": "ia", "i@3": "ia", "@L": "el", "p": "p", "b": "b", "t": "t", "t2": "t", "d": "d",
    "d2": "d", "t#": "dx", "k": "k", "g": "g", "tS": "ch", "dZ": "jh", "f": "f", "v": "v", "T": "th", "t[": "th",
    "D": "dh", "d[": "dh", "s": "s", "z": "z", "z#": "z", "z/2": "z", "S": "sh", "Z": "zh", "h": "hh",
    "m": "m", "n": "n", "n-": "en", "N": "ng", "l": "l", "L": "l", "r": "r", "r-": "r",
    "r/": "r", "R": "r", "R2": "r", "j": "y", "w": "w", "w#": "w", "w2": "w", "x": "k", "?": "q", ";": "y",
    "_": SILENCE, "_:": SILENCE, "_!": SILENCE,
}  # fmt: skip
PHONES = tuple(sorted(set(PHONE_OF.values())))

# Of 100 buckets of sentences: those that a split's speakers say.
BUCKETS = {"train": range(0, 90), "validation": range(90, 95), "test": range(95, 100)}
# Of the pairs of accent and variant: the share of a split's speakers.
VOICE_SHARES = {"train": 0.8, "validation": 0.08, "test": 0.12}


@dataclass(frozen=True)
class SyntheticSpeech:
    """A corpus that is made, not recorded: the same settings give the same speech. See `synthetic_speech`."""

    hours: float
    validation_hours: float
    test_hours: float
    seed: int
    minutes_per_speaker: float
    words_per_class: int | None
    snr: tuple[float, float]
    name: str = "synthetic"
    phones: tuple[str, ...] = PHONES
    silences: tuple[str, ...] = (SILENCE,)
    test_seed: int | None = None

    @property
    def scored_as(self) -> Mapping[str, str]:
        """Words are scored here; phones count as themselves."""
        return {phone: "" if phone == SILENCE else phone for phone in self.phones}

    def fingerprint(self) -> str:
        """Hex digest of the settings and of what is said."""
        settings = asdict(self)
        if self.test_seed is None:
            del settings["test_seed"]  # corpora were made before there was such a thing
        content = [VERSION, settings, grammar.vocabulary(self.words_per_class), grammar.GRAMMAR]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def speakers(self) -> Mapping[str, Sequence[str]]:
        """The speakers of each split, each with some minutes of speech."""
        hours = dict(zip(SPLITS, (self.hours, self.validation_hours, self.test_hours), strict=True))
        counts = {split: max(1, round(60 * h / self.minutes_per_speaker)) for split, h in hours.items()}
        return {split: [f"{split}-{i:05d}" for i in range(n)] for split, n in counts.items()}

    def utterances(self, speaker: str) -> list[Utterance]:
        """All that a speaker says: sentences until `minutes_per_speaker` are full.

        Raises InputError for a speaker that is not one of `speakers` and when espeak-ng is not installed.
        """
        split, number = self._place(speaker)
        generator = np.random.default_rng([self.seed, SPLITS.index(split), number, *self._fresh(split)])
        voice, stretch = self._voice(speaker, generator)
        found, samples = [], 0
        while samples < 60 * RATE * self.minutes_per_speaker:
            words, tags = self._sentence(split, generator)
            spoken = self._synthesiser.say(" ".join(words) + ".", voice)
            if [word for word, _ in spoken.words] != words:
                continue  # espeak-ng joins a few pairs ("with the") and then gives no time for the second word
            name = f"{speaker}-{len(found):03d}"
            found.append(self._utterance(name, speaker, tags, spoken, voice, stretch, generator))
            samples += len(found[-1].waveform)
        return found

    def voice(self, speaker: str) -> str:
        """The accent and the variant that a speaker has, as espeak-ng names them: a split's speakers share its few.

        Raises InputError for a speaker that is not one of `speakers`.
        """
        return "+".join(self._pair(speaker))

    def _place(self, speaker: str) -> tuple[str, int]:
        """A speaker's split and number. Raises InputError for a speaker that is not one of `speakers`."""
        split, _, number = speaker.partition("-")
        if split not in SPLITS or speaker not in self.speakers()[split]:
            raise InputError(f"There is no synthetic speaker {speaker!r}: they are named like train-00012.")
        return split, int(number)

    def _pair(self, speaker: str) -> tuple[str, str]:
        split, number = self._place(speaker)
        pairs = voices(split, self.seed)
        return pairs[number % len(pairs)]

    def _fresh(self, split: str) -> list[int]:
        """What a fresh test set's speakers and sentences are drawn from besides, so that they are no others'."""
        return [] if self.test_seed is None or split != "test" else [self.test_seed]

    @cached_property
    def _vocabulary(self) -> dict[str, Sequence[str]]:
        return grammar.vocabulary(self.words_per_class)

    @cached_property
    def _synthesiser(self) -> espeak.Espeak:
        return espeak.Espeak()

    def __getstate__(self):
        # The synthesiser belongs to its process.
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def _voice(self, speaker: str, generator: np.random.Generator) -> tuple[espeak.Voice, float]:
        """A speaker's voice, and the factor by which the vocal tract is longer than espeak-ng's."""
        accent, variant = self._pair(speaker)
        voice = espeak.Voice(
            accent,
            variant,
            rate=int(generator.integers(130, 200)),
            pitch=int(generator.integers(15, 86)),
            pitch_range=int(generator.integers(20, 81)),
        )
        return voice, float(generator.uniform(0.88, 1.12))

    def _sentence(self, split: str, generator: np.random.Generator) -> tuple[list[str], list[str]]:
        while True:
            words, tags = grammar.sentence(self._vocabulary, generator)
            if zlib.crc32(" ".join(words).encode()) % 100 in BUCKETS[split]:
                return words, tags

    def _utterance(self, name, speaker, tags, spoken, voice, stretch, generator) -> Utterance:
        down = round(320 * self._synthesiser.rate / RATE / stretch)
        lead = int(RATE * generator.uniform(0.1, 0.3))  # of silence before the first word
        waveform = np.pad(scipy.signal.resample_poly(spoken.waveform, 320, down).astype(np.float32), (lead, 0))

        def at(sample: int) -> int:
            return min(lead + round(sample * 320 / down), len(waveform))

        labels = [(SILENCE, 0)] + [(_phone(label, voice), at(sample)) for label, sample in spoken.phones]
        phones = _merged(labels, len(waveform))
        words = _words([(word, at(sample)) for word, sample in spoken.words], phones)
        return Utterance(name, speaker, degraded(waveform, self.snr, generator), phones, words, tuple(tags))


def synthetic_speech(
    hours: float,
    seed: int = 0,
    *,
    validation_hours: float | None = None,
    test_hours: float | None = None,
    minutes_per_speaker: float = 2.0,
    words_per_class: int | None = None,
    snr: tuple[float, float] = (0.0, 15.0),
    name: str = "synthetic",
    test_seed: int | None = None,
) -> SyntheticSpeech:
    """Speech from text, of any length, without a download; `shards.prepare` makes it.

    hours: of training speech. validation_hours, test_hours: a tenth of it if not given. words_per_class: a smaller
    vocabulary. snr: the range of the signal-to-noise ratio in dB. Voices (accent and variant) and sentences of the
    three splits are disjoint; a speaker has a voice with a pitch, a rate and a vocal tract of its own. name: of the
    data set, in records. test_seed: another one makes a fresh test set, other speakers with other sentences, beside the
    same training and validation speech; its voices are test voices still.
    Raises InputError for hours or minutes that are not positive, or a range of SNR upside down.
    """
    chosen = {
        "hours": hours,
        "validation_hours": hours / 10 if validation_hours is None else validation_hours,
        "test_hours": hours / 10 if test_hours is None else test_hours,
        "minutes_per_speaker": minutes_per_speaker,
    }
    for argument, value in chosen.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{argument} must be a positive number of hours or minutes, not {value!r}.")
    if words_per_class is not None and words_per_class < 1:
        raise InputError(f"words_per_class must be at least 1, not {words_per_class}.")
    if not -float("inf") < snr[0] <= snr[1] < float("inf"):
        raise InputError(f"snr must be a range from low to high in dB, not {tuple(snr)}.")
    lengths = {argument: float(value) for argument, value in chosen.items()}
    low, high = (float(end) for end in snr)
    settings = {"words_per_class": words_per_class, "snr": (low, high), "name": name, "test_seed": test_seed}
    return SyntheticSpeech(seed=seed, **settings, **lengths)


def voices(split: str, seed: int) -> list[tuple[str, str]]:
    """The pairs of accent and variant that a split's speakers take their voices from; no pair is in two splits."""
    pairs = [(accent, variant) for accent in ACCENTS for variant in VARIANTS]
    order = np.random.default_rng([seed, 99]).permutation(len(pairs))
    begin = 0
    for name in SPLITS:
        end = begin + round(VOICE_SHARES[name] * len(pairs))
        if name == split:
            return [pairs[i] for i in order[begin:end]]
        begin = end
    raise ValueError(f"There is no split {split!r}.")


def degraded(waveform: np.ndarray, snr: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """A clean waveform as a far microphone hears it: room, channel, coloured noise, another level; same times."""
    response = np.convolve(_room(generator), _channel(generator))
    heard = scipy.signal.oaconvolve(waveform, response)[: len(waveform)]
    noise = _noise(len(heard), generator)
    decibel = generator.uniform(*snr)
    power = np.mean(heard**2) + 1e-12
    noise *= np.sqrt(power / (np.mean(noise**2) + 1e-12) / 10 ** (decibel / 10))
    mixed = heard + noise
    return (mixed * generator.uniform(0.2, 0.9) / (np.abs(mixed).max() + 1e-9)).astype(np.float32)


def _room(generator: np.random.Generator) -> np.ndarray:
    """An impulse response: the direct sound at sample 0, then noise that decays by 60 dB in 0.1 to 0.5 s."""
    reverberation = generator.uniform(0.1, 0.5)  # seconds
    direct_to_reverberant = generator.uniform(0, 12)  # dB
    time = np.arange(int(reverberation * RATE)) / RATE
    tail = generator.standard_normal(len(time)) * np.exp(-6.9 * time / reverberation) * (time > 0.002)
    tail *= np.sqrt(10 ** (-direct_to_reverberant / 10) / (np.sum(tail**2) + 1e-12))
    tail[0] = 1.0
    return tail


def _channel(generator: np.random.Generator) -> np.ndarray:
    """A minimum-phase filter with a random smooth response, within about +-6 dB: no delay, so times stay exact."""
    knots = generator.uniform(-6, 6, 7)
    decibel = np.interp(np.linspace(0, 6, 129), np.arange(7), knots)
    log_magnitude = decibel / 20 * np.log(10)
    cepstrum = np.fft.irfft(log_magnitude)
    folded = np.zeros(256)
    folded[0], folded[1:128], folded[128] = cepstrum[0], 2 * cepstrum[1:128], cepstrum[128]
    return np.fft.irfft(np.exp(np.fft.rfft(folded)))[:64]


def _noise(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Noise whose power falls as a random power (0 to 2) of frequency and whose level sways slowly."""
    padded = scipy.fft.next_fast_len(samples, real=True)
    spectrum = scipy.fft.rfft(generator.standard_normal(padded))
    frequency = np.maximum(np.arange(len(spectrum)) * RATE / padded, 60.0)
    noise = scipy.fft.irfft(spectrum * frequency ** (-generator.uniform(0, 2) / 2), padded)[:samples]
    sway = np.interp(np.arange(samples), np.linspace(0, samples, 8), generator.uniform(-4, 4, 8))
    return noise * 10 ** (sway / 20)


def _phone(label: str, voice: espeak.Voice) -> str:
    try:
        return PHONE_OF[label.lstrip("',%=")]
    except KeyError:
        raise InputError(
            f"espeak-ng's {voice.accent} uses a phone {label!r} that has no name here: add it to synthesis.PHONE_OF."
        ) from None


def _merged(labels: Sequence[tuple[str, int]], samples: int) -> tuple[Segment, ...]:
    """Segments from labels with their first samples; empty ones are left out, neighbouring silences joined."""
    ends = [start for _, start in labels[1:]] + [samples]
    found: list[Segment] = []
    for (label, start), end in zip(labels, ends, strict=True):
        start = found[-1].end if found else 0
        if end <= start:
            continue
        if found and label == found[-1].label == SILENCE:
            found[-1] = found[-1]._replace(end=end)
        else:
            found.append(Segment(label, start, end))
    return tuple(found)


def _words(starts: Sequence[tuple[str, int]], phones: Sequence[Segment]) -> tuple[Segment, ...]:
    """Word segments from words with their first samples: each ends with its last phone that is not a silence."""
    ends = [start for _, start in starts[1:]] + [phones[-1].end + 1]
    found = []
    for (word, start), end in zip(starts, ends, strict=True):
        inside = [p for p in phones if start <= p.start < end and p.label != SILENCE]
        found.append(Segment(word, inside[0].start, inside[-1].end))
    return tuple(found)
