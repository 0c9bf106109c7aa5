"""HMM states, the targets of an acoustic model: three a phone, alone or tied over tri-phone contexts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdrepro.errors import InputError

POSITIONS = 3  # states of a phone: its beginning, its middle and its end
NO_CONTEXT = -1  # at a word's edge, beside and within silence, and where a state is tied over all contexts

Context = tuple[int, int, int, int]  # phone, left phone, right phone (or NO_CONTEXT), position


@dataclass(frozen=True)
class States:
    """The states that a phone in context goes through.

    phones: the labels that the indices below stand for. index: state of each context that has one of its own; those of
    single phones, (phone, NO_CONTEXT, NO_CONTEXT, position), are always there.
    """

    phones: tuple[str, ...]
    index: Mapping[Context, int]

    def __len__(self) -> int:
        return len(self.index)

    def of(self, phone: int, left: int = NO_CONTEXT, right: int = NO_CONTEXT) -> tuple[int, int, int]:
        """The three states of a phone between two others: the most specific ones that there are."""
        return tuple(self._state(phone, left, right, position) for position in range(POSITIONS))

    def _state(self, phone: int, left: int, right: int, position: int) -> int:
        for context in _backed_off(phone, left, right, position):
            if context in self.index:
                return self.index[context]
        raise KeyError(f"There is no phone {phone}: they are 0 to {len(self.phones) - 1}.")

    def names(self) -> list[str]:
        """A name for each state: s-t+r.1 is the middle of t between s and r; t.0 the beginning of any t."""
        found = [""] * len(self)
        for (phone, left, right, position), state in self.index.items():
            before = "" if left == NO_CONTEXT else f"{self.phones[left]}-"
            after = "" if right == NO_CONTEXT else f"+{self.phones[right]}"
            found[state] = f"{before}{self.phones[phone]}{after}.{position}"
        return found


def monophone_states(phones: Sequence[str]) -> States:
    """Three states a phone, whatever its neighbours: 183 for TIMIT's 61."""
    contexts = [(phone, NO_CONTEXT, NO_CONTEXT, p) for phone in range(len(phones)) for p in range(POSITIONS)]
    return States(tuple(phones), {context: i for i, context in enumerate(contexts)})


def tied_states(phones: Sequence[str], segments: np.ndarray, count: int) -> States:
    """`count` states, tied by how often their contexts occur.

    segments: int [n, 4], a row an occurrence of a phone: phone, left and right neighbour (or NO_CONTEXT), frames.
    Every phone keeps three states for all contexts that have none of their own. The others go to the contexts with the
    most frames: a phone between two others, and, as a back-off, its beginning after a left and its end before a
    right neighbour. Fewer than `count` come back when there are no more contexts.
    Raises InputError when `count` is less than three a phone.
    """
    states = monophone_states(phones)
    if count < len(states):
        raise InputError(f"states must be at least three a phone, {len(states)} for {len(phones)} phones, not {count}.")
    contexts, which = np.unique(segments[:, :3], axis=0, return_inverse=True)
    frames = np.bincount(which.reshape(-1), weights=segments[:, 3], minlength=len(contexts))
    counted: dict[Context, float] = {}
    for (phone, left, right), n in zip(contexts.tolist(), frames.tolist(), strict=True):
        for position in range(POSITIONS):
            # A set: at a word's edge the most specific context is its own back-off.
            for context in set(_backed_off(phone, left, right, position)):
                if context not in states.index:
                    counted[context] = counted.get(context, 0) + n / POSITIONS
    most = sorted(counted, key=lambda context: (-counted[context], context))[: count - len(states)]
    return States(states.phones, {**states.index, **{c: len(states) + i for i, c in enumerate(most)}})


def positions(frames: int) -> np.ndarray:
    """Which of the three states each frame of a phone is in: split evenly, int [frames]."""
    return (POSITIONS * (np.arange(frames) + 0.5) / max(frames, 1)).astype(np.int64)


def _backed_off(phone: int, left: int, right: int, position: int) -> Iterable[Context]:
    """Contexts from the most specific to the least; the beginning hears its left neighbour, the end its right."""
    yield phone, left, right, position
    if position == 0:
        yield phone, left, NO_CONTEXT, position
    if position == POSITIONS - 1:
        yield phone, NO_CONTEXT, right, position
    yield phone, NO_CONTEXT, NO_CONTEXT, position
