"""Frames of speech as cases: windows cut from memory-mapped shards, HMM states as labels, stored soft targets.

An acoustic model sees 26 frames x 40 log-mel coefficients and names the HMM state of the 21st (Section 4). A window is
a view into its utterance's frames, so that it costs no memory of its own.
"""

import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdrepro.errors import InputError
from kdrepro.files import read_array, remove_stale
from kdrepro.speech import shards
from kdrepro.speech.corpus import SPLITS, Corpus
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.speech.shards import LEFT, RIGHT, Shard
from kdrepro.speech.states import States, monophone_states, tied_states
from kdrepro.training import Batch, as_inputs, gains_from_bf16

WINDOW = LEFT + 1 + RIGHT
POOL_FRAMES = 4_000_000  # frames whose features are in memory at once (320 MB); more stream from disk


class Frames:
    """The frames of one split, in the order of its shards and of the utterances in them.

    shards: mapped from disk. states: what the targets are.
    """

    def __init__(self, parts: Sequence[Shard], states: States):
        self.shards, self.states = list(parts), states
        self._pooled: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pooling = threading.Lock()  # networks may train side by side
        self.targets = torch.from_numpy(np.concatenate([shard.targets(states) for shard in self.shards]))  # int32

    def __len__(self) -> int:
        return len(self.targets)

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
                self._pooled = {key: self._read(which, device)}
            return self._pooled[key]

    def _read(self, which: Sequence[int], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
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
            features, rows = self._read([i], device)
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
    overlapping = features.as_strided((len(features) - WINDOW + 1, WINDOW * COEFFICIENTS), (COEFFICIENTS, 1))
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


class SoftTargets:
    """Teacher logits of frames, on disk: all C of them, or the k largest with the rest shared as states are frequent.

    Made by `store_soft_targets`. A frame costs 2 C bytes whole, and 4 k bytes if only the k largest are kept.
    which: take only these of the stored frames.
    Raises InputError when the files are damaged or gone.
    """

    def __init__(self, folder: Path, which: torch.Tensor | None = None):
        self.which = None if which is None else which.numpy()
        try:
            self._map(folder)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The soft targets {folder} are damaged ({error}): delete that folder, and they are made anew."
            ) from error

    def _map(self, folder: Path) -> None:
        self.values = read_array(folder / "values.npy", mmap_mode="r")  # float16 [N, C or k]
        indices = folder / "indices.npy"
        self.indices = read_array(indices, mmap_mode="r") if indices.exists() else None
        if self.indices is not None:
            self.prior = torch.from_numpy(read_array(folder / "prior.npy"))  # mean over all frames
        self.classes = int((folder / "classes").read_text())

    def __len__(self) -> int:
        return len(self.values) if self.which is None else len(self.which)

    def logits(self, frames: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
        """Log-probabilities float32 [n, C] of the frames at these positions."""
        frames = frames if self.which is None else self.which[frames]
        values = torch.from_numpy(self.values[frames]).to(device).float()
        if self.indices is None:
            return values
        indices = torch.from_numpy(self.indices[frames].astype(np.int64)).to(device)
        return spread_rest(values, indices, self.classes, self.prior.to(device))


def spread_rest(
    values: torch.Tensor, indices: torch.Tensor, classes: int, prior: torch.Tensor | None = None
) -> torch.Tensor:
    """Log-probabilities [n, C] from the k largest [n, k] and their classes, in falling order.

    What they leave of 1 is shared in proportion to prior [C], or evenly. Evenly, a student learns that rare states are
    as likely as frequent ones wherever neither is among the k; divided by their priors, as a decoder does, the rare
    ones then win, and words go missing.
    """
    left = (1 - values.exp().sum(1, keepdim=True)).clamp(min=1e-6)
    even = (left / max(1, classes - values.shape[1])).expand(-1, classes)
    rest = even
    if prior is not None:
        rest = left / (prior.sum() - prior[indices].sum(1, keepdim=True)).clamp(min=1e-9) * prior
        # No state of the rest may pass one of those that were kept: where one would, evenly after all.
        passes = rest.scatter(1, indices, 0).amax(1, keepdim=True) > values[:, -1:].exp()
        rest = torch.where(passes, even, rest)
    rest = torch.minimum(rest.clamp(min=1e-30).log(), values[:, -1:])
    return rest.scatter(1, indices, values)


class FrameBatches:
    """Windows of a split, shuffled anew for each epoch: what `training.fit` trains an acoustic model on.

    frames: a split. which: the frames to train on, int64 [n] in ascending order; None for all. batch_size: the most
    cases in a step. soft_targets: stored teacher logits of these frames, in the same order. teacher: computes logits
    [B, C] from every batch's inputs instead. device: where the batches come to lie. Where the shards hold
    more than `pool_frames`, as many of them as fit are in memory at once and shuffled together.
    Raises ValueError for an empty `which` and for both kinds of teacher at once.
    """

    def __init__(
        self,
        frames: Frames,
        which: torch.Tensor | None = None,
        *,
        batch_size: int = 256,
        soft_targets: SoftTargets | None = None,
        teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
        device: torch.device | str = "cpu",
        pool_frames: int = POOL_FRAMES,
    ):
        if soft_targets is not None and teacher is not None:
            raise ValueError("Give either teacher or soft_targets, not both.")
        which = torch.arange(len(frames)) if which is None else which
        if len(which) == 0:
            raise ValueError("which is empty: there is nothing to train on.")
        if soft_targets is not None and len(soft_targets) != len(which):
            raise ValueError(f"soft_targets has {len(soft_targets)} frames where which has {len(which)}.")
        self.frames, self.batch_size, self.device = frames, batch_size, torch.device(device)
        self.soft_targets, self.teacher = soft_targets, teacher
        self.which, self.pools = which, self._pools(which, pool_frames)

    @property
    def cases(self) -> int:
        """Cases of an epoch."""
        return len(self.which)

    def __len__(self) -> int:
        return sum(math.ceil((end - start) / self.batch_size) for _, start, end in self.pools)

    @property
    def kind(self) -> Hashable:
        """What the batches of networks that train in step with each other have in common.

        None where the frames stream from disk, in an order of shards that each network has for itself.
        """
        return (self.cases, len(self), self.pools[0]) if len(self.pools) == 1 else None

    @property
    def bytes_a_case(self) -> int:
        """Memory that an epoch takes for a case: its place in the order. Features are there once for all networks."""
        return 8

    def _pools(self, which: torch.Tensor, pool_frames: int) -> list[tuple[tuple[int, ...], int, int]]:
        """Runs of shards that fit into memory together, each with where its frames begin and end in `which`."""
        offsets = self.frames.offsets
        runs, held = [[0]], int(offsets[1])
        for i in range(1, len(offsets) - 1):
            size = int(offsets[i + 1] - offsets[i])
            if held + size > pool_frames:
                runs.append([])
                held = 0
            runs[-1].append(i)
            held += size
        cuts = self.frames.cuts(which)
        pools = [(tuple(run), int(cuts[run[0]]), int(cuts[run[-1] + 1])) for run in runs]
        return [pool for pool in pools if pool[2] > pool[1]]

    def views(self, generator: torch.Generator) -> Iterator[Batch]:
        """As `epoch`: a `teacher` here is asked by each network alone."""
        return self.epoch(generator)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """The steps of one epoch; the generator is drawn from at the start of each pool only."""
        for i in _shuffled(len(self.pools), generator).tolist():
            run, start, end = self.pools[i]
            features, rows = self.frames.pool(run, self.device)
            first = int(self.frames.offsets[run[0]])
            order = _shuffled(end - start, generator) + start  # positions in `which`
            for positions in order.tensor_split(math.ceil((end - start) / self.batch_size)):
                chosen = self.which[positions]
                inputs = cut_windows(features, rows[(chosen - first).to(self.device)])
                labels = self.frames.targets[chosen].long().to(self.device)
                yield Batch(inputs, labels, self._teacher_logits(inputs, positions))

    def _teacher_logits(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor | None:
        if self.soft_targets is not None:
            return self.soft_targets.logits(positions.numpy(), self.device)
        return None if self.teacher is None else self.teacher(inputs)


def _shuffled(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).cpu()


def store_soft_targets(
    folder: Path,
    networks: Sequence[nn.Module],
    split: Frames,
    which: torch.Tensor | None = None,
    *,
    how: str = "arithmetic",
    top_k: int | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Write the networks' mean log-probabilities over frames of a split, to be read by `SoftTargets`.

    folder: where; whole or not at all, and left alone where another run was faster. which: the frames, ascending; None
    for all. how: see `ensembles.average`. top_k: states kept a frame, None for all of them.
    """
    count, classes = len(split) if which is None else len(which), len(split.states)
    top_k = None if top_k is None or top_k >= classes else top_k
    kept = classes if top_k is None else top_k
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent, f".{folder.name}.*")
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        values = _array(part / "values.npy", np.float16, (count, kept))
        indices = None if top_k is None else _array(part / "indices.npy", np.uint16, (count, kept))
        done, prior = 0, torch.zeros(classes, dtype=torch.float64)
        for found in _in_training_precision(networks, split, which, how, torch.device(device)):
            rows = slice(done, done + len(found))
            if top_k is None:
                values[rows] = found.clamp(min=-6e4).cpu().numpy()
            else:
                best = found.topk(kept, dim=1)
                values[rows], indices[rows] = best.values.clamp(min=-6e4).cpu().numpy(), best.indices.cpu().numpy()
            done += len(found)
            prior += found.exp().sum(0, dtype=torch.float64).cpu()
        del values, indices  # written out
        np.save(part / "prior.npy", (prior / count).float().numpy())
        (part / "classes").write_text(str(classes))
        part.chmod(0o755)  # mkdtemp's 0700 would keep a group out
        _put(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put(part: Path, folder: Path) -> None:
    """Rename a whole folder of soft targets into its place, unless another run has put one there meanwhile."""
    if (folder / "classes").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        os.replace(part, folder)
    except OSError:
        if not (folder / "classes").exists():
            raise


def _in_training_precision(networks, split: Frames, which, how: str, device: torch.device) -> Iterator[torch.Tensor]:
    """As `_log_probabilities`, with the products of hidden layers as in training: twice as fast on some processors."""
    with torch.autocast(device.type, torch.bfloat16, enabled=gains_from_bf16(device)):
        yield from _log_probabilities(networks, split, which, how, device)


def _array(path: Path, dtype: type, shape: tuple[int, int]) -> np.ndarray:
    """A new array on disk. Raises OSError where it does not fit: writing to a mapped file would kill the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _log_probabilities(networks, split: Frames, which: torch.Tensor | None, how: str, device) -> Iterator[torch.Tensor]:
    """The networks' mean log-probabilities over some frames of a split, in order, in chunks."""
    for inputs in split.windows(device, which=which):
        yield mean_log_probabilities(networks, inputs, how)


def by_utterance(
    networks: Sequence[nn.Module], split: Frames, how: str = "arithmetic", device: torch.device | str = "cpu"
) -> Iterator[tuple[list[dict[str, Any]], list[torch.Tensor]]]:
    """A split's utterances and their log-probabilities float32 [frames, C], a shard at a time.

    networks: one, or an ensemble that is averaged as `how` says.
    """
    done = 0
    for i, shard in enumerate(split.shards):
        features, rows = split._read([i], device)
        found = torch.cat(
            [mean_log_probabilities(networks, cut_windows(features, part), how) for part in rows.split(8192)]
        )
        utterances = split.utterances[done : done + len(shard.utterances)]
        done += len(utterances)
        yield utterances, list(found.split([utterance["frames"] for utterance in utterances]))


def accuracy(network: nn.Module, split: Frames, which: torch.Tensor, device: torch.device | str = "cpu") -> float:
    """Share of these frames (ascending) whose most probable state is the right one."""
    found = [p.argmax(1).cpu() for p in _log_probabilities([network], split, which, "arithmetic", device)]
    return (torch.cat(found) == split.targets[which]).float().mean().item()


@torch.no_grad()
def mean_log_probabilities(networks: Sequence[nn.Module], inputs: torch.Tensor, how: str = "arithmetic"):
    """Log of the mean of the networks' distributions at T = 1 (see `ensembles.average`), a network at a time.

    inputs: [n, 1040]. Returns float32 [n, C]. Raises ValueError when `how` is neither "arithmetic" nor "geometric".
    """
    if how not in ("arithmetic", "geometric"):
        raise ValueError(f'how must be "arithmetic" or "geometric", not {how!r}.')
    x = as_inputs(inputs)
    total = None
    for network in networks:
        found = network(x).float().log_softmax(1)
        found = found.exp_() if how == "arithmetic" else found
        total = found if total is None else total.add_(found)
    total.div_(len(networks))
    # A state that every member gives less than float32 can tell from 0 stays a finite logit.
    return total.clamp_(min=torch.finfo(total.dtype).tiny).log_() if how == "arithmetic" else total.log_softmax(1)
