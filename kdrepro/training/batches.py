"""Cases as a training sees them: on the device, shuffled and moved anew for each epoch, with a teacher's logits."""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from kdrepro.checks import (
    NO_LABEL,
    are_probabilities,
    as_labels,
    as_logits,
    as_tensor,
    check_device,
    check_network,
    check_numbers,
    check_whole,
)
from kdrepro.training.datasets import as_cases
from kdrepro.training.identity import digest
from kdrepro.training.inference import logits


@dataclass(frozen=True)
class Batch:
    """Cases of one step: inputs [B, ...] as stored, labels [B] or None, teacher_logits [B, C] or None.

    check: whether an objective is to look at values, as the losses' `check` says. A training on a GPU, which would wait
    each time, says so in the first step of each epoch only.
    """

    inputs: torch.Tensor
    labels: torch.Tensor | None = None
    teacher_logits: torch.Tensor | None = None
    check: bool = True


BATCH_SIZE = 256


class Sampler(Protocol):
    """Chooses the cases of an epoch, always as many."""

    def __len__(self) -> int: ...

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Indices of the cases, int64 [len(self)], on the generator's device."""


class CaseSource(Protocol):
    """What a training takes its cases from: `Batches`, `acoustic.FrameBatches`, or a class of one's own.

    These four it must have. It may have `teacher`, a network of which the training asks the logits where its batches
    bring none; `labels` [N] of all cases, which a training on a GPU looks at as each epoch begins (of a wrong one that
    it has not seen PyTorch raises an error of its own); `fingerprint`, a text that changes with the cases, which a
    checkpoint needs; and `kind` with `bytes_a_case` (see `Batches`), without which its networks train one after the
    other.
    """

    device: torch.device
    cases: int  # of an epoch

    def __len__(self) -> int:
        """Steps of an epoch."""
        ...

    def views(self, generator: torch.Generator) -> Iterator[Batch]:
        """The steps of one epoch; the generator is drawn from in the same way each time."""
        ...


def check_source(batches: Any) -> None:
    """Raises ValueError for what is no `CaseSource`, before anything is trained."""
    missing = [name for name in ("device", "cases", "__len__", "views") if not hasattr(batches, name)]
    if missing:
        raise ValueError(
            f"batches is a {type(batches).__name__} without `{missing[0]}`: wrap what you have, "
            "training.Batches(inputs, labels) or training.Batches(loader), or see training.CaseSource."
        )
    if len(batches) < 1:
        raise ValueError(f"batches is a {type(batches).__name__} of no steps: there is nothing to train on.")
    teacher = getattr(batches, "teacher", None)
    if teacher is not None:
        check_device(check_network(teacher, "teacher"), batches.device, "teacher")


class Asked(nn.Module):
    """A function of inputs [B, ...] to logits [B, C], as the network that a teacher is."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the function says of inputs."""
        return self.function(x)


