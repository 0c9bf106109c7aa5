"""The steps of a training: of one network, or of many of one kind as batched matrix products."""

import copy
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from kdrepro.checks import as_labels, check_inputs, logits_of, unwrapped, warn_of_probabilities, wide
from kdrepro.networks import MLP, Dropout, clip_max_norm
from kdrepro.training.batches import Batch
from kdrepro.training.inference import as_inputs, input_dtype, logits
from kdrepro.training.objectives import LossesOfMany, loss_of, needs_labels
from kdrepro.training.recipe import Recipe
from kdrepro.training.stack import Stack
from kdrepro.training.state import TrainingState
from kdrepro.training.vmapped import Vmapped

# How `fit_many(capture=True)` compiles a stack's passes: to CUDA graphs, each of which is launched as one kernel is.
CAPTURE: dict[str, Any] = {"mode": "reduce-overhead", "dynamic": False}
LANES = 16  # numbers that a processor's vector instructions take at once, at the most
MAX_NORM_EVERY = 4  # steps between two applications of the weight constraint; it drifts by little in between


class _Teacher:
    """A network that is asked for its logits in every step.

    The hidden layers of this package's networks multiply in the students' precision; others answer in their own, since
    autocast would round their logits too.
    """

    _one_at_a_time = threading.Lock()

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self.dtype = dtype if input_dtype(network, dtype) == dtype else torch.float32
        # A copy of its own: other threads may ask the same network, and its weights are converted once, where autocast
        # would convert them in every step. Some networks can't be copied (weights that are computed, process groups).
        try:
            self.network, self.shared = copy.deepcopy(network), False
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            self.network, self.shared = network, True
        if isinstance(network, MLP) and self.dtype == torch.bfloat16 and not self.shared:
            self.network.hidden.to(self.dtype)

    def __call__(self, inputs: torch.Tensor, check: bool) -> torch.Tensor:
        """check: whether a warning tells of probabilities."""
        if not self.shared:
            return logits(self.network, inputs, dtype=self.dtype, check=check)
        with self._one_at_a_time:  # its mode is changed and changed back
            return logits(self.network, inputs, dtype=self.dtype, check=check)


def _teachers(trainings: Sequence[TrainingState]) -> dict[int, _Teacher]:
    """The online teachers of networks that train together, by the id of the network that the batches were given."""
    asked = {id(training.teacher): training.teacher for training in trainings if training.teacher is not None}
    return {name: _Teacher(network, trainings[0].dtype) for name, network in asked.items()}


def _taught(
    trainings: Sequence[TrainingState], batches: Sequence[Batch], teachers: Mapping[int, _Teacher]
) -> list[Batch]:
    """The trainings' batches with the logits of their online teachers.

    On a GPU students that share a teacher ask it together. On a CPU, where that gains next to nothing, each asks it
    alone: of more rows at once another kernel may compute some, in the last digit differently.
    """
    taught = list(batches)
    for name, teacher in teachers.items():
        students = [
            m for m, one in enumerate(trainings) if id(one.teacher) == name and batches[m].teacher_logits is None
        ]
        if not students:
            continue
        asked = [batches[m] for m in students]
        on_cpu = trainings[0].device.type == "cpu"
        found = [answer for one in asked for answer in _answers(teacher, [one])] if on_cpu else _answers(teacher, asked)
        for m, v in zip(students, found, strict=True):
            taught[m] = replace(batches[m], teacher_logits=v)
    return taught


def _answers(teacher: _Teacher, batches: Sequence[Batch]) -> Sequence[torch.Tensor]:
    """A teacher's logits of each batch, asked about all of them together."""
    inputs = [batch.inputs for batch in batches]
    together = teacher(inputs[0] if len(inputs) == 1 else torch.cat(inputs), batches[0].check)
    return together.split([len(x) for x in inputs])


def _looks(device: torch.device, taken: int) -> bool:
    """Whether values are looked at in a step, `taken` steps after the first one that is taken of an epoch.

    A GPU would have to be waited for. What is wrong is noticed in the first step, or at the epoch's end, where the loss
    and the weights are looked at.
    """
    return taken == 0 or device.type == "cpu"


def _seen(batch: Batch, training: TrainingState, taken: int) -> Batch:
    """A batch as the objective is to take it."""
    return batch if _looks(training.device, taken) else replace(batch, check=False)


def _check_labels(training: TrainingState, batch: Batch, classes: int) -> None:
    """In a step that looks for the whole epoch: raises ValueError for a label of any case that is no class."""
    if not batch.check or _looks(training.device, 1) or not needs_labels(training.objective):
        return
    labels = getattr(training.batches, "labels", None)
    if isinstance(labels, torch.Tensor):
        as_labels(labels, len(labels), classes)


