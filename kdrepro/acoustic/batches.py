"""Frames of speech, shuffled anew for each epoch: what `training.fit` trains an acoustic model on."""

import math
from collections.abc import Callable, Hashable, Iterator

import torch

from kdrepro.acoustic.frames import Frames, cut_windows
from kdrepro.acoustic.soft_targets import SoftTargets
from kdrepro.training import Batch, digest

POOL_FRAMES = 4_000_000  # frames whose features are in memory at once (320 MB); more stream from disk


class FrameBatches:
    """Windows of a split, shuffled anew for each epoch: what `training.fit` trains an acoustic model on.

    frames: a split. which: the frames to train on, int64 [n] in ascending order; None for all. batch_size: the most
    cases in a step. soft_targets: stored teacher logits of these frames, in the same order. teacher: computes logits
    [B, C] from every batch's inputs instead. device: where the batches come to lie. Where the shards hold
    more than `pool_frames`, as many of them as fit are in memory at once and shuffled together.
    Raises ValueError for an empty or unordered `which` and for both kinds of teacher at once.
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
        if int(which[0]) < 0 or int(which[-1]) >= len(frames) or bool((which.diff() <= 0).any()):
            raise ValueError(f"which must name frames from 0 to {len(frames) - 1:,} in ascending order, none twice.")
        if soft_targets is not None and len(soft_targets) != len(which):
            raise ValueError(f"soft_targets has {len(soft_targets)} frames where which has {len(which)}.")
        self.frames, self.batch_size = frames, batch_size
        self.device = torch.empty(0, device=device).device  # with its number, as tensors and networks there have it
        self.soft_targets, self.asked = soft_targets, teacher
        self.which, self.pools = which, self._pools(which, pool_frames)

    @property
    def cases(self) -> int:
        """Cases of an epoch."""
        return len(self.which)

    def __len__(self) -> int:
        return sum(math.ceil((end - start) / self.batch_size) for _, start, end in self.pools)

    @property
    def labels(self) -> torch.Tensor:
        """Of all cases, int32 [cases], on the CPU."""
        return self.frames.targets[self.which]

    @property
    def kind(self) -> Hashable:
        """What the batches of networks that train in step with each other have in common.

        None where the frames stream from disk, in an order of shards that each network has for itself.
        """
        return (self.cases, len(self), self.pools[0]) if len(self.pools) == 1 else None

    @property
    def bytes_a_case(self) -> int:
        """Memory that an epoch takes for a case: its place in the order and among the windows, and its label.

        Features are there once for all networks.
        """
        return 24

    @property
    def fingerprint(self) -> str:
        """Of the frames, their states and soft targets: hex digits."""
        soft = None if self.soft_targets is None else self.soft_targets.fingerprint
        return digest(self.frames.fingerprint, self.which, soft, self.asked)

    def _pools(self, which: torch.Tensor, pool_frames: int) -> list[tuple[tuple[int, ...], int, int]]:
        """Shards that fit into memory together, each with where its frames begin and end in `which`."""
        offsets = self.frames.offsets
        groups, held = [[0]], int(offsets[1])
        for i in range(1, len(offsets) - 1):
            size = int(offsets[i + 1] - offsets[i])
            if held + size > pool_frames:
                groups.append([])
                held = 0
            groups[-1].append(i)
            held += size
        cuts = self.frames.cuts(which)
        pools = [(tuple(shards), int(cuts[shards[0]]), int(cuts[shards[-1] + 1])) for shards in groups]
        return [pool for pool in pools if pool[2] > pool[1]]

    def views(self, generator: torch.Generator) -> Iterator[Batch]:
        """As `epoch`: a `teacher` here is asked by each network alone."""
        return self.epoch(generator)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """The steps of one epoch; the generator is drawn from at the start of each pool only."""
        for i in _shuffled(len(self.pools), generator).tolist():
            shards, start, end = self.pools[i]
            features, rows = self.frames.pool(shards, self.device)
            first = int(self.frames.offsets[shards[0]])
            order = _shuffled(end - start, generator) + start  # positions in `which`
            chosen = self.which[order]
            # All of them at once: a GPU would wait in each step for what is sent to it.
            begins = rows[(chosen - first).to(self.device)]
            labels = self.frames.targets[chosen].long().to(self.device)
            parts = (of.tensor_split(math.ceil((end - start) / self.batch_size)) for of in (order, begins, labels))
            for positions, windows, y in zip(*parts, strict=True):
                inputs = cut_windows(features, windows)
                yield Batch(inputs, y, self._teacher_logits(inputs, positions))

    def _teacher_logits(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor | None:
        if self.soft_targets is not None:
            return self.soft_targets.logits(positions.numpy(), self.device)
        return None if self.asked is None else self.asked(inputs)


def _shuffled(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).cpu()
