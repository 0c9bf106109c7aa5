"""Times of phones and words from recordings and what was said in them, as the paper had its labels: forced alignment.

The English models of pocketsphinx (extra `align`) do it, and `align_folder` writes what `speech_folder` reads. An
utterance takes up to four passes, each with wider beams than the last: narrow ones are more exact, and lose a quarter
of the utterances.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdrepro.errors import InputError, needed
from kdrepro.files import atomic_write, visible_files
from kdrepro.speech.audio import read_audio
from kdrepro.speech.corpus import RATE, Segment
from kdrepro.speech.folder import existing
from kdrepro.speech.time_files import read_text

FRAME = 160  # samples: the aligner's step of 10 ms
OFFSET = (
    125  # samples: half of what its window of 25.6 ms is longer than its step, so much later a frame's sound begins
)
SILENCE = "sil"
SILENCES = ("SIL", "+SPN+", "+NSN+", "+BREATH+", "+COUGH+", "+SMACK+", "+UH+", "+UM+", "+NOISE+")
WIDE = {"bestpath": False, "beam": 1e-200, "wbeam": 1e-200, "pbeam": 1e-200, "cmn": "batch"}
NEEDED_FOR = "To align recordings with what is said in them"
# What to try, one after the other; the last allows no pauses between words.
PASSES: tuple[dict[str, Any], ...] = (
    {},
    {"bestpath": False, "beam": 1e-60, "wbeam": 1e-50, "pbeam": 1e-60, "cmn": "batch"},
    WIDE,
    WIDE | {"fsgusefiller": False},
)


@dataclass(frozen=True)
class Aligned:
    """Phones and words of one recording, phones from its first sample to its last. tried: how many passes it took."""

    phones: tuple[Segment, ...]
    words: tuple[Segment, ...]
    tried: int = 1


@dataclass(frozen=True)
class Failed:
    """A recording that could not be aligned, and why."""

    recording: Path
    why: str


def words_of(transcript: str) -> list[str]:
    """A transcript's words in lower case, without numbers and signs; hyphens part words, apostrophes stay."""
    plain = unicodedata.normalize("NFKC", transcript).replace("’", "'").lower()
    return [word.strip("'") or word for word in re.findall(r"[a-z']*[a-z][a-z']*", plain)]