class Batches:
    """Cases that live on the device, shuffled and cut anew for each epoch.

    inputs: [N, ...], uint8 images (0-255), floats, or integers of another kind, which are given to the network as they
        are; a tensor or an array, or a dataset, subset or loader that gives inputs with or without labels, or a list
        of (input, label) (see `datasets.as_cases`: but for tensors it is read once).
    labels: [N] class indices, -100 where a case has none, or None; they come from the dataset where it has them.
    batch_size: the most cases in a step, 256 or a loader's own unless given; an epoch is cut into equal steps (to one
        case), so that no small remainder takes a whole step of its own.
    jitter: shift each image [..., H, W] by up to this many pixels in each direction, zero-padded.
    flip: mirror each image, left to right, with probability one half.
    cutout: black out a square of this many pixels a side of each image, about a place of its own; 0 for none.
    mix: share of the images that are mixed with another one, at a weight of its own; such a case has no label (-100)
        and teaches by a teacher's soft targets alone. 0 for none.
    sampler: which cases an epoch has, drawn anew for each; None for all of them.
    teacher_logits: [N, C] computed once; refused together with whatever moves or mixes images, since they would belong
        to other views than the student sees.
    teacher: a network whose logits are computed on the very view that the student gets. In a training, its hidden
        layers multiply in the precision that the student's do (`training.Recipe`). Or any function of the student's
        inputs [B, ...] to logits [B, C].
    Raises ValueError for lengths or devices that differ, labels that are no class indices, and both kinds of teacher
    at once.
    """

    def __init__(
        self,
        inputs: Any,
        labels: Any = None,
        *,
        batch_size: int | None = None,
        jitter: int = 0,
        flip: bool = False,
        cutout: int = 0,
        mix: float = 0.0,
        sampler: Sampler | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher: nn.Module | Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        given = as_cases(inputs, "inputs", ordered=labels is not None or teacher_logits is not None)
        if labels is not None and given.labels is not None:
            raise ValueError("labels were given and inputs has labels of its own: leave one of them out.")
        inputs, labels = given.inputs, given.labels if labels is None else labels
        if len(inputs) == 0:
            raise ValueError("inputs is empty: there is nothing to train on.")
        labels = None if labels is None else _placed(as_tensor(labels, "labels"), labels, inputs, "labels")
        if labels is not None:
            labels = as_labels(labels, len(inputs))
            if bool((labels == NO_LABEL).all()):
                raise ValueError(f"labels holds nothing but {NO_LABEL}: pass labels=None where no case has a label.")
        teacher_logits = None if teacher_logits is None else _checked_logits(teacher_logits, inputs)
        batch_size = given.batch_size or BATCH_SIZE if batch_size is None else check_whole(batch_size, "batch_size", 1)
        if not 0 <= mix <= 1:
            raise ValueError(f"mix must lie between 0 and 1, a share of the images, not {mix}.")
        if jitter or flip or cutout or mix:
            _check_images(inputs, jitter, cutout)
        if teacher is not None and not isinstance(teacher, nn.Module) and callable(teacher):
            teacher = Asked(teacher)
        if teacher is not None:
            check_network(teacher, "teacher")
        if teacher is not None and teacher_logits is not None:
            raise ValueError("Give either teacher or teacher_logits, not both.")
        if teacher_logits is not None and (jitter or flip or cutout or mix):
            moved = "cutout or mix" if cutout or mix else "jitter or flip"
            raise ValueError(
                f"teacher_logits were computed on unshifted inputs, so they cannot be used with {moved}: "
                "pass teacher=network to compute them on the same view."
            )
        self.inputs, self.labels, self.teacher_logits = inputs, labels, teacher_logits
        self.batch_size, self.jitter, self.flip, self.teacher = batch_size, jitter, flip, teacher
        self.cutout, self.mix, self.sampler = cutout, mix, sampler

    @property
    def device(self) -> torch.device:
        """Where the cases lie."""
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
        moved = self.jitter or self.flip or self.cutout or self.mix
        copies = 3 if moved else 0 if self.device.type == "cpu" else 1  # see `_inputs`
        return copies * self.inputs[0].numel() * self.inputs.element_size() + 8

    @cached_property
    def fingerprint(self) -> str:
        """Of the cases, their labels and stored soft targets, and of how they are moved: hex digits."""
        moved = (self.jitter, self.flip, self.cutout, self.mix, self.sampler)
        return digest(self.inputs, self.labels, self.teacher_logits, moved)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """The steps of one epoch; all of the generator's draws happen before the first."""
        for batch in self.views(generator):
            yield batch if self.teacher is None else replace(batch, teacher_logits=logits(self.teacher, batch.inputs))

    def views(self, generator: torch.Generator) -> Iterator[Batch]:
        """As `epoch`, but nothing is asked of `teacher`: students that share one can put their questions together."""
        order = torch.randperm(self.cases, generator=generator, device=self.inputs.device)
        if self.sampler is not None:
            order = self.sampler.draw(generator)[order]
        steps, mixed = self._inputs(order, generator)
        labels, logits = (t if t is None else t.index_select(0, order) for t in (self.labels, self.teacher_logits))
        if labels is not None and mixed is not None:
            labels = labels.masked_fill(mixed, NO_LABEL)
        parts = [t if t is None else t.tensor_split(len(self)) for t in (labels, logits)]
        for i, x in enumerate(steps):
            yield Batch(x, *(part if part is None else part[i] for part in parts))

    def _inputs(
        self, order: torch.Tensor, generator: torch.Generator
    ) -> tuple[Iterable[torch.Tensor], torch.Tensor | None]:
        """The inputs of each step of an epoch, and which of all are mixed, bool [cases], where some are.

        Draws from the generator when it is called, not later.
        """
        if self.device.type == "cpu" and not (self.jitter or self.flip or self.cutout or self.mix):
            # A copy of all cases at once would take longer in being given fresh memory than in copying; a step's is
            # small enough to get what the last step's has left. index_select takes whole rows, indexing single numbers.
            return (self.inputs.index_select(0, which) for which in order.tensor_split(len(self))), None
        inputs = self.inputs.index_select(0, order)
        if self.jitter:
            inputs = shift_images(inputs, self.jitter, generator)
        if self.flip:
            inputs = flip_images(inputs, generator)
        if self.cutout:
            inputs = cut_out(inputs, self.cutout, generator)
        inputs, mixed = mix_images(inputs, self.mix, generator) if self.mix else (inputs, None)
        return inputs.tensor_split(len(self)), mixed


def _checked_logits(teacher_logits: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Stored logits, beside the inputs. Raises ValueError for what are none."""
    found = _placed(as_logits(teacher_logits, "teacher_logits", 2), teacher_logits, inputs, "teacher_logits")
    check_numbers(found, "teacher_logits")
    if len(found) > 1 and are_probabilities(found):
        raise ValueError("teacher_logits holds probabilities, each case's sum one: pass their logarithm, log p.")
    return found.detach()


def _check_images(inputs: torch.Tensor, jitter: int, cutout: int) -> None:
    """Raises ValueError for what cannot be moved as images are."""
    shape = list(inputs.shape)
    if inputs.dim() < 3:
        raise ValueError(f"jitter, flip, cutout and mix move images [N, ..., H, W]; inputs is {shape}.")
    if inputs.dim() == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        raise ValueError(
            f"inputs is {shape}, channels last, and jitter and flip would move the channels: pass "
            "inputs.permute(0, 3, 1, 2)."
        )
    if not 0 <= cutout <= min(shape[-2:]):
        raise ValueError(f"cutout must lie between 0 and {min(shape[-2:])} pixels for such images, not {cutout}.")
    if not 0 <= jitter < min(shape[-2:]):
        raise ValueError(f"jitter must lie between 0 and {min(shape[-2:]) - 1} pixels for such images, not {jitter}.")


def _placed(found: torch.Tensor, given: Any, inputs: torch.Tensor, name: str) -> torch.Tensor:
    """A tensor of as many cases as inputs, beside them; what was no tensor had no place of its own."""
    if found.dim() and len(found) != len(inputs):
        raise ValueError(f"{name} has {len(found)} cases but inputs has {len(inputs)}.")
    if isinstance(given, torch.Tensor) and found.device != inputs.device:
        raise ValueError(f"{name} is on {found.device} but inputs is on {inputs.device}: move one of them.")
    return found.to(inputs.device)


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


def cut_out(images: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Set a square of each image [..., H, W] to 0; a new tensor.

    Its centre is any of the image's pixels, so that at a border only a part of it is inside (DeVries & Taylor 2017).
    """
    height, width = images.shape[-2:]
    inside = []
    for length in (height, width):
        start = torch.randint(length, (len(images), 1), generator=generator, device=images.device) - side // 2
        place = torch.arange(length, device=images.device)
        inside.append((place >= start) & (place < start + side))
    square = inside[0][:, :, None] & inside[1][:, None, :]  # [N, H, W]
    return images.masked_fill(square.view(len(images), *[1] * (images.dim() - 3), height, width), 0)


def mix_images(
    images: torch.Tensor, share: float, generator: torch.Generator, at_once: int = 4096
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix a share of the images with other ones of them, pixel by pixel; and which these are, bool [N].

    The weight of each is drawn evenly between 0 and 1 (mixup with alpha 1, Zhang et al. 2018). uint8 stays uint8.
    """
    count = len(images)
    mixed = torch.rand(count, generator=generator, device=images.device) < share
    partner = torch.randperm(count, generator=generator, device=images.device)
    weight = torch.rand(count, generator=generator, device=images.device).view(-1, *[1] * (images.dim() - 1))
    found = images.clone()
    for which in mixed.nonzero().flatten().split(at_once):  # in parts, since floats take four times the memory
        together = torch.lerp(images[partner[which]].float(), images[which].float(), weight[which])
        found[which] = (together if images.is_floating_point() else together.round()).to(images.dtype)
    return found, mixed
