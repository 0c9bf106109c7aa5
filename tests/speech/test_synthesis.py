"""Speech from text: same settings, same speech; splits share nothing; labels are where the sounds are."""

import sys
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kdrepro import data
from kdrepro.errors import InputError
from kdrepro.speech import espeak, features, grammar, shards, synthesis
from kdrepro.speech.corpus import SPLITS

VOWELS = {"iy", "ih", "eh", "ae", "aa", "ah", "ao", "uw", "ey", "ay", "ow"}


def small(seed=0, **changes):
    chosen = {"validation_hours": 0.001, "test_hours": 0.001, "minutes_per_speaker": 0.1, "words_per_class": 3}
    return data.synthetic_speech(0.003, seed, **chosen | changes)


# --- the same again, and disjoint splits ----------------------------------------------------------


def test_same_settings_same_shards_byte_for_byte(tiny, tmp_path):
    """Each shard comes from a fresh process; another seed says something else."""
    for name, corpus in (("same", tiny.corpus), ("other", replace(tiny.corpus, seed=1))):
        shards._in_own_process((corpus, corpus.speakers()["test"], tmp_path / name))
    files = list(Path(tiny.test.shards[0].features.filename).parent.iterdir())
    assert len(files) == 3
    for file in files:
        assert file.read_bytes() == (tmp_path / "same" / file.name).read_bytes()
        assert file.read_bytes() != (tmp_path / "other" / file.name).read_bytes()


def test_fingerprint_follows_the_settings():
    same = [small().fingerprint(), data.synthetic_speech(
        0.003, validation_hours=0.001, test_hours=0.001, minutes_per_speaker=0.1, words_per_class=3
    ).fingerprint()]  # fmt: skip
    assert len(set(same)) == 1
    others = [small(1), small(snr=(0, 14)), small(words_per_class=4), small(minutes_per_speaker=0.2), small(name="x")]
    assert len({corpus.fingerprint() for corpus in others} | set(same)) == 6


def test_voices_of_the_splits_are_disjoint():
    every = {(accent, variant) for accent in synthesis.ACCENTS for variant in synthesis.VARIANTS}
    for seed in (0, 1):
        found = [synthesis.voices(split, seed) for split in SPLITS]
        assert sum(map(len, found)) == len(every)
        assert set().union(*found) == every
        assert len(found[0]) == pytest.approx(0.8 * len(every), abs=1)
    assert synthesis.voices("test", 0) != synthesis.voices("test", 1)
    with pytest.raises(ValueError, match="no split 'dev'"):
        synthesis.voices("dev", 0)


def test_sentences_and_speakers_of_the_splits_are_disjoint(tiny):
    said, speakers = [], []
    for split in SPLITS:
        utterances = tiny.split(split).utterances
        said.append({" ".join(word for word, *_ in u["words"]) for u in utterances})
        speakers.append({u["speaker"] for u in utterances})
        assert {u["speaker"] for u in utterances} == set(tiny.corpus.speakers()[split])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert said[a].isdisjoint(said[b])
        assert speakers[a].isdisjoint(speakers[b])
    assert all(len(one) > 3 for one in said)


def test_hours_and_speakers():
    corpus = data.synthetic_speech(1.0, minutes_per_speaker=2)
    assert {split: len(found) for split, found in corpus.speakers().items()} == {
        "train": 30,
        "validation": 3,
        "test": 3,
    }
    assert corpus.speakers()["train"][12] == "train-00012"


def test_a_speaker_fills_the_minutes(tiny):
    seconds = defaultdict(float)
    for utterance in tiny.train.utterances:
        seconds[utterance["speaker"]] += utterance["frames"] / 100
    assert all(15 <= s < 15 + 6 for s in seconds.values())


# --- espeak-ng's voices and phones ----------------------------------------------------------------


def test_every_variant_is_there():
    """espeak-ng takes an unknown one for none at all, without a word."""
    import espeakng_loader

    there = {path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()}
    assert set(synthesis.VARIANTS) <= there
    assert len(set(synthesis.VARIANTS)) == len(synthesis.VARIANTS)


