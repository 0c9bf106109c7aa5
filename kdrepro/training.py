"""The one training loop: cases on the device, a recipe, an objective, a checkpoint.

`fit` trains one network and `fit_many` several; everything random comes from two generators made from
one seed, so that on a CPU the same seed gives the same weights bit for bit, also after an interruption.
"""

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from kdrepro.batches import Batch, Batches, Sampler, as_inputs, flip_images, logits, shift_images
from kdrepro.checkpoints import Checkpoint
from kdrepro.errors import InputError
from kdrepro.networks import MLP, clip_max_norm, use_generator
from kdrepro.objectives import Objective, hard_targets, matched_logits, of_many, soft_targets
from kdrepro.stacks import Stack, shape_of

__all__ = [
    "Batch",
    "Batches",
    "Objective",
    "Recipe",
    "Sampler",
    "as_inputs",
    "fit",
    "fit_many",
    "flip_images",
    "gains_from_bf16",
    "hard_targets",
    "logits",
    "matched_logits",
    "shift_images",
    "soft_targets",
]

CHECKPOINT_SECONDS = 60.0  # at most this long between two checkpoints; there is one after every epoch too
LANES = 16  # numbers that a processor's vector instructions take at once, at the most
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
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of hidden layers' matrix products, an online teacher's too

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
    run = _Run(network, batches, objective, recipe, seed, checkpoint, evaluate, progress, evaluate_every, keep_best)
    _train([run], _Alone(run))
    return run.history


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
    evaluate_every: int = 1,
    keep_best: str | None = None,
) -> list[list[dict[str, Any]]]:
    """Train several networks, each with its own cases, objective, recipe and seed; returns their histories.

    checkpoints, evaluate, progress: one a network; these and what else is given are as in `fit`.
    Each member gets what `fit` alone would give it, to rounding, and on a CPU the same bits whatever it is trained
    with. `MLP`s of one shape, with as many cases each, and with recipes that differ in nothing but the learning rate,
    train together as batched matrix products, as many at once as memory holds; a row's seconds are then the member's
    share of the time. All others train one after the other.
    Raises ValueError when the sequences differ in length, and InputError as `fit` does.
    """
    none = [None] * len(networks)
    members = zip(
        networks,
        batches,
        objectives,
        recipes,
        seeds,
        none if checkpoints is None else checkpoints,
        none if evaluate is None else evaluate,
        none if progress is None else progress,
        strict=True,
    )
    runs = [_Run(*member, evaluate_every, keep_best) for member in members]
    for group in _groups(runs):
        _train(group, _Together(group) if group[0].stackable else _Alone(group[0]))
    return [run.history for run in runs]


