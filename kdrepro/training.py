"""The one training loop: cases on the device, a recipe, an objective, a checkpoint.

`fit` trains one network and `fit_many` several; everything random comes from two generators made from
one seed, so that on a CPU the same seed gives the same weights bit for bit, also after an interruption.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from kdrepro.checkpoints import Checkpoint
from kdrepro.errors import InputError
from kdrepro.losses import distillation_loss, logit_matching_loss
from kdrepro.networks import clip_max_norm, use_generator

CHECKPOINT_SECONDS = 60.0  # at most this long between two checkpoints; there is one after every epoch too
MAX_NORM_EVERY = 4  # steps between two applications of the weight constraint; it drifts by little in between


class Recipe(BaseModel):
    """How a network is trained, apart from what it is trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)  # the peak of the schedule
    momentum: float = Field(0.9, ge=0, lt=1)  # Nesterov's for sgd, the first moment's decay for adam
    beta2: float = Field(0.999, ge=0, lt=1)  # adam's decay of the second moment
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up, down to 0
    warmup: float = Field(0.03, ge=0, lt=1)  # share of all steps over which the rate rises from 0
    weight_decay: float = Field(0.0, ge=0)
    max_norm: float | None = Field(None, gt=0)  # L2 norm of a hidden unit's incoming weights
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the hidden layers' matrix products

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at a step of `steps`."""
        progress = step / steps
        rising = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        falling = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "constant": 1.0,
        }[self.schedule]
        return self.learning_rate * rising * falling


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
    teacher: a network whose logits are computed on the very view that the student gets.
    Raises ValueError for lengths that differ and for both kinds of teacher at once.
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

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """The steps of one epoch; all of the generator's draws happen before the first."""
        order = torch.randperm(self.cases, generator=generator, device=self.inputs.device)
        if self.sampler is not None:
            order = self.sampler.draw(generator)[order]
        inputs = self.inputs[order]
        if self.jitter:
            inputs = shift_images(inputs, self.jitter, generator)
        if self.flip:
            inputs = flip_images(inputs, generator)
        others = [t if t is None else t[order].tensor_split(len(self)) for t in (self.labels, self.teacher_logits)]
        return self._steps(inputs.tensor_split(len(self)), *others)

    def _steps(self, inputs, labels, teacher_logits) -> Iterator[Batch]:
        for i, x in enumerate(inputs):
            if self.teacher is not None:
                v = logits(self.teacher, x)
            else:
                v = None if teacher_logits is None else teacher_logits[i]
            yield Batch(x, None if labels is None else labels[i], v)


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
        shifted[which] = padded[..., top : top + height, left : left + width][which]
    return shifted


