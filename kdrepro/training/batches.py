"""Cases as a training sees them: on the device, shuffled and moved anew for each epoch, with a teacher's logits."""

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from kdrepro.training.inference import logits


@dataclass(frozen=True)
class Batch:
    """Cases of one step: inputs [B, ...] as stored, labels [B] or None, teacher_logits [B, C] or None."""

    inputs: torch.Tensor
    labels: torch.Tensor | None = None
    teacher_logits: torch.Tensor | None = None


class Sampler(Protocol):
    """Chooses the cases of an epoch, always as many."""

    def __len__(self) -> int: ...

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Indices of the cases, int64 [len(self)], on the generator's device."""


class Batches:
    """Cases that live on the device, shuffled and cut anew for each epoch.

    inputs: [N, ...], uint8 images (0-255) or floats. labels: [N] class indices, or None.
    batch_size: the most cases in a step; an epoch is cut into equal steps (to one case), so that no
        small remainder takes a whole step of its own.
    jitter: shift each image [..., H, W] by up to this many pixels in each direction, zero-padded.
    flip: mirror each image, left to right, with probability one half.
    sampler: which cases an epoch has, drawn anew for each; None for all of them.
    teacher_logits: [N, C] computed once; refused together with jitter or flip, since they would belong to
        other views than the student sees.
    teacher: a network whose logits are computed on the very view that the student gets. In a training, its hidden
        layers multiply in the precision that the student's do (`training.Recipe`).
    Raises ValueError for lengths or devices that differ and for both kinds of teacher at once.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        batch_size: int = 256,
        jitter: int = 0,
        flip: bool = False,
        sampler: Sampler | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher: nn.Module | None = None,
    ):
        for name, other in (("labels", labels), ("teacher_logits", teacher_logits)):
            if other is not None and len(other) != len(inputs):
                raise ValueError(f"{name} has {len(other)} cases but inputs has {len(inputs)}.")
            if other is not None and other.device != inputs.device:
                raise ValueError(f"{name} is on {other.device} but inputs is on {inputs.device}: move one of them.")
        if len(inputs) == 0:
            raise ValueError("inputs is empty: there is nothing to train on.")
        if teacher is not None and teacher_logits is not None:
            raise ValueError("Give either teacher or teacher_logits, not both.")
        if teacher_logits is not None and (jitter or flip):
            raise ValueError(
                "teacher_logits were computed on unshifted inputs, so they cannot be used with jitter or flip: "
                "pass teacher=network to compute them on the same view."
            )
        self.inputs, self.labels, self.teacher_logits = inputs, labels, teacher_logits
        self.batch_size, self.jitter, self.flip, self.teacher = batch_size, jitter, flip, teacher
        self.sampler = sampler

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @property
    def cases(self) -> int:
        """Cases of an epoch."""
        return len(self.inputs) if self.sampler is None else len(self.sampler)

    def __len__(self) -> int:
        return math.ceil(self.cases / self.batch_size)

    @property
    def kind(self) -> Hashable:
        """What the batches of networks that train in step with each other have in common."""
        return self.cases, len(self), tuple(self.inputs.shape[1:]), self.inputs.dtype, self.labels is None

    @property
    def bytes_a_case(self) -> int:
        """Memory that an epoch takes for a case: its moved copies and its place in the order."""
        moved = self.jitter or self.flip
        copies = 3 if moved else 0 if self.device.type == "cpu" else 1  # see `_inputs`
        return copies * self.inputs[0].numel() * self.inputs.element_size() + 8

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """The steps of one epoch; all of the generator's draws happen before the first."""
        for batch in self.views(generator):
            yield batch if self.teacher is None else replace(batch, teacher_logits=logits(self.teacher, batch.inputs))

    def views(self, generator: torch.Generator) -> Iterator[Batch]:
        """As `epoch`, but nothing is asked of `teacher`: students that share one can put their questions together."""
        order = torch.randperm(self.cases, generator=generator, device=self.inputs.device)
        if self.sampler is not None:
            order = self.sampler.draw(generator)[order]
        steps = self._inputs(order, generator)
        parts = [
            t if t is None else t.index_select(0, order).tensor_split(len(self))
            for t in (self.labels, self.teacher_logits)
        ]
        for i, x in enumerate(steps):
            yield Batch(x, *(part if part is None else part[i] for part in parts))

    def _inputs(self, order: torch.Tensor, generator: torch.Generator) -> Iterable[torch.Tensor]:
        """The inputs of each step of an epoch; draws from the generator when it is called, not later."""
        if self.device.type == "cpu" and not (self.jitter or self.flip):
            # A copy of all cases at once would take longer in being given fresh memory than in copying; a step's is
            # small enough to get what the last step's has left. index_select takes whole rows, indexing single numbers.
            return (self.inputs.index_select(0, which) for which in order.tensor_split(len(self)))
        inputs = self.inputs.index_select(0, order)
        if self.jitter:
            inputs = shift_images(inputs, self.jitter, generator)
        if self.flip:
            inputs = flip_images(inputs, generator)
        return inputs.tensor_split(len(self))


def shift_images(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by its own whole number of pixels, uniform in [-pixels, pixels] each way.

    images: [N, ..., H, W], any dtype; what is moved in is 0. Returns a new tensor of the same shape.
    All images that share a shift are cropped from the padded set together: (2 * pixels + 1)^2 slices
    in all, where indexing pixel by pixel costs many times as much.
    """
    if pixels == 0:
        return images
    count, *_, height, width = images.shape
    side = 2 * pixels + 1
    shifts = torch.randint(side * side, (count,), generator=generator, device=images.device)
    padded = F.pad(images, (pixels, pixels, pixels, pixels))
    shifted = torch.empty_like(images)
    order = torch.argsort(shifts)
    ends = torch.bincount(shifts, minlength=side * side).cumsum(0).tolist()
    for shift, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        which = order[start:end]
        top, left = divmod(shift, side)
        cropped = padded.index_select(0, which)[..., top : top + height, left : left + width]
        shifted.index_copy_(0, which, cropped)
    return shifted


def flip_images(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image [..., H, W] left to right with probability one half; a new tensor."""
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped.view(-1, *[1] * (images.dim() - 1)), images.flip(-1), images)