def _explained(error: ValueError, trainings: Sequence[TrainingState], outputs: Sequence[torch.Tensor]) -> Exception:
    """What an objective raised, or an InputError where it did because a network has diverged."""
    for training, output in zip(trainings, outputs, strict=True):
        if not output.isfinite().all():
            return training.diverged("network's logits are not finite")
    return error


class Alone:
    """The steps of one network."""

    def __init__(self, training: TrainingState):
        self.training = training
        self.inputs = input_dtype(training.network, training.dtype)
        parameters = [p for p in training.network.parameters() if p.requires_grad]
        self.optimizer = _optimizer([{"params": parameters}], training.recipe, training.moments)
        self.optimizer.zero_grad(set_to_none=True)  # of what the network was used for before
        self.teacher = _Teacher(training.teacher, training.dtype) if training.teacher is not None else None
        a_step = math.ceil(training.batches.cases / len(training.batches))
        self.asked_at_once = max(1, getattr(training.teacher, "cases_at_once", 1) // a_step)  # steps

    def epoch(self, first: int) -> Iterator[list[Batch]]:
        """The batches of an epoch from step `first` on."""
        training = self.training
        # A teacher that is asked about several steps together is asked about the same ones wherever a training goes on:
        # of other rows, another kernel may compute the last digit differently.
        start = first - first % self.asked_at_once
        views = enumerate(islice(training.batches.views(training.order), start, None), start)
        while steps := list(islice(views, self.asked_at_once)):
            batches = [_seen(batch, training, i - first) for i, batch in steps]
            for (i, _), batch in zip(steps, self._taught(batches), strict=True):
                if i >= first:
                    yield [batch]

    def _taught(self, batches: list[Batch]) -> list[Batch]:
        """These batches with the logits of an online teacher."""
        if self.teacher is None or batches[0].teacher_logits is not None:
            return batches
        found = _answers(self.teacher, batches)
        return [replace(batch, teacher_logits=v) for batch, v in zip(batches, found, strict=True)]

    def take(self, batches: Sequence[Batch], step: int) -> torch.Tensor:
        """One step, counted from the first epoch's first; returns the loss."""
        training, batch = self.training, batches[0]
        output = self._output(batch.inputs, first=step == 0)
        try:
            _check_labels(training, batch, output.shape[-1])
            loss = loss_of(training.objective, output, batch)
        except ValueError as error:
            raise _explained(error, [training], [output]) from None
        loss.backward()
        _descend(self.optimizer, [training], step)
        if training.recipe.max_norm and (step + 1) % MAX_NORM_EVERY == 0:
            clip_max_norm(unwrapped(training.network), training.recipe.max_norm)
        return loss.detach()

    def _output(self, inputs: torch.Tensor, first: bool) -> torch.Tensor:
        """The network's logits, at least in float32."""
        network, bf16 = self.training.network, self.training.dtype == torch.bfloat16
        try:
            with torch.autocast(self.training.device.type, torch.bfloat16, enabled=bf16):
                output = network(as_inputs(inputs, self.inputs))
        except ValueError as error:
            if len(inputs) == 1 and "more than 1 value per channel" in str(error):
                raise ValueError(
                    "A step has a single case, of which batch normalisation has no variance: raise batch_size, or put "
                    "these layers in eval mode, where they stay."
                ) from None
            raise
        output = wide(logits_of(output, network, len(inputs)))
        if first:
            check_inputs(network, inputs)
            warn_of_probabilities(output, network)
        return output

    def moments(self, training: TrainingState) -> Mapping[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each parameter."""
        return self.optimizer.state_dict()["state"]

    def close(self) -> None:
        """Nothing is held."""


class Together:
    """The steps of several networks of one kind: `MLP`s as batched matrix products, others by `torch.func`.

    Members that share a learning rate have their parameters updated as whole stacks. On a CPU that takes sizes that are
    a multiple of LANES: of other tensors, the optimiser computes the last few numbers in another way than the rest,
    in the last digit, and which ones these are would depend on how many networks there are.
    capture: whether `torch.compile` captures the networks' own passes, the loss and the optimiser left out.
    """

    def __init__(self, trainings: Sequence[TrainingState], capture: bool = False):
        self.trainings, self.recipe, self.dtype = list(trainings), trainings[0].recipe, trainings[0].dtype
        networks = [training.network for training in trainings]
        self.own_kind = not trainings[0].stackable
        self.stack = Vmapped(networks, self.dtype == torch.bfloat16) if self.own_kind else Stack(networks)
        self.forward = torch.compile(self.stack, **CAPTURE) if capture else self.stack
        self.parameters = list(self.stack.parameters())
        self.own = [list(training.network.parameters()) for training in trainings]  # views of the stack
        indices, members = range(len(self.parameters)), range(len(trainings))
        self.one_rate = len({training.recipe.learning_rate for training in trainings}) == 1
        lanes = LANES if trainings[0].device.type == "cpu" else 1
        whole = [i for i in indices if self.one_rate and self.parameters[i][0].numel() % lanes == 0]
        apart = [(i, m) for m in members for i in indices if i not in whole]
        # What the optimiser holds, in its order: stacks (i, None), then single members' parameters (i, m).
        self.pieces: list[tuple[int, int | None]] = [*((i, None) for i in whole), *apart]
        self.apart = apart
        self.optimizer = _optimizer(self._parameter_groups(), self.recipe, self._restored())
        self.teachers = _teachers(trainings)
        self.losses = LossesOfMany([training.objective for training in trainings])

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """One group, or, where rates differ, one a member."""
        tensors = [self.parameters[i] if m is None else self.own[m][i] for i, m in self.pieces]
        size = len(tensors) if self.one_rate else len(self.parameters)
        return [{"params": tensors[i : i + size]} for i in range(0, len(tensors), size)]

    def _restored(self) -> dict[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each piece, from the members' checkpoints."""
        if not self.trainings[0].moments:
            return {}
        return {
            k: _stacked([training.moments[i] for training in self.trainings])
            if m is None
            else self.trainings[m].moments[i]
            for k, (i, m) in enumerate(self.pieces)
        }

    def epoch(self, first: int) -> Iterator[list[Batch]]:
        """The batches of an epoch from step `first` on, one a network."""
        views = [islice(training.batches.views(training.order), first, None) for training in self.trainings]
        for i, batches in enumerate(zip(*views, strict=True)):
            seen = [_seen(batch, self.trainings[0], i) for batch in batches]
            yield _taught(self.trainings, seen, self.teachers)

    def take(self, batches: Sequence[Batch], step: int) -> torch.Tensor:
        """One step of every network; returns their losses [M]."""
        self.stack.train()
        inputs = torch.stack([batch.inputs for batch in batches])
        output = self.forward(as_inputs(inputs, torch.float32 if self.own_kind else self.dtype))
        try:
            for training, batch in zip(self.trainings, batches, strict=True):
                _check_labels(training, batch, output.shape[-1])
            losses = self.losses(output, batches)
        except ValueError as error:
            raise _explained(error, self.trainings, output) from None
        losses.sum().backward()
        for i, m in self.apart:
            grad = self.parameters[i].grad
            self.own[m][i].grad = None if grad is None else grad[m]  # none: the network makes no use of it
        _descend(self.optimizer, self.trainings[:1] if self.one_rate else self.trainings, step)
        self.stack.zero_grad(set_to_none=True)
        if self.recipe.max_norm and (step + 1) % MAX_NORM_EVERY == 0:
            self.stack.clip_max_norm(self.recipe.max_norm)
        return losses.detach()

    def moments(self, training: TrainingState) -> Mapping[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each of a member's parameters."""
        mine, state = self.trainings.index(training), self.optimizer.state_dict()["state"]
        of_whole = {i: k for k, (i, m) in enumerate(self.pieces) if m is None and k in state}
        found = {i: {name: _slice(v, mine) for name, v in state[k].items()} for i, k in of_whole.items()}
        return found | {i: state[k] for k, (i, m) in enumerate(self.pieces) if m == mine and k in state}

    def close(self) -> None:
        """Give the networks memory of their own again."""
        self.stack.release()


def check_capture(training: TrainingState) -> None:
    """Raises ValueError for a training whose passes can't be captured."""
    if training.device.type == "cpu":
        raise ValueError("capture=True launches CUDA graphs, and the cases are on cpu: leave it out.")
    if any(isinstance(module, Dropout) and module.dropped for module in training.network.modules()):
        raise ValueError("capture=True cannot hold dropout's masks, which are drawn anew in each step: leave it out.")


def _stacked(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """An optimiser's state of the same parameter of several networks, as of their stack; a step count is shared."""
    return {k: v if v.dim() == 0 else torch.stack([state[k] for state in states]) for k, v in states[0].items()}


def _slice(value: torch.Tensor | None, m: int) -> torch.Tensor | None:
    return value if value is None or value.dim() == 0 else value[m]


def _descend(optimizer: torch.optim.Optimizer, trainings: Sequence[TrainingState], step: int) -> None:
    """A step of the optimiser, whose groups are of these trainings; the gradients are gone afterwards."""
    for group, training in zip(optimizer.param_groups, trainings, strict=True):
        group["lr"] = training.rate(step)
        if training.recipe.momentum_rise:
            group["momentum"] = training.momentum(step)
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