def flip_images(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image [..., H, W] left to right with probability one half; a new tensor."""
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped.view(-1, *[1] * (images.dim() - 1)), images.flip(-1), images)


Objective = Callable[[torch.Tensor, Batch], torch.Tensor]  # (logits [B, C], batch) -> scalar loss


def hard_targets(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the labels: ordinary training."""
    return F.cross_entropy(student_logits, batch.labels)


def soft_targets(temperature: float, soft_weight: float = 1.0) -> Objective:
    """Distillation (Section 2): `losses.distillation_loss` of the batch's teacher logits and labels."""

    def objective(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return distillation_loss(
            student_logits, batch.teacher_logits, batch.labels, temperature=temperature, soft_weight=soft_weight
        )

    return objective


def matched_logits(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logit matching (Section 2.1): `losses.logit_matching_loss` of the batch's teacher logits."""
    return logit_matching_loss(student_logits, batch.teacher_logits)


def as_inputs(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Stored cases as a network takes them: uint8 pixels become floats in [0, 1]; floats stay."""
    return x.to(dtype).div_(255) if x.dtype == torch.uint8 else x.to(dtype)


@torch.no_grad()
def logits(network: nn.Module, inputs: torch.Tensor, chunk: int = 4096) -> torch.Tensor:
    """A network's logits [N, C] in float32 and eval mode, in chunks; its mode is restored."""
    was_training = network.training
    network.eval()
    found = torch.cat([network(as_inputs(x)).float() for x in inputs.split(chunk)])
    network.train(was_training)
    return found


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively, and so faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, hence the fallback
    return device.type == "cpu" and native is not None and native()


def fit(
    network: nn.Module,
    batches: Batches,
    objective: Objective,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None,
    evaluate_every: int = 1,
    keep_best: str | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network in place and return its history, a row an epoch.

    network: on the batches' device; returns logits. objective: see `hard_targets`, `soft_targets`.
    seed: of the order of cases, the jitter and the dropout masks.
    checkpoint: resumed from if it holds a state; saved after every epoch and every 60 s within one.
        On a CPU the resumed training ends bit for bit where an uninterrupted one does.
    evaluate: gives figures to add to a row, every `evaluate_every` epochs and after the last.
    keep_best: early stopping after the fact: the network ends with the weights of the row in which this figure of
        `evaluate` was highest (the first such row), not with the last ones; the history keeps all rows.
    progress: called with each finished row.
    A row: epoch (from 1), loss (mean over the epoch), cases_per_second, seconds (since the start,
    interruptions left out), and what evaluate gave.
    Raises InputError when the loss is no longer finite; the last checkpoint stays.
    """
    run = _Run(network, batches, objective, recipe, seed)
    history = run.resume(checkpoint)
    with _denormals_flushed():
        for epoch in range(run.epoch, recipe.epochs):
            row = run.train_epoch(epoch, checkpoint, history)
            if evaluate and ((epoch + 1) % evaluate_every == 0 or epoch + 1 == recipe.epochs):
                row.update(evaluate(network))
                run.note_best(row, keep_best)
            history.append(row)
            run.finish_epoch(checkpoint, history)
            if progress:
                progress(row)
    run.restore_best(keep_best)
    use_generator(network, None)
    network.eval()
    return history


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Let the processor take numbers below 1e-38 for 0.

    Adam's averages of gradients that have become 0 (an image's border, a dead unit) decay into that range, the
    faster the smaller its betas; there a processor is many times slower. Such numbers are far too small to
    change a weight.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def fit_many(
    networks: Sequence[nn.Module],
    batches: Sequence[Batches],
    objectives: Sequence[Objective],
    recipes: Sequence[Recipe],
    *,
    seeds: Sequence[int],
    checkpoints: Sequence[Checkpoint | None] | None = None,
    evaluate: Sequence[Callable[[nn.Module], dict[str, Any]]] | None = None,
    progress: Sequence[Callable[[dict[str, Any]], None]] | None = None,
    **options,
) -> list[list[dict[str, Any]]]:
    """Train several networks, each with its own cases, objective, recipe and seed; returns their histories.

    evaluate, progress: one a network, see `fit`; options: what else `fit` takes, the same for all.
    One after the other for now: each member gets exactly what `fit` alone would give it.
    Raises ValueError when the sequences differ in length.
    """
    none = [None] * len(networks)
    own = zip(seeds, checkpoints or none, evaluate or none, progress or none, strict=True)
    members = zip(networks, batches, objectives, recipes, own, strict=True)
    return [
        fit(n, b, o, r, seed=seed, checkpoint=checkpoint, evaluate=evaluated, progress=shown, **options)
        for n, b, o, r, (seed, checkpoint, evaluated, shown) in members
    ]


class _Run:
    """The state of one training, and how it is saved and restored."""

    def __init__(self, network: nn.Module, batches: Batches, objective: Objective, recipe: Recipe, seed: int):
        self.network, self.batches, self.objective, self.recipe = network, batches, objective, recipe
        self.device = batches.device
        self.optimizer = _optimizer(network, recipe)
        # Two generators: `order` is drawn from only at the start of an epoch, so a checkpoint within
        # one can redo the epoch's order and jitter from the state at its start.
        self.order = torch.Generator(self.device).manual_seed(_mix(seed, 1))
        self.noise = torch.Generator(self.device).manual_seed(_mix(seed, 2))
        use_generator(network, self.noise)
        bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and gains_from_bf16(self.device))
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.best: dict[str, torch.Tensor] = {}  # weights of the best row so far, with its figure as "figure"
        self.order_at_start = self.order.get_state()
        self.saved_at = time.monotonic()

    def train_epoch(self, epoch: int, checkpoint: Checkpoint | None, history: list) -> dict[str, Any]:
        self.network.train()
        self.order_at_start = self.order.get_state()
        began, first, before = time.monotonic(), self.step, self.seconds
        losses = torch.zeros((), device=self.device)
        for i, batch in enumerate(self.batches.epoch(self.order)):
            if i < first:  # done before the interruption
                continue
            losses += self._take_step(batch, epoch * len(self.batches) + i)
            self.step = i + 1
            if checkpoint and time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                self.seconds = before + time.monotonic() - began
                self._save(checkpoint, history, self.loss_sum + losses.item())
        total = self.loss_sum + losses.item()
        if not math.isfinite(total):
            raise InputError(
                f"The training loss is {total} after epoch {epoch + 1}: "
                f"lower the learning rate ({self.recipe.learning_rate}) or check the data for NaN."
            )
        took = time.monotonic() - began
        self.seconds = before + took
        cases = self.batches.cases * (len(self.batches) - first) / len(self.batches)
        return {
            "epoch": epoch + 1,
            "loss": total / len(self.batches),
            "cases_per_second": round(cases / took) if took > 0 else 0,
            "seconds": round(self.seconds, 3),
        }

    def _take_step(self, batch: Batch, step: int) -> torch.Tensor:
        recipe = self.recipe
        rate = recipe.rate(step, recipe.epochs * len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.network(as_inputs(batch.inputs, self.dtype))
        loss = self.objective(output, batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if recipe.max_norm and (step + 1) % MAX_NORM_EVERY == 0:
            clip_max_norm(self.network, recipe.max_norm)
        return loss.detach()

    def finish_epoch(self, checkpoint: Checkpoint | None, history: list) -> None:
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        if self.recipe.max_norm and self.epoch == self.recipe.epochs:
            clip_max_norm(self.network, self.recipe.max_norm)
        if checkpoint:
            self.order_at_start = self.order.get_state()
            self._save(checkpoint, history, 0.0)
            checkpoint.history = history

    def note_best(self, row: dict[str, Any], figure: str | None) -> None:
        """Keep a copy of the weights when a row's figure is the highest so far."""
        if figure is not None and (not self.best or row[figure] > self.best["figure"].item()):
            if self.recipe.max_norm:
                clip_max_norm(self.network, self.recipe.max_norm)
            weights = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self.best = {**weights, "figure": torch.tensor(row[figure], dtype=torch.float64)}

    def restore_best(self, figure: str | None) -> None:
        if figure is not None and not self.best:
            raise ValueError(f"keep_best names {figure!r}, a figure of evaluate, which is not given.")
        if figure is not None:
            self.network.load_state_dict({name: t for name, t in self.best.items() if name != "figure"})

    def _save(self, checkpoint: Checkpoint, history: list, loss_sum: float) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items() if v is not None}
        tensors |= {"generator.order": self.order_at_start, "generator.noise": self.noise.get_state()}
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": loss_sum,
            "seconds": self.seconds,
            "history": history,
        }
        checkpoint.save(tensors, state)
        self.saved_at = time.monotonic()

    def resume(self, checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
        saved = checkpoint.load() if checkpoint else None
        if saved is None:
            return []
        tensors, state = saved
        self.network.load_state_dict(_under(tensors, "network."))
        self.best = _under(tensors, "best.")
        packed = self.optimizer.state_dict()
        packed["state"] = {}
        for name, tensor in _under(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            packed["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(packed)
        self.order.set_state(tensors["generator.order"])
        self.noise.set_state(tensors["generator.noise"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.loss_sum, self.seconds = state["loss_sum"], state["seconds"]
        checkpoint.history = state["history"]
        return list(state["history"])


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(
            parameters, lr=0.0, betas=(recipe.momentum, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        lr=0.0,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _mix(seed: int, stream: int) -> int:
    """Seeds of separate streams that do not meet when user seeds are consecutive."""
    return (seed * 1_000_003 + stream * 7_919) % 2**63
