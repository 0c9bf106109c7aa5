"""Recordings with files of times beside them, put together as utterances."""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdrepro.errors import InputError, nearest
from kdrepro.speech.audio import read_recording
from kdrepro.speech.corpus import Segment, Utterance, check_phones
from kdrepro.speech.time_files import read_segments, read_words_beside, with_silence


@dataclass(frozen=True)
class Files:
    """The files of one utterance.

    phones: None where the recording is of one `label` from beginning to end. words: None where the corpus has no file
    of word times for it.
    """

    name: str
    audio: Path
    phones: Path | None
    words: Path | None
    label: str = ""


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
        if files.phones is None:
            said = (Segment(files.label, 0, len(waveform)),)
            return Utterance(files.name, speaker, self._mended(waveform), said, said)
        phones = with_silence(read_segments(files.phones, rate, "phones", speaker), self.silences, files.phones)
        if files.words:
            words = read_segments(files.words, rate, "words", speaker)
        else:
            words = read_words_beside(files.phones, speaker)
        return utterance(files, speaker, self._mended(waveform), phones, words, self.phones)

    def _mended(self, waveform: np.ndarray) -> np.ndarray:
        """The waveform without the damage that this corpus is known to have."""
        return waveform


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
    kind = files.phones.suffix.lower()
    # A csv's first line is its header, which `check_phones` does not count.
    where = f"{files.phones} after its header" if kind == ".csv" else str(files.phones)
    check_phones(phones, len(waveform), known, where, "line" if kind in (".phn", ".csv") else "stretch")
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
    words = [word for word in words if word.label]  # what has none is a pause
    for number, (label, start, stop) in enumerate(words, 1):
        if not 0 <= start < min(stop, end):
            raise InputError(
                f"{where}, word {number}: {label} is from sample {start} to {stop}, which is not a stretch of the "
                f"recording ({end} samples): correct it."
            )
    ordered = sorted(words, key=lambda word: word.start)
    return tuple(
        Segment(unicodedata.normalize("NFC", label.lower()), start, min(stop, end)) for label, start, stop in ordered
    )
