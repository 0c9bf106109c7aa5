"""The steps of a training: of one network, or of many of one kind as batched matrix products."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from kdrepro.networks import MLP, clip_max_norm
from kdrepro.training.batches import Batch, Batches
from kdrepro.training.inference import as_inputs, logits
from kdrepro.training.objectives import of_many
from kdrepro.training.recipe import Recipe
from kdrepro.training.stack import Stack
from kdrepro.training.state import TrainingState

LANES = 16  # numbers that a processor's vector instructions take at once, at the most
MAX_NORM_EVERY = 4  # steps between two applications of the weight constraint; it drifts by little in between


class _Teacher:
    """A network that is asked for its logits in every step, its hidden layers' products in the students' precision."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        # A copy of its own: other threads may ask the same network, and its weights are converted once, where autocast
        # would convert them in every step.
        self.network, self.dtype = copy.deepcopy(network), dtype
        if isinstance(network, MLP) and dtype == torch.bfloat16:
            self.network.hidden.to(dtype)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return logits(self.network, inputs, dtype=self.dtype)


def _teachers(trainings: Sequence[TrainingState]) -> dict[int, _Teacher]:
    """The online teachers of networks that train together, by the id of the network that `Batches` was given."""
    every = [training.batches for training in trainings]
    # Batches of another kind ask their teacher themselves.
    asked = {id(batches.teacher): batches.teacher for batches in every if isinstance(batches, Batches)}
    return {name: _Teacher(network, trainings[0].dtype) for name, network in asked.items() if network is not None}


def _taught(
    trainings: Sequence[TrainingState], batches: Sequence[Batch], teachers: Mapping[int, _Teacher]
) -> list[Batch]:
    """The trainings' batches with the logits of their online teachers.

    On a GPU students that share a teacher ask it together. On a CPU, where that gains next to nothing, each asks it
    alone: of more rows at once another kernel may compute some, in the last digit differently.
    """
    taught = list(batches)
    for name, teacher in teachers.items():
        students = [m for m, training in enumerate(trainings) if id(training.batches.teacher) == name]
        asked = [batches[m].inputs for m in students]
        on_cpu = trainings[0].device.type == "cpu"
        found = map(teacher, asked) if on_cpu else teacher(torch.cat(asked)).split(len(asked[0]))
        for m, v in zip(students, found, strict=True):
            taught[m] = replace(batches[m], teacher_logits=v)
    return taught


def _losses(trainings: Sequence[TrainingState], output: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    """The loss of one network's logits [B, C], or of several ones' [M, B, C].

    Raises InputError where a network has diverged, ValueError for whatever else is wrong with the logits.
    """
    try:
        if output.dim() == 2:
            return trainings[0].objective(output, batches[0])
        return of_many([training.objective for training in trainings], output, batches)
    except ValueError:
        for training, logits in zip(trainings, output if output.dim() == 3 else [output], strict=True):
            if not logits.isfinite().all():
                raise training.diverged("network's logits are not finite") from None
        raise


class Alone:
    """The steps of one network."""

    def __init__(self, training: TrainingState):
        self.training = training
        parameters = [p for p in training.network.parameters() if p.requires_grad]
        self.optimizer = _optimizer([{"params": parameters}], training.recipe, training.moments)
        self.teachers = _teachers([training])

    def epoch(self, first: int) -> Iterator[list[Batch]]:
        """The batches of an epoch from step `first` on."""
        for batch in islice(self.training.batches.views(self.training.order), first, None):
            yield _taught([self.training], [batch], self.teachers)

    def take(self, batches: Sequence[Batch], step: int) -> torch.Tensor:
        """One step, counted from the first epoch's first; returns the loss."""
        training, batch = self.training, batches[0]
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.dtype == torch.bfloat16):
            output = training.network(as_inputs(batch.inputs, training.dtype))
        loss = _losses([training], output, batches)
        loss.backward()
        _descend(self.optimizer, [training.rate(step)])
        if training.recipe.max_norm and (step + 1) % MAX_NORM_EVERY == 0:
            clip_max_norm(training.network, training.recipe.max_norm)
        return loss.detach()

    def moments(self, training: TrainingState) -> Mapping[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each parameter."""
        return self.optimizer.state_dict()["state"]

    def close(self) -> None:
        """Nothing is held."""


class Together:
    """The steps of several networks of one kind, as batched matrix products.

    Members that share a learning rate have their parameters updated as whole stacks. That takes sizes that are a
    multiple of LANES: of other tensors, the optimiser computes the last few numbers in another way than the rest,
    in the last digit, and which ones these are would depend on how many networks there are.
    """

    def __init__(self, trainings: Sequence[TrainingState]):
        self.trainings, self.recipe, self.dtype = list(trainings), trainings[0].recipe, trainings[0].dtype
        self.stack = Stack([training.network for training in trainings])
        self.parameters = list(self.stack.parameters())
        self.own = [list(training.network.parameters()) for training in trainings]  # views of the stack
        indices, members = range(len(self.parameters)), range(len(trainings))
        self.one_rate = len({training.recipe.learning_rate for training in trainings}) == 1
        whole = [i for i in indices if self.one_rate and self.parameters[i][0].numel() % LANES == 0]
        apart = [(i, m) for m in members for i in indices if i not in whole]
        # What the optimiser holds, in its order: stacks (i, None), then single members' parameters (i, m).
        self.pieces: list[tuple[int, int | None]] = [*((i, None) for i in whole), *apart]
        self.apart = apart
        self.optimizer = _optimizer(self._parameter_groups(), self.recipe, self._restored())
        self.teachers = _teachers(trainings)

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
        for batches in zip(*views, strict=True):
            yield _taught(self.trainings, batches, self.teachers)

    def take(self, batches: Sequence[Batch], step: int) -> torch.Tensor:
        """One step of every network; returns their losses [M]."""
        self.stack.train()
        inputs = torch.stack([batch.inputs for batch in batches])
        output = self.stack(as_inputs(inputs, self.dtype))
        losses = _losses(self.trainings, output, batches)
        losses.sum().backward()
        for i, m in self.apart:
            self.own[m][i].grad = self.parameters[i].grad[m]
        _descend(
            self.optimizer,
            [training.rate(step) for training in (self.trainings[:1] if self.one_rate else self.trainings)],
        )
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
