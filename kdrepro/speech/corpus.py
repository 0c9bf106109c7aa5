"""The one interface of every kind of speech: a corpus names its speakers and gives their utterances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from kdrepro.errors import InputError

RATE = 16_000  # samples per second of every waveform
SLACK = 400  # samples, one window of 25 ms: aligners round the end of a recording up to a whole frame or window
SPLITS = ("train", "validation", "test")


class Segment(NamedTuple):
    """A stretch of an utterance: a phone or a word, from sample `start` up to but not including `end`."""

    label: str
    start: int
    end: int


@dataclass(frozen=True)
class Utterance:
    """One recorded sentence.

    name: unique in its corpus. waveform: float32 [samples] in [-1, 1] at `RATE`. phones: cover the waveform from
    its first sample to its last without a gap (silence is a phone too). words: in order; their phones are those that
    begin within them. tags: a word class for each word where the corpus knows it, for a class bigram.
    """

    name: str
    speaker: str
    waveform: np.ndarray
    phones: tuple[Segment, ...]
    words: tuple[Segment, ...] = ()
    tags: tuple[str, ...] = ()


class Corpus(Protocol):
    """What `shards.prepare` asks of a kind of speech. Shards are prepared in processes of their own, so a corpus holds
    plain data only; its class may be in a script or a notebook."""

    name: str
    phones: tuple[str, ...]  # every label that an utterance may hold
    silences: tuple[str, ...]  # those of them that are no speech: their states have no context
    scored_as: Mapping[str, str]  # phone -> what it counts as in an error rate; "" is not scored

    def fingerprint(self) -> str:
        """Hex digest of all that decides the utterances."""

    def speakers(self) -> Mapping[str, Sequence[str]]:
        """The speakers of each split; no speaker is in two."""

    def utterances(self, speaker: str) -> Sequence[Utterance]:
        """All that a speaker says, in a fixed order."""


def voice_of(corpus: Corpus, speaker: str) -> str:
    """The name of the voice that a speaker has: one's own, but where the corpus has a method `voice` that says."""
    return corpus.voice(speaker) if hasattr(corpus, "voice") else speaker


def check_phones(
    phones: Sequence[Segment], samples: int, known: Sequence[str], where: str, counted: str = "line"
) -> None:
    """Refuse phone times that do not follow one another from sample 0 on, with known labels, within the recording.

    where: the file, and counted: what a phone is in it, for the message. The last phone may end up to `SLACK` samples
    past the end: hand-made times do.
    Raises InputError that says what is wrong, and at which line or time.
    """
    if not phones:
        raise InputError(f"{where} has no phones: every utterance needs at least one line of start, end, label.")
    expected = 0
    for number, (label, start, end) in enumerate(phones, 1):
        if label not in known:
            raise InputError(
                f"{where}, {counted} {number}: {label!r} is not a phone of this corpus; correct it or add it."
            )
        if start != expected:
            fault = "a gap" if start > expected else "an overlap"
            raise InputError(
                f"{where}, {counted} {number}: {label} starts at sample {start} where {expected} was due ({fault}): "
                "phones must follow one another without gaps or overlaps."
            )
        if end <= start:
            raise InputError(f"{where}, {counted} {number}: {label} ends at sample {end}, not after its start {start}.")
        expected = end
    if expected > samples + SLACK:
        raise InputError(
            f"{where}, {counted} {len(phones)}: {phones[-1].label} ends at sample {expected}, past the end of the "
            f"recording ({samples} samples): the times belong to another file or another rate."
        )