@pytest.fixture(scope="module")
def synthesiser():
    return espeak.Espeak()


@pytest.mark.parametrize("accent", synthesis.ACCENTS)
def test_every_word_is_spoken_with_phones_that_have_a_name(synthesiser, accent):
    words = sorted({word for found in grammar.vocabulary().values() for word in found})
    voice = espeak.Voice(accent, "m3", rate=450)
    for i in range(0, len(words), 60):
        phones = synthesiser.say(", ".join(words[i : i + 60]) + ".", voice).phones
        assert len(phones) > 2 * len(words[i : i + 60])
        assert {synthesis._phone(label, voice) for label, _ in phones} <= set(synthesis.PHONES)


def test_an_unknown_phone_is_named():
    with pytest.raises(InputError, match=r"en-us uses a phone \"'XX\" .* synthesis\.PHONE_OF"):
        synthesis._phone("'XX", espeak.Voice("en-us", "m1"))


def test_phones_and_words_of_what_was_said(synthesiser):
    spoken = synthesiser.say("the cat sat.", espeak.Voice("en-us", "m1"))
    assert [word for word, _ in spoken.words] == ["the", "cat", "sat"]
    named = [synthesis._phone(label, espeak.Voice("en-us", "m1")) for label, _ in spoken.phones]
    assert [p for p in named if p != "sil"] == ["dh", "ax", "k", "ae", "t", "s", "ae", "t"]
    starts = [sample for _, sample in spoken.phones]
    assert starts == sorted(starts)
    assert 0.5 < len(spoken.waveform) / synthesiser.rate < 2
    assert 0.1 < np.abs(spoken.waveform).max() <= 1


def test_speakers_share_the_voices_of_their_split():
    corpus = synthesis.synthetic_speech(1, test_hours=1, minutes_per_speaker=1)
    of_test = [corpus.voice(speaker) for speaker in corpus.speakers()["test"]]
    pairs = ["+".join(pair) for pair in synthesis.voices("test", 0)]
    assert of_test == (pairs * 3)[: len(of_test)]
    assert len(pairs) < len(of_test)
    assert corpus.voice("validation-00000") not in pairs
    with pytest.raises(InputError, match="There is no synthetic speaker 'bob'"):
        corpus.voice("bob")


def test_voices_sound_different(synthesiser):
    lengths = {
        len(synthesiser.say("the cat sat.", espeak.Voice("en-us", "m1", rate=rate)).waveform) for rate in (130, 200)
    }
    assert len(lengths) == 2
    a, b = (synthesiser.say("the cat.", espeak.Voice("en-us", variant)).waveform for variant in ("m1", "f2"))
    assert len(a) != len(b) or not np.array_equal(a, b)


def test_unknown_voices_and_speakers(synthesiser):
    with pytest.raises(InputError, match=r"no voice xx-none\+m1: choose another accent"):
        synthesiser.say("hello.", espeak.Voice("xx-none", "m1"))
    for speaker in ("ann", "", "dev-00001", "train-", "train-x"):
        with pytest.raises(InputError, match="no synthetic speaker"):
            small().utterances(speaker)


# --- waveforms and their labels -------------------------------------------------------------------


@pytest.fixture(scope="module")
def clear():
    """What eight speakers say with hardly any noise."""
    corpus = data.synthetic_speech(0.02, minutes_per_speaker=0.15, snr=(40, 40))
    return [u for i in range(8) for u in corpus.utterances(f"train-{i:05d}")]


def test_phones_cover_the_waveform(clear):
    assert len(clear) >= 16
    for utterance in clear:
        assert utterance.waveform.dtype == np.float32
        assert np.abs(utterance.waveform).max() <= 1
        assert utterance.phones[0].start == 0
        assert utterance.phones[-1].end == len(utterance.waveform)
        assert all(a.end == b.start for a, b in pairwise(utterance.phones))
        assert all(p.start < p.end for p in utterance.phones)
        assert {p.label for p in utterance.phones} <= set(synthesis.PHONES)
        assert utterance.phones[0].label == "sil"


