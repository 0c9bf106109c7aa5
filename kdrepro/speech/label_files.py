"""Files of times and text beside a recording: .phn, .wrd and CSV."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdrepro.errors import InputError, nearest
from kdrepro.speech.audio import at_rate, read_recording
from kdrepro.speech.corpus import RATE, Segment, Utterance, check_phones

HEADER = ("start", "end", "label")


@dataclass(frozen=True)
class Files:
    """The files of one utterance. words: None where the corpus has no word times for it."""

    name: str
    audio: Path
    phones: Path
    words: Path | None


class Recordings:
    """What the corpora on disk share: a name, phones, `splits` (the speakers of each) and `files` (of each speaker)."""

    def speakers(self) -> dict[str, tuple[str, ...]]:
        """The speakers of "train", "validation" and "test"; no speaker is in two."""
        return dict(self.splits)

    def utterances(self, speaker: str) -> list[Utterance]:
        """A speaker's utterances by name; each waveform ends where its last phone does.

        Raises InputError for an unknown speaker, and for a file of theirs that is wrong.
        """
        if speaker not in self.files:
            near, known = nearest(speaker, self.files), several(self.files)
            raise InputError(f"{self.name} has no speaker {speaker!r}{near}; it has {known}.")
        return [self._utterance(speaker, files) for files in self.files[speaker]]

    def _utterance(self, speaker: str, files: Files) -> Utterance:
        waveform, rate = read_recording(files.audio)
        phones = read_segments(files.phones, rate)
        words = read_segments(files.words, rate) if files.words else []
        return utterance(files, speaker, self._mended(waveform), phones, words, self.phones)

    def _mended(self, waveform: np.ndarray) -> np.ndarray:
        """The waveform without the damage that this corpus is known to have."""
        return waveform


def read_segments(path: Path, rate: int) -> list[Segment]:
    """The segments of a file of times, at `RATE`; rate: of the recording, in which a .phn or .wrd counts."""
    return read_seconds(path) if path.suffix.lower() == ".csv" else read_times(path, rate)


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


def read_seconds(path: Path) -> list[Segment]:
    """The rows `start,end,label` of a csv file in seconds. Raises InputError for another header or a bad row."""
    rows = csv.reader(io.StringIO(read_text(path)), skipinitialspace=True)
    header = tuple(cell.strip() for cell in next(_rows(rows, path), ()))
    if header != HEADER:
        raise InputError(f"{path} starts with {','.join(header)!r}: its first line must be `{','.join(HEADER)}`.")
    segments: list[Segment] = []
    for row in _rows(rows, path):
        start, end, label = _parse(row, path, rows.line_num)
        due = segments[-1].end if segments else 0
        if abs(start - due) <= 1:
            start = due  # one time that was rounded to two
        segments.append(Segment(label, start, end))
    return segments


def _rows(rows: Iterable[list[str]], path: Path) -> Iterator[list[str]]:
    """Those that are not empty."""
    try:
        yield from filter(None, rows)
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as csv ({error}): write it again.") from error


def _parse(row: Sequence[str], path: Path, line: int) -> tuple[int, int, str]:
    try:
        start, end = (round(float(cell) * RATE) for cell in row[:2])
        (label,) = (cell.strip() for cell in row[2:])
        if not label:
            raise ValueError
    except (ValueError, OverflowError) as error:  # OverflowError: round(inf)
        raise InputError(
            f"{path}, line {line}: {','.join(row)!r} is not `start,end,label` with the times in seconds."
        ) from error
    return start, end, label
