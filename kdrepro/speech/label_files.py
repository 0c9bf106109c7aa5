"""Files of times and text beside a recording: .phn, .wrd and CSV."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdrepro.errors import InputError, nearest
from kdrepro.speech.audio import at_rate
from kdrepro.speech.corpus import Segment, Utterance, check_phones


@dataclass(frozen=True)
class Files:
    """The files of one utterance. words: None where the corpus has no word times for it."""

    name: str
    audio: Path
    phones: Path
    words: Path | None


def read_times(path: Path, rate: int) -> list[Segment]:
    """The lines `start end label` of a .phn or .wrd file; times in samples at the recording's own rate.

    Returns segments at `RATE`. Raises InputError for a file that cannot be read and for a line of another form.
    """
    segments = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            start, end, label = line.split()
            segments.append(Segment(label, at_rate(int(start), rate), at_rate(int(end), rate)))
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{path}, line {number}: {line.strip()!r} is not `start end label` with the times as whole samples."
            ) from error
    return segments


@contextmanager
def reading() -> Iterator[None]:
    """Turn a file that can no longer be read into one sentence. Raises InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}), and it was there a moment ago: put the corpus back "
            "and run again."
        ) from error


def read_text(path: Path) -> str:
    """A label file's text. Raises InputError when it cannot be read or is not UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): copy it again.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start}): save it as UTF-8.") from error


def utterance(
    files: Files,
    speaker: str,
    waveform: np.ndarray,
    phones: Sequence[Segment],
    words: Sequence[Segment],
    known: Sequence[str],
) -> Utterance:
    """Put an utterance together: checked, its waveform cut to the last phone's end, or that end to the waveform's.

    Words get lower-case labels and are put in order; they may leave gaps, and overlap as TIMIT's do.
    Raises InputError for times or labels that cannot be right (see `check_phones`).
    """
    # A csv's first line is its header, which `check_phones` does not count.
    where = f"{files.phones} after its header" if files.phones.suffix.lower() == ".csv" else str(files.phones)
    check_phones(phones, len(waveform), known, where)
    end = min(len(waveform), phones[-1].end)
    if phones[-1].start >= end:
        raise InputError(
            f"{files.phones}: the last phone, {phones[-1].label}, starts at sample {phones[-1].start}, past the end "
            f"of the recording ({end} samples): the times belong to another file."
        )
    phones = (*phones[:-1], phones[-1]._replace(end=end))
    return Utterance(files.name, speaker, waveform[:end], phones, _clipped_words(words, end, files.words))


def of_speaker(files: Mapping[str, tuple[Files, ...]], speaker: str, corpus: str) -> tuple[Files, ...]:
    """The files of a speaker. Raises InputError, with the nearest name, where the corpus has none of that name."""
    if speaker not in files:
        raise InputError(f"{corpus} has no speaker {speaker!r}{nearest(speaker, files)}; it has {several(files)}.")
    return files[speaker]


def several(names: Collection[str], most: int = 20) -> str:
    """The names in order, with commas; of many the first ones, and how many more there are."""
    names = sorted(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _clipped_words(words: Sequence[Segment], end: int, where: Path | None) -> tuple[Segment, ...]:
    for number, (label, start, stop) in enumerate(words, 1):
        if not 0 <= start < min(stop, end):
            raise InputError(
                f"{where}, word {number}: {label} is from sample {start} to {stop}, which is not a stretch of the "
                f"recording ({end} samples): correct it."
            )
    ordered = sorted(words, key=lambda word: word.start)
    return tuple(Segment(label.lower(), start, min(stop, end)) for label, start, stop in ordered)