def test_words_begin_and_end_with_phones(clear):
    for utterance in clear:
        starts, ends = ({getattr(p, edge) for p in utterance.phones} for edge in ("start", "end"))
        assert len(utterance.words) == len(utterance.tags) >= 4
        assert all(word.start in starts and word.end in ends for word in utterance.words)
        assert all(a.end <= b.start for a, b in pairwise(utterance.words))
        assert all(tag in grammar.GRAMMAR for tag in utterance.tags)
        spoken = [p for p in utterance.phones if p.label != "sil"]
        inside = [p for p in spoken if any(word.start <= p.start < word.end for word in utterance.words)]
        assert inside == spoken


def test_phones_sound_as_their_names_say(clear):
    """Energies of mel filters by phone, as phonetics has them, over all speakers."""
    frames = defaultdict(list)
    for utterance in clear:
        log_mel = features.log_mel(utterance.waveform)
        log_mel = log_mel - np.log(np.exp(log_mel).sum(1).mean())  # speakers alike loud
        for phone in utterance.phones:
            first, last = round(phone.start / 160), round(phone.end / 160)
            third = (last - first) // 3  # the middle, away from the neighbours
            frames[phone.label].append(log_mel[first + third : max(first + third + 1, last - third)])
    power = {label: np.exp(np.concatenate(found)) for label, found in frames.items()}
    filters = features.hertz(np.linspace(features.mel(60.0), features.mel(7600.0), 42))[1:-1]

    def share(labels, low, high):
        """Of the power between these frequencies, the mean over frames."""
        together = np.concatenate([power[label] for label in labels])
        return (together[:, (filters >= low) & (filters < high)].sum(1) / together.sum(1)).mean()

    vowels = VOWELS & power.keys()
    assert len(vowels) >= 8
    assert share(["s", "sh"], 2500, 8000) > 0.6 > 0.5 > share(vowels, 2500, 8000)
    assert share(["s"], 4500, 8000) > share(["sh"], 4500, 8000)
    assert share(["aa"], 550, 1100) > 2 * share(["iy"], 550, 1100)  # the first formant
    assert share(["m", "n"], 0, 500) > share(["aa", "ae"], 0, 500)  # nasals hum
    loudness = {label: np.log(found.sum(1)).mean() for label, found in power.items()}
    assert loudness["sil"] < min(loudness[vowel] for vowel in vowels) - 1
    assert np.mean([loudness[p] for p in ("p", "t", "k")]) < np.mean([loudness[vowel] for vowel in vowels]) - 1


# --- rooms and noise ------------------------------------------------------------------------------


def test_a_click_stays_at_its_sample():
    """No delay of the direct sound by room and channel, so that labels stay exact."""
    at = []
    for seed in range(40):
        click = np.zeros(8000, np.float32)
        click[3000] = 1
        heard = np.abs(synthesis.degraded(click, (60, 60), np.random.default_rng(seed)))
        at.append(int(heard.argmax()))
        assert heard[:3000].max() < 0.1 * heard.max()
    assert set(at) == {3000}


