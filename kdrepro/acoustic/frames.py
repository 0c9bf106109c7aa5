"""Frames of speech as cases: windows cut from memory-mapped shards, HMM states as labels.

An acoustic model sees 26 frames x 40 log-mel coefficients and names the HMM state of the 21st (Section 4). A window is
a view into its utterance's frames, so that it costs no memory of its own.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrepro.speech import shards
from kdrepro.speech.corpus import SPLITS, Corpus
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.speech.shards import LEFT, RIGHT, Shard
from kdrepro.speech.states import States, monophone_states, tied_states
from kdrepro.training import digest

WINDOW_FRAMES = LEFT + 1 + RIGHT


class Frames:
    """The frames of one split, in the order of its shards and of the utterances in them.

    shards: mapped from disk. states: what the targets are.
    """

    def __init__(self, parts: Sequence[Shard], states: States):
        self.shards, self.states = list(parts), states
        self._pooled: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pooling = threading.Lock()  # networks may train side by side
        self.targets = torch.from_numpy(np.concatenate([shard.targets(states) for shard in self.shards]))  # int32

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without what is in memory of the shards, and without the lock."""
        return {name: value for name, value in vars(self).items() if name not in ("_pooled", "_pooling")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _pooled={}, _pooling=threading.Lock())

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def fingerprint(self) -> str:
        """Of the features and the states: hex digits."""
        return digest([shard.features for shard in self.shards], self.targets)

    @cached_property
    def utterances(self) -> list[dict[str, Any]]:
        """See `shards.Shard.utterances`; with `index`, its number, and `first`, its first frame, in this split, and
        `phones`, [(label, first frame, end frame), ...]."""
        found, first = [], 0
        for shard in self.shards:
            phones = _phones_by_utterance(shard, self.states.phones)
            for utterance, said in zip(shard.utterances, phones, strict=True):
                found.append({**utterance, "index": len(found), "first": first, "phones": said})
                first += utterance["frames"]
        return found

    @cached_property
    def offsets(self) -> np.ndarray:
        """The first frame of each shard, and the number of frames: int64 [shards + 1]."""
        return np.concatenate([[0], np.cumsum([shard.frames for shard in self.shards])])

    def pool(self, which: Sequence[int], device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """The features [rows, 40] of some shards, in memory, and each of their frames' window row int64 [frames].

        The last pool asked for is kept: a set that fits into one is read once, for however many networks.
        """
        key = (tuple(which), str(device))
        with self._pooling:
            if key not in self._pooled:
                self._pooled = {}  # let go of the old one first
                self._pooled = {key: self.read(which, device)}
            return self._pooled[key]

    def read(self, which: Sequence[int], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """The features [rows, 40] of these shards, one after the other, and each frame's row int64 [frames]."""
        rows, features, first = [], [], 0
        for i in which:
            rows.append(self.shards[i].window_rows() + first)
            features.append(self.shards[i].features)
            first += len(features[-1])
        return torch.from_numpy(np.concatenate(features)).to(device), torch.from_numpy(np.concatenate(rows)).to(device)

    def windows(
        self, device: torch.device | str = "cpu", chunk: int = 8192, which: torch.Tensor | None = None
    ) -> Iterator[torch.Tensor]:
        """Windows in order, float16 [<= chunk, 1040] at a time, a shard in memory at once.

        which: the frames whose windows are wanted, ascending; None for all.
        """
        cuts = self.offsets if which is None else self.cuts(which)
        for i, (start, end) in enumerate(pairwise(cuts.tolist())):
            if start == end:
                continue
            features, rows = self.read([i], device)
            if which is not None:
                rows = rows[(which[start:end] - int(self.offsets[i])).to(rows.device)]
            for part in rows.split(chunk):
                yield cut_windows(features, part)

    def cuts(self, which: torch.Tensor) -> np.ndarray:
        """Where each shard's frames begin in `which` (ascending), and its length: int64 [shards + 1]."""
        return np.searchsorted(which.numpy(), self.offsets)


def _phones_by_utterance(shard: Shard, labels: Sequence[str]) -> list[list[tuple[str, int, int]]]:
    found: list[list[tuple[str, int, int]]] = [[] for _ in shard.utterances]
    for utterance, phone, start, end in shard.segments[:, [0, 1, 4, 5]].tolist():
        found[utterance].append((labels[phone], start, end))
    return found


def share_of(split: Frames, fraction: float, sampling: str, seed: int) -> torch.Tensor:
    """A random share of a split's frames, int64 [n], ascending; a smaller share of the same seed lies within.

    sampling: "utterances", whole ones, as many of every speaker (rounded so that the whole share is right); "frames",
    single frames from anywhere.
    Raises ValueError for another sampling.
    """
    if fraction == 1:
        return torch.arange(len(split))
    generator = torch.Generator().manual_seed(seed)
    if sampling == "frames":
        order = torch.randperm(len(split), generator=generator)
        return order[: max(1, round(fraction * len(split)))].sort().values
    if sampling != "utterances":
        raise ValueError(f'sampling must be "utterances" or "frames", not {sampling!r}.')
    chosen = _stratified(split.utterances, fraction, generator)
    return torch.cat([torch.arange(u["first"], u["first"] + u["frames"]) for u in chosen])


def _stratified(utterances: Sequence[Mapping], fraction: float, generator: torch.Generator) -> list[Mapping]:
    """A share of the utterances, spread as evenly over the speakers as whole utterances allow, in their order."""
    by_speaker: dict[str, list[Mapping]] = {}
    for utterance in utterances:
        by_speaker.setdefault(utterance["speaker"], []).append(utterance)
    # Each utterance's place in its speaker's shuffled list, as a share; ties between speakers broken at random.
    placed = []
    for spoken in by_speaker.values():
        order = torch.randperm(len(spoken), generator=generator).tolist()
        offset = torch.rand((), generator=generator).item()
        placed += [((rank + offset) / len(spoken), spoken[i]["first"], spoken[i]) for rank, i in enumerate(order)]
    placed.sort(key=lambda row: row[:2])
    count = max(1, round(fraction * len(placed)))
    return sorted((row[2] for row in placed[:count]), key=lambda utterance: utterance["first"])


def cut_windows(features: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Windows [n, 26 * 40] that begin at these rows of contiguous features [rows, 40]."""
    overlapping = features.as_strided(
        (len(features) - WINDOW_FRAMES + 1, WINDOW_FRAMES * COEFFICIENTS), (COEFFICIENTS, 1)
    )
    return overlapping.index_select(0, rows)


@dataclass(frozen=True)
class Speech:
    """A corpus ready to be trained on: frames of the three splits, and the states that they are labelled with."""

    name: str
    fingerprint: str
    corpus: Corpus
    states: States
    train: Frames
    validation: Frames
    test: Frames

    def split(self, name: str) -> Frames:
        """The frames of "train", "validation" or "test"."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def hours(self) -> float:
        """Of training speech."""
        return len(self.train) / 360_000


def load_speech(
    corpus: Corpus,
    cache: Path,
    states: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Speech:
    """Prepare a corpus (or find it prepared) and map it.

    cache: where prepared corpora are kept. states: how many tied tri-phone states, None for three a phone.
    Raises InputError for whatever is wrong with the corpus, and for fewer states than three a phone.
    """
    folder, paths = shards.prepare(corpus, cache, progress=progress)
    parts = {split: [shards.load(path) for path in paths[split]] for split in SPLITS}
    if states is None:
        tied = monophone_states(corpus.phones)
    else:
        segments = np.concatenate([shard.segments for shard in parts["train"]])
        occurrences = np.column_stack([segments[:, 1:4], segments[:, 5] - segments[:, 4]])
        tied = tied_states(corpus.phones, occurrences, states)
    splits = [Frames(parts[split], tied) for split in SPLITS]
    return Speech(corpus.name, folder.name.rsplit("-", 1)[1], corpus, tied, *splits)