def align(waveform: np.ndarray, words: Sequence[str]) -> Aligned:
    """Times of the phones and words of one utterance.

    waveform: float32 [samples] at 16 kHz. words: those that are said, in order, English.
    Phones are those of CMU's dictionary in lower case ("ah", "hh"), and "sil". Raises InputError for no words, for
    words that are not in the dictionary, for pocketsphinx that is absent, and where every pass loses the utterance.
    """
    pocketsphinx = needed("pocketsphinx", "align", NEEDED_FOR)
    if not words:
        raise InputError("There are no words to align: give what is said in the recording.")
    samples = (np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes()
    for tried, settings in enumerate(PASSES, start=1):
        decoder = pocketsphinx.Decoder(pocketsphinx.Config(lm=None, loglevel="FATAL", **settings))
        unknown = sorted({word for word in words if decoder.lookup_word(word) is None})
        if unknown:
            raise InputError(
                f"The dictionary does not have {', '.join(map(repr, unknown))}: write it as it is said (22 as twenty "
                "two), or leave the utterance out."
            )
        found = _passed(decoder, samples, words)
        if found is not None:
            return _segments(found, len(waveform), tried)
    raise InputError(
        f"None of {len(PASSES)} passes could align {' '.join(words)!r}: is it what is said, and is the recording clear?"
    )


def align_folder(
    root: Path | str,
    transcripts: Mapping[str, str] | None = None,
    *,
    progress: Callable[[Path, Aligned | Failed], None] = lambda recording, found: None,
) -> list[Failed]:
    """Write times beside each recording in a folder, as `speech_folder` reads them; returns the recordings that failed.

    root: with a folder of recordings for each speaker. transcripts: what is said, by a recording's name from `root` on
    without its ending ("anna/one"); None takes it from the text <name>.lab beside the recording.
    Writes <name>.csv with phones and <name>.words.csv with words, in seconds; recordings that have a csv already are
    left as they are, so that what was interrupted goes on. progress: called after each recording.
    Raises InputError for a folder, or all transcripts, that are not there, and where pocketsphinx is not installed.
    """
    root = existing(root)
    needed("pocketsphinx", "align", NEEDED_FOR)
    failed, said = [], 0
    for name in sorted(visible_files(root)):
        recording = root / name
        text = _transcript(recording, root, transcripts)
        if text is None:
            continue
        said += 1
        if recording.with_suffix(".csv").exists():
            continue
        try:
            found: Aligned | Failed = align(read_audio(recording), words_of(text))
        except InputError as error:
            found = Failed(recording, str(error))
            failed.append(found)
        else:
            atomic_write(recording.with_suffix(".words.csv"), _csv(found.words))
            atomic_write(recording.with_suffix(".csv"), _csv(found.phones))  # last: what is complete has it
        progress(recording, found)
    if not said:
        raise InputError(
            f"No recording in {root} has a transcript: put what is said in <name>.lab beside <name>.wav, or give "
            "`transcripts` by <speaker>/<name>."
        )
    return failed


def _transcript(recording: Path, root: Path, transcripts: Mapping[str, str] | None) -> str | None:
    """What is said in a file; None where it is no recording, or nobody says it."""
    if recording.suffix.lower() in (".lab", ".csv", ".txt", ".wrd", ".phn", ".textgrid"):
        return None
    if transcripts is not None:
        return transcripts.get(recording.relative_to(root).with_suffix("").as_posix())
    beside = recording.with_suffix(".lab")
    return read_text(beside) if beside.exists() else None


def _passed(decoder: Any, samples: bytes, words: Sequence[str]) -> list[tuple[str, list[tuple[str, int]]]] | None:
    """Each word, pauses too, with its phones and their frames; None where the utterance was lost."""
    try:
        decoder.set_align_text(" ".join(words))
        _decode(decoder, samples)
        if decoder.hyp() is None:
            return None
        decoder.set_alignment()
        _decode(decoder, samples)
        alignment = decoder.get_alignment()
    except RuntimeError:
        return None
    if alignment is None:
        return None
    found = [(word.name, [(phone.name, phone.duration) for phone in word]) for word in alignment]
    return found if len([name for name, _ in found if _is_word(name)]) == len(words) else None


def _decode(decoder: Any, samples: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(samples, full_utt=True)
    decoder.end_utt()


def _is_word(name: str) -> bool:
    return name[0] not in "<[+"


def _segments(found: Sequence[tuple[str, list[tuple[str, int]]]], samples: int, tried: int) -> Aligned:
    """Frames as samples: the first phone begins with the recording, and the last one ends with it."""
    phones: list[Segment] = []
    words: list[Segment] = []
    frame, start = 0, 0
    for name, inside in found:
        began = start
        for phone, duration in inside:
            frame += duration
            end = min(samples, frame * FRAME + OFFSET)
            label = SILENCE if phone in SILENCES else phone.lower()
            if phones and label == phones[-1].label == SILENCE:
                phones[-1] = phones[-1]._replace(end=end)
            elif end > start:
                phones.append(Segment(label, start, end))
            start = end
        if _is_word(name):
            words.append(Segment(name.partition("(")[0], began, start))
    phones[-1] = phones[-1]._replace(end=samples)
    return Aligned(tuple(phones), tuple(words), tried)


def _csv(segments: Sequence[Segment]) -> bytes:
    lines = [f"{one.start / RATE:.6f},{one.end / RATE:.6f},{one.label}" for one in segments]
    return ("\n".join(["start,end,label", *lines]) + "\n").encode()