def test_room_and_channel_do_not_wait():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        room, channel = synthesis._room(generator), synthesis._channel(generator)
        assert room[0] == 1 == np.abs(room).max()
        assert np.abs(channel).argmax() == 0
        decibel = 20 * np.log10(np.abs(np.fft.rfft(channel, 512)))
        assert np.abs(decibel).max() < 7  # of at most 6, cut to 64 samples
        tail = room[len(room) // 2 :]
        assert np.mean(tail**2) < 0.1 * np.mean(room[33 : len(room) // 4] ** 2)


@pytest.mark.parametrize("decibel", [0.0, 10.0, 20.0])
def test_snr_is_what_was_asked_for(decibel):
    """The same room and channel with next to no noise: what differs is the noise."""
    random = np.random.default_rng(0)
    speech = (random.normal(0, 0.1, 16_000) * (1 + np.sin(np.arange(16_000) / 900))).astype(np.float32)
    ratios = []
    for seed in range(10):
        loud, clear = (synthesis.degraded(speech, (x, x), np.random.default_rng(seed)) for x in (decibel, 100.0))
        gain = (loud @ clear) / (clear @ clear)  # each has a level of its own
        ratios.append(10 * np.log10(np.sum((gain * clear) ** 2) / np.sum((loud - gain * clear) ** 2)))
    assert np.mean(ratios) == pytest.approx(decibel, abs=0.5)
    assert np.ptp(ratios) < 2


def test_snr_covers_its_range():
    tone = np.sin(np.arange(4000) / 3).astype(np.float32)
    found = []
    for seed in range(60):
        loud, clear = (synthesis.degraded(tone, x, np.random.default_rng(seed)) for x in ((0, 20), (100, 100)))
        gain = (loud @ clear) / (clear @ clear)
        found.append(10 * np.log10(np.sum((gain * clear) ** 2) / np.sum((loud - gain * clear) ** 2)))
    assert -1.5 < min(found) < 4
    assert 16 < max(found) < 21.5


def test_degraded_silence_and_levels():
    generator = np.random.default_rng(0)
    assert np.isfinite(synthesis.degraded(np.zeros(1000, np.float32), (0, 15), generator)).all()
    tone = np.sin(np.arange(2000) / 5).astype(np.float32)
    peaks = [np.abs(synthesis.degraded(tone, (0, 15), generator)).max() for _ in range(40)]
    assert all(0.19 < peak < 0.91 for peak in peaks)
    assert max(peaks) > 0.7 > 0.4 > min(peaks)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"hours": 0}, "hours must be a positive number.*not 0"),
        ({"hours": -1.5}, "hours must be a positive number.*not -1.5"),
        ({"hours": float("nan")}, "hours must be a positive number.*not nan"),
        ({"hours": float("inf")}, "hours must be a positive number.*not inf"),
        ({"hours": 1, "validation_hours": 0}, "validation_hours must be a positive"),
        ({"hours": 1, "test_hours": -1}, "test_hours must be a positive"),
        ({"hours": 1, "minutes_per_speaker": 0}, "minutes_per_speaker must be a positive"),
        ({"hours": 1, "words_per_class": 0}, "words_per_class must be at least 1, not 0"),
        ({"hours": 1, "snr": (15, 0)}, r"snr must be a range from low to high in dB, not \(15, 0\)"),
        ({"hours": 1, "snr": (float("nan"), 5)}, "snr must be a range"),
    ],
)
def test_bad_settings_are_one_sentence(arguments, said):
    with pytest.raises(InputError, match=said) as caught:
        data.synthetic_speech(**arguments)
    assert "\n" not in str(caught.value)


def test_without_espeak_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    for attempt in (espeak.check, espeak.Espeak, lambda: small().utterances("train-00000")):
        with pytest.raises(InputError, match=r"pip install .*kdrepro\[speech\].*TIMIT.*run without it"):
            attempt()
    small().speakers()  # who would speak is known all the same


def test_a_fresh_test_set_has_other_speakers_and_sentences_beside_the_same_training_speech():
    usual, fresh, other = small(), small(test_seed=20), small(test_seed=21)
    assert len({corpus.fingerprint() for corpus in (usual, fresh, other)}) == 3

    def said(corpus, split):
        return [(u.waveform.tobytes(), u.words) for s in corpus.speakers()[split] for u in corpus.utterances(s)]

    tests = [{words for _, words in said(corpus, "test")} for corpus in (usual, fresh, other)]
    assert all(not a & b for a, b in pairwise([*tests, tests[0]]))
    rng = [np.random.default_rng([0, SPLITS.index("train"), 0, *corpus._fresh("train")]) for corpus in (usual, fresh)]
    assert rng[0].random() == rng[1].random()
    assert usual._fresh("test") == []
    assert {voice for voice in synthesis.voices("test", 0)}.isdisjoint(synthesis.voices("train", 0))


def test_the_fingerprint_of_corpora_that_have_no_fresh_test_set_is_what_it_was():
    """Networks that are stored have it in their names."""
    assert small().fingerprint() == "40fe9ee9c2d3ceec"