def _groups(runs: Sequence["_Run"]) -> list[list["_Run"]]:
    """Runs that can train together, in the order of their first members."""
    alike: dict[Any, list[_Run]] = {}
    for run in runs:
        alike.setdefault(run.kind(), []).append(run)
    groups = []
    for members in alike.values():
        most = max(1, memory_budget(members[0].device) // members[0].bytes_needed()) if len(members) > 1 else 1
        groups += [members[i : i + most] for i in range(0, len(members), most)]
    return groups


def memory_budget(device: torch.device) -> int:
    """Bytes that networks which train together may take: half of a GPU's free memory, a quarter of a machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _train(runs: Sequence["_Run"], steps: "_Alone | _Together") -> None:
    """Train one network, or several in step with each other."""
    try:
        with _denormals_flushed():
            for epoch in range(runs[0].epoch, runs[0].recipe.epochs):
                _train_epoch(runs, steps, epoch)
                for run in runs:
                    run.finish_epoch(steps)
    finally:
        steps.close()
    for run in runs:
        run.restore_best()
        use_generator(run.network, None)
        run.network.eval()


def _train_epoch(runs: Sequence["_Run"], steps: "_Alone | _Together", epoch: int) -> None:
    for run in runs:
        run.start_epoch()
    began, count, first = time.monotonic(), len(runs[0].batches), runs[0].step
    losses = torch.zeros(len(runs), device=runs[0].device)
    saved_at = began
    for i, batches in enumerate(steps.epoch()):
        if i < first:  # done before the interruption
            continue
        losses += steps.take(batches, epoch * count + i)
        now = time.monotonic()
        if now - saved_at > CHECKPOINT_SECONDS:
            for run, loss in zip(runs, losses.tolist(), strict=True):
                run.save_within(steps, i + 1, loss, (now - began) / len(runs))
            saved_at = now
    took = (time.monotonic() - began) / len(runs)
    for run, loss in zip(runs, losses.tolist(), strict=True):
        run.note_epoch(epoch, loss, took, share=(count - first) / count)


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


class _Run:
    """The training of one network: what it is made of, how far it is, and how that is saved and restored."""

    def __init__(
        self,
        network: nn.Module,
        batches: Batches,
        objective: Objective,
        recipe: Recipe,
        seed: int,
        checkpoint: Checkpoint | None,
        evaluate: Callable[[nn.Module], dict[str, Any]] | None,
        progress: Callable[[dict[str, Any]], None] | None,
        evaluate_every: int,
        keep_best: str | None,
    ):
        self.network, self.batches, self.objective, self.recipe = network, batches, objective, recipe
        self.checkpoint, self.evaluate, self.progress = checkpoint, evaluate, progress
        self.evaluate_every, self.keep_best = evaluate_every, keep_best
        self.device = batches.device
        # Two generators: `order` is drawn from only at the start of an epoch, so a checkpoint within
        # one can redo the epoch's order and jitter from the state at its start.
        self.order = torch.Generator(self.device).manual_seed(_mix(seed, 1))
        self.noise = torch.Generator(self.device).manual_seed(_mix(seed, 2))
        use_generator(network, self.noise)
        bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and gains_from_bf16(self.device))
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}  # weights of the best row so far, with its figure as "figure"
        self.moments: dict[int, dict[str, torch.Tensor]] = {}  # the optimiser's, of each parameter, when restored
        self.order_at_start = self.order.get_state()
        self._resume()

    @property
    def stackable(self) -> bool:
        """Whether this network can train as one of many."""
        return isinstance(self.network, MLP) and type(self.batches) is Batches

    def kind(self) -> Any:
        """What networks that train together have in common."""
        if not self.stackable:
            return id(self)
        cases, inputs = self.batches.cases, self.batches.inputs
        recipe = self.recipe.model_copy(update={"learning_rate": 1.0})
        return (
            shape_of(self.network),
            (cases, len(self.batches), tuple(inputs.shape[1:]), inputs.dtype, self.batches.labels is None),
            (recipe, self.dtype, str(self.device)),
            (self.epoch, self.step),
        )

    def bytes_needed(self) -> int:
        """Memory of this training among others: its cases of an epoch, moved; weights, gradients and moments."""
        one_case = self.batches.inputs[0].numel() * self.batches.inputs.element_size()
        copies = 3 if self.batches.jitter or self.batches.flip else 1
        return copies * one_case * self.batches.cases + 4 * 4 * sum(p.numel() for p in self.network.parameters())

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from the first epoch's first."""
        return self.recipe.rate(step, self.recipe.epochs * len(self.batches))

    def start_epoch(self) -> None:
        self.network.train()
        self.order_at_start = self.order.get_state()

    def note_epoch(self, epoch: int, loss: float, took: float, share: float) -> None:
        """Add an epoch's row to the history. took: seconds; share: of the epoch that they were spent on."""
        total = self.loss_sum + loss
        self._check_finite(total)
        self.seconds += took
        row = {
            "epoch": epoch + 1,
            "loss": total / len(self.batches),
            "cases_per_second": round(self.batches.cases * share / took) if took > 0 else 0,
            "seconds": round(self.seconds, 3),
        }
        if self.evaluate and ((epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.recipe.epochs):
            row.update(self.evaluate(self.network))
            self._note_best(row)
        self.history.append(row)

    def finish_epoch(self, steps: "_Alone | _Together") -> None:
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        if self.recipe.max_norm and self.epoch == self.recipe.epochs:
            clip_max_norm(self.network, self.recipe.max_norm)
        if self.checkpoint:
            self.order_at_start = self.order.get_state()
            self._save(steps, self.step, 0.0, self.seconds)
            self.checkpoint.history = self.history
        if self.progress:
            self.progress(self.history[-1])

    def _note_best(self, row: dict[str, Any]) -> None:
        """Keep a copy of the weights when a row's figure is the highest so far."""
        figure = self.keep_best
        if figure is not None and (not self.best or row[figure] > self.best["figure"].item()):
            if self.recipe.max_norm:
                clip_max_norm(self.network, self.recipe.max_norm)
            weights = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self.best = {**weights, "figure": torch.tensor(row[figure], dtype=torch.float64)}

    def restore_best(self) -> None:
        if self.keep_best is not None and not self.best:
            raise ValueError(f"keep_best names {self.keep_best!r}, a figure of evaluate, which is not given.")
        if self.keep_best is not None:
            self.network.load_state_dict({name: t for name, t in self.best.items() if name != "figure"})

    def save_within(self, steps: "_Alone | _Together", step: int, loss: float, took: float) -> None:
        """Save the state within an epoch, after `step` steps of it with this sum of losses, in `took` seconds."""
        if self.checkpoint:
            self._check_finite(self.loss_sum + loss)
            self._save(steps, step, self.loss_sum + loss, self.seconds + took)

    def _check_finite(self, loss: float) -> None:
        """Before every checkpoint, so that the last one is always one to go on from. loss: of this epoch so far."""
        if math.isfinite(loss) and all(p.isfinite().all() for p in self.network.parameters()):
            return
        what = "network has weights that are not finite" if math.isfinite(loss) else f"training loss is {loss}"
        raise InputError(
            f"The {what} after epoch {self.epoch + 1}: "
            f"lower the learning rate ({self.recipe.learning_rate}) or check the data for NaN."
        )

    def _save(self, steps: "_Alone | _Together", step: int, loss_sum: float, seconds: float) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, state in steps.moments(self).items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items() if v is not None}
        tensors |= {"generator.order": self.order_at_start, "generator.noise": self.noise.get_state()}
        state = {"epoch": self.epoch, "step": step, "loss_sum": loss_sum, "seconds": seconds, "history": self.history}
        self.checkpoint.save(tensors, state)

    def _resume(self) -> None:
        saved = self.checkpoint.load() if self.checkpoint else None
        if saved is None:
            return
        tensors, state = saved
        self.network.load_state_dict(_under(tensors, "network."))
        self.best = _under(tensors, "best.")
        for name, tensor in _under(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            self.moments.setdefault(int(index), {})[key] = tensor
        self.order.set_state(tensors["generator.order"])
        self.noise.set_state(tensors["generator.noise"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.loss_sum, self.seconds = state["loss_sum"], state["seconds"]
        self.history = list(state["history"])
        self.checkpoint.history = state["history"]


class _Teacher:
    """A network that is asked for its logits in every step, its hidden layers' products in the students' precision."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self.network, self.dtype = network, dtype
        if isinstance(network, MLP) and dtype == torch.bfloat16:
            # Its weights do not change: converted once, where autocast would convert them in every step.
            self.network = copy.deepcopy(network)
            self.network.hidden.to(dtype)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return logits(self.network, inputs, dtype=self.dtype)


def _teachers(runs: Sequence[_Run]) -> dict[int, _Teacher]:
    """The online teachers of networks that train together, by the id of the network that `Batches` was given."""
    asked = {id(batches.teacher): batches.teacher for batches in (run.batches for run in runs)}
    return {name: _Teacher(network, runs[0].dtype) for name, network in asked.items() if network is not None}


def _taught(runs: Sequence[_Run], batches: Sequence[Batch], teachers: Mapping[int, _Teacher]) -> list[Batch]:
    """The runs' batches with the logits of their online teachers; students that share one ask it together."""
    taught = list(batches)
    for name, teacher in teachers.items():
        students = [m for m, run in enumerate(runs) if id(run.batches.teacher) == name]
        found = teacher(torch.cat([batches[m].inputs for m in students])).split(len(batches[0].inputs))
        for m, v in zip(students, found, strict=True):
            taught[m] = replace(batches[m], teacher_logits=v)
    return taught


class _Alone:
    """The steps of one network."""

    def __init__(self, run: _Run):
        self.run = run
        parameters = [p for p in run.network.parameters() if p.requires_grad]
        self.optimizer = _optimizer([{"params": parameters}], run.recipe, run.moments)
        self.teachers = _teachers([run]) if isinstance(run.batches, Batches) else {}

    def epoch(self) -> Iterator[list[Batch]]:
        run = self.run
        if not isinstance(run.batches, Batches):
            yield from ([batch] for batch in run.batches.epoch(run.order))
            return
        for batch in run.batches.views(run.order):
            yield _taught([run], [batch], self.teachers)

    def take(self, batches: Sequence[Batch], step: int) -> torch.Tensor:
        """One step, counted from the first epoch's first; returns the loss."""
        run, batch = self.run, batches[0]
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.dtype == torch.bfloat16):
            output = run.network(as_inputs(batch.inputs, run.dtype))
        loss = run.objective(output, batch)
        loss.backward()
        _descend(self.optimizer, [run.rate(step)])
        if run.recipe.max_norm and (step + 1) % MAX_NORM_EVERY == 0:
            clip_max_norm(run.network, run.recipe.max_norm)
        return loss.detach()

    def moments(self, run: _Run) -> Mapping[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each parameter."""
        return self.optimizer.state_dict()["state"]

    def close(self) -> None:
        """Nothing is held."""


class _Together:
    """The steps of several networks of one kind, as batched matrix products.

    Members that share a learning rate have their parameters updated as whole stacks. That takes sizes that are a
    multiple of LANES: of other tensors, the optimiser computes the last few numbers in another way than the rest,
    in the last digit, and which ones these are would depend on how many networks there are.
    """

    def __init__(self, runs: Sequence[_Run]):
        self.runs, self.recipe, self.dtype = list(runs), runs[0].recipe, runs[0].dtype
        self.stack = Stack([run.network for run in runs])
        self.parameters = list(self.stack.parameters())
        self.own = [list(run.network.parameters()) for run in runs]  # views of the stack
        indices, members = range(len(self.parameters)), range(len(runs))
        self.one_rate = len({run.recipe.learning_rate for run in runs}) == 1
        whole = [i for i in indices if self.one_rate and self.parameters[i][0].numel() % LANES == 0]
        apart = [(i, m) for m in members for i in indices if i not in whole]
        # What the optimiser holds, in its order: stacks (i, None), then single members' parameters (i, m).
        self.pieces: list[tuple[int, int | None]] = [*((i, None) for i in whole), *apart]
        self.apart = apart
        self.optimizer = _optimizer(self._parameter_groups(), self.recipe, self._restored())
        self.teachers = _teachers(runs)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """One group, or, where rates differ, one a member."""
        tensors = [self.parameters[i] if m is None else self.own[m][i] for i, m in self.pieces]
        size = len(tensors) if self.one_rate else len(self.parameters)
        return [{"params": tensors[i : i + size]} for i in range(0, len(tensors), size)]

    def _restored(self) -> dict[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each piece, from the members' checkpoints."""
        if not self.runs[0].moments:
            return {}
        return {
            k: _stacked([run.moments[i] for run in self.runs]) if m is None else self.runs[m].moments[i]
            for k, (i, m) in enumerate(self.pieces)
        }

    def epoch(self) -> Iterator[list[Batch]]:
        for batches in zip(*(run.batches.views(run.order) for run in self.runs), strict=True):
            yield _taught(self.runs, batches, self.teachers)

    def take(self, batches: Sequence[Batch], step: int) -> torch.Tensor:
        """One step of every network; returns their losses [M]."""
        self.stack.train()
        inputs = torch.stack([batch.inputs for batch in batches])
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.stack(as_inputs(inputs, self.dtype))
        losses = of_many([run.objective for run in self.runs], output, batches)
        losses.sum().backward()
        for i, m in self.apart:
            self.own[m][i].grad = self.parameters[i].grad[m]
        _descend(self.optimizer, [run.rate(step) for run in (self.runs[:1] if self.one_rate else self.runs)])
        self.stack.zero_grad(set_to_none=True)
        if self.recipe.max_norm and (step + 1) % MAX_NORM_EVERY == 0:
            self.stack.clip_max_norm(self.recipe.max_norm)
        return losses.detach()

    def moments(self, run: _Run) -> Mapping[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each of a member's parameters."""
        mine, state = self.runs.index(run), self.optimizer.state_dict()["state"]
        of_whole = {i: k for k, (i, m) in enumerate(self.pieces) if m is None and k in state}
        found = {i: {name: _slice(v, mine) for name, v in state[k].items()} for i, k in of_whole.items()}
        return found | {i: state[k] for k, (i, m) in enumerate(self.pieces) if m == mine and k in state}

    def close(self) -> None:
        """Give the networks memory of their own again."""
        self.stack.release()


def _stacked(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """An optimiser's state of the same parameter of several networks, as of their stack; a step count is shared."""
    return {k: v if v.dim() == 0 else torch.stack([state[k] for state in states]) for k, v in states[0].items()}


def _slice(value: torch.Tensor | None, m: int) -> torch.Tensor | None:
    return value if value is None or value.dim() == 0 else value[m]


def _descend(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """A step of the optimiser, with these learning rates of its groups; the gradients are gone afterwards."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _optimizer(
    groups: Iterable[dict[str, Any]], recipe: Recipe, moments: Mapping[int, Mapping[str, torch.Tensor]]
) -> torch.optim.Optimizer:
    """A recipe's optimiser of these groups of parameters, going on from its state of each parameter, if any."""
    if recipe.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=(recipe.momentum, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            groups,
            lr=0.0,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(moments)})
    return optimizer


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _mix(seed: int, stream: int) -> int:
    """Seeds of separate streams that do not meet when user seeds are consecutive."""
    return (seed * 1_000_003 + stream * 7_919) % 2**63
