"""The training of one network: what it is made of, how far it is, and how that is saved and restored."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from kdrepro.checks import check_device, check_network, check_whole, network_dtype, unwrapped
from kdrepro.errors import DivergedError, InputError
from kdrepro.networks import MLP, clip_max_norm, parameter_count, use_generator
from kdrepro.training.batches import BATCH_SIZE, Asked, CaseSource, check_source
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.training.identity import digest, form
from kdrepro.training.inference import logits
from kdrepro.training.modes import evaluating, frozen_layers, to_train
from kdrepro.training.objectives import Distillation, Objective, of_labels_alone
from kdrepro.training.recipe import Recipe, gains_from_bf16
from kdrepro.training.stack import shape_of

MADE_OF = "made of, 2"  # in a checkpoint; the number goes up when `identity` tells things apart in another way


class Optimized(Protocol):
    """What takes a training's steps (see `kdrepro.training.steps`), as far as a checkpoint asks it."""

    def moments(self, training: "TrainingState") -> Mapping[int, Mapping[str, torch.Tensor]]:
        """The optimiser's state of each of a training's parameters."""
        ...


class TrainingState:
    """The training of one network: what it is made of, how far it is, and how that is saved and restored."""

    def __init__(
        self,
        network: nn.Module,
        batches: CaseSource,
        objective: Objective,
        recipe: Recipe,
        seed: int,
        checkpoint: Checkpoint | Path | str | None,
        evaluate: Callable[[nn.Module], dict[str, Any]] | None,
        progress: Callable[[dict[str, Any]], None] | None,
        evaluate_every: int,
        keep_best: str | None,
    ):
        self.network, self.batches, self.objective, self.recipe = network, batches, objective, recipe
        checkpoint = Checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
        self.seed, self.checkpoint, self.evaluate, self.progress = seed, checkpoint, evaluate, progress
        self.evaluate_every, self.keep_best = evaluate_every, keep_best
        check_network(network)
        check_source(batches)
        check_device(network, batches.device)
        self._check_arguments()
        self._check_trainable()
        if recipe.max_norm and not isinstance(unwrapped(network), MLP):
            raise ValueError(f"max_norm limits the weights of an MLP's units; this is a {type(network).__name__}.")
        if keep_best is not None and evaluate is None:
            raise ValueError(f"keep_best names {keep_best!r}, a figure of evaluate, which is not given.")
        self.device = batches.device
        # Two generators: `order` is drawn from only at the start of an epoch, so a checkpoint within
        # one can redo the epoch's order and jitter from the state at its start.
        self.order = torch.Generator(self.device).manual_seed(_mix(self.seed, 1))
        self.noise = torch.Generator(self.device).manual_seed(_mix(self.seed, 2))
        use_generator(network, self.noise)
        self.dtype = self._dtype()
        self.teacher = getattr(batches, "teacher", None)
        self.frozen = frozen_layers(network)
        self.stacked = False  # whether a network that is no MLP is to train among others of its kind
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}  # weights of the best row so far, with its figure as "figure"
        self.average: dict[str, torch.Tensor] = {}  # running average of the weights, where the recipe wants one
        self.moments: dict[int, dict[str, torch.Tensor]] = {}  # the optimiser's, of each parameter, when restored
        self.order_at_start = self.order.get_state()
        # Taken now: an objective of the user's may change while it is trained with.
        self.made_of = self._made_of() if self._keeps else {}
        self._resume()

    def _check_arguments(self) -> None:
        """Raises ValueError for arguments that are not what they must be, and for those that are of other batches."""
        recipe = self.recipe
        if not callable(self.objective):
            raise ValueError(f"objective must be callable, such as training.hard_targets, not {self.objective!r}.")
        if not isinstance(recipe, Recipe):
            raise ValueError(f"recipe must be a training.Recipe, not a {type(recipe).__name__}.")
        if self.checkpoint is not None and not hasattr(self.checkpoint, "keeps"):
            raise ValueError(f"checkpoint must be a path, or a training.Checkpoint, not {self.checkpoint!r}.")
        for name in ("evaluate", "progress"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise ValueError(f"{name} must be a function, or None, not {given!r}.")
        self.seed = check_whole(self.seed, "seed")
        self.evaluate_every = check_whole(self.evaluate_every, "evaluate_every", least=1)
        size = getattr(self.batches, "batch_size", recipe.batch_size)
        if "batch_size" in recipe.model_fields_set and size != recipe.batch_size:
            raise ValueError(
                f"The recipe says batch_size={recipe.batch_size} but the batches have {size}: say it to "
                "training.Batches, which cuts them."
            )
        if getattr(self.batches, "mix", 0) == 1 and of_labels_alone(self.objective):
            raise ValueError(
                "mix=1 leaves no case its label, and the objective learns from labels alone: mix fewer, or take "
                "training.soft_targets."
            )

    def _check_trainable(self) -> None:
        """Raises ValueError for a network in half precision, or of which nothing is trained, and within no_grad."""
        if not torch.is_grad_enabled():
            raise ValueError("Within torch.no_grad() or inference_mode() nothing is learnt: train outside of it.")
        dtype = network_dtype(self.network)
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"The network's weights are {dtype}, in which small updates are lost: train network.float(); "
                'Recipe(precision="bf16") multiplies in half precision all the same.'
            )
        if dtype == torch.float64 and self.recipe.precision == "bf16":
            raise ValueError('The network is in float64 but precision is "bf16": leave it at "auto", or call float().')
        if not any(p.requires_grad for p in self.network.parameters()):
            raise ValueError("No parameter of the network requires a gradient: there is nothing to train.")

    def _dtype(self) -> torch.dtype:
        """Of the hidden layers' products: bfloat16 where the recipe says so, or the device gains from it."""
        if network_dtype(self.network) == torch.float64:
            return torch.float64
        gains = self.recipe.precision == "auto" and gains_from_bf16(self.device)
        return torch.bfloat16 if self.recipe.precision == "bf16" or gains else torch.float32

    @property
    def stackable(self) -> bool:
        """Whether this network can train as one of many: a float32 `MLP` of which no layer is frozen."""
        if not isinstance(self.network, MLP) or getattr(self.batches, "kind", None) is None or self.frozen:
            return False
        if self.recipe.averaging:
            return False
        return all(p.requires_grad and p.dtype == torch.float32 for p in self.network.parameters())

    def kind(self) -> Any:
        """What networks that train together have in common."""
        if not (self.stackable or self.stacked):
            return id(self)
        recipe = self.recipe.model_copy(update={"learning_rate": 1.0})
        return (
            shape_of(self.network) if self.stackable else _form(self.network),
            self.batches.kind,
            (recipe, self.dtype, str(self.device)),
            (self.epoch, self.step),
        )

    def bytes_needed(self) -> int:
        """Memory of this training among others.

        An epoch's moved images, labels and soft targets; weights, gradients and moments; a step's activations.
        """
        batches = self.batches
        # Of the layers: units, or all numbers that they put out.
        sizes = (
            _outputs(self.network, batches)
            if self.stacked
            else [len(p) for p in self.network.parameters() if p.dim() == 1]
        )
        one_case = getattr(batches, "bytes_a_case", 8) + 4 * sizes[-1]
        a_step = 3 * 4 * sum(sizes) * getattr(batches, "batch_size", BATCH_SIZE)
        return one_case * batches.cases + 4 * 4 * self.weights + a_step

    @property
    def weights(self) -> int:
        """How many the network has."""
        return parameter_count(self.network)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from the first epoch's first."""
        return self.recipe.rate(step, self.recipe.epochs * len(self.batches))

    def momentum(self, step: int) -> float:
        """Sgd's momentum of a step, counted likewise."""
        return self.recipe.momentum_at(step, self.recipe.epochs * len(self.batches))

    def start_epoch(self) -> None:
        """Layers into their modes, and what a checkpoint within the epoch needs."""
        to_train(self.network, self.frozen)
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
            with self._averaged(), evaluating(self.network), torch.no_grad():
                row.update(self._figures(row))
                self._note_best(row)
        self.history.append(row)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average of the weights on, where there is one, after a step counted from the first epoch's first."""
        if not self.recipe.averaging:
            return
        weights = self.network.state_dict()
        if not self.average:
            self.average = {name: tensor.clone() for name, tensor in weights.items()}
            return
        decay = min(self.recipe.averaging, (1 + step) / (10 + step))
        floats = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in floats], [weights[n] for n in floats], 1 - decay)
        for name in weights.keys() - set(floats):  # counts of batches
            self.average[name].copy_(weights[name])

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network with the averaged weights, where there are such."""
        if not self.average:
            yield
            return
        last = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        try:
            yield
        finally:
            self.network.load_state_dict(last)

    def _figures(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What `evaluate` says of the network, in plain numbers. Raises ValueError for what is no such thing."""
        figures = self.evaluate(self.network)
        if not isinstance(figures, Mapping):
            raise ValueError(f"evaluate returned a {type(figures).__name__}: let it return figures by name, a dict.")
        if taken := [name for name in figures if name in row]:
            raise ValueError(f"evaluate names a figure {taken[0]!r}, which every row has already: call it otherwise.")
        if self.keep_best is not None and self.keep_best not in figures:
            raise ValueError(f"keep_best names {self.keep_best!r}, but evaluate gives {', '.join(map(repr, figures))}.")
        plain = {name: _plain(name, value) for name, value in figures.items()}
        if self.keep_best is not None and not isinstance(plain[self.keep_best], int | float):
            raise ValueError(
                f"keep_best's figure {self.keep_best!r} is {plain[self.keep_best]!r}: let evaluate give it as a number."
            )
        return plain

    @property
    def _keeps(self) -> bool:
        """Whether there is a checkpoint that keeps states."""
        return self.checkpoint is not None and self.checkpoint.keeps

    def finish_epoch(self, steps: Optimized) -> None:
        """Save the state after the epoch whose row was noted, and show that row."""
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        if self.recipe.max_norm and self.epoch == self.recipe.epochs:
            clip_max_norm(unwrapped(self.network), self.recipe.max_norm)
        if self._keeps:
            self.order_at_start = self.order.get_state()
            self._save(steps, self.step, 0.0, self.seconds)
        if self.checkpoint is not None:
            self.checkpoint.history = self.history
        if self.progress:
            self.progress(self.history[-1])

    def _note_best(self, row: dict[str, Any]) -> None:
        """Keep a copy of the weights when a row's figure is the highest so far."""
        figure = self.keep_best
        if figure is not None and math.isnan(row[figure]):
            raise ValueError(f"keep_best's figure {figure!r} is nan in epoch {row['epoch']}: no weights are the best.")
        if figure is not None and (not self.best or row[figure] > self.best["figure"].item()):
            if self.recipe.max_norm:
                clip_max_norm(unwrapped(self.network), self.recipe.max_norm)
            weights = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self.best = {**weights, "figure": torch.tensor(row[figure], dtype=torch.float64)}

    def restore_best(self) -> None:
        """Give the network the averaged weights, or those of its best row, where those are wanted."""
        if self.average:
            self.network.load_state_dict(self.average)
        if self.keep_best is not None:
            self.network.load_state_dict({name: t for name, t in self.best.items() if name != "figure"})

    def save_within(self, steps: Optimized, step: int, loss: float, took: float) -> None:
        """Save the state within an epoch, after `step` steps of it with this sum of losses, in `took` seconds."""
        if self._keeps:
            self._check_finite(self.loss_sum + loss)
            self._save(steps, step, self.loss_sum + loss, self.seconds + took)

    def _check_finite(self, loss: float) -> None:
        """Before every checkpoint, so that the last one is always one to go on from. loss: of this epoch so far."""
        if not math.isfinite(loss):
            raise self.diverged(f"training loss is {loss}")
        if not all(p.isfinite().all() for p in self.network.parameters()):
            raise self.diverged("network has weights that are not finite")

    def diverged(self, what: str) -> DivergedError:
        """What to raise when a number is no longer one."""
        return DivergedError(
            f"The {what} in epoch {self.epoch + 1}: "
            f"lower the learning rate ({self.recipe.learning_rate}) or check the data for NaN."
        )

    def _save(self, steps: Optimized, step: int, loss_sum: float, seconds: float) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for i, state in steps.moments(self).items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items() if v is not None}
        tensors |= {"generator.order": self.order_at_start, "generator.noise": self.noise.get_state()}
        state = {"epoch": self.epoch, "step": step, "loss_sum": loss_sum, "seconds": seconds, "history": self.history}
        self.checkpoint.save(tensors, state | {"device": self.device.type, MADE_OF: self.made_of})

    def _made_of(self) -> dict[str, Any]:
        """What a checkpoint must have in common with this training to be gone on from."""
        cases = getattr(self.batches, "fingerprint", None)
        if cases is None:
            raise ValueError(
                f"batches is a {type(self.batches).__name__} without a `fingerprint`, by which a checkpoint is known "
                "to be of the same cases: give it one, or train without a checkpoint."
            )
        shapes = {name: (list(p.shape), str(p.dtype), p.requires_grad) for name, p in self.network.named_parameters()}
        return {
            "network": f"#{digest(shapes, form(self.network))}",
            "objective": f"{_name(self.objective)} #{digest(self.objective)}",
            # Of a function, by its code: as a module it holds nothing.
            "teacher": f"#{digest(self.teacher.function if isinstance(self.teacher, Asked) else self.teacher)}",
            "cases, labels or soft targets": f"#{cases}",
            "steps of an epoch": len(self.batches),
            "seed": self.seed,
            "keep_best": self.keep_best,
            **{f"recipe's {name}": value for name, value in self.recipe.model_dump().items()},
        }

    def _differing(self, saved: Mapping[str, Any]) -> list[str]:
        """What a checkpoint's training was made of that this one is not; with both, where they can be read."""
        found = []
        for name, mine in self.made_of.items():
            there, here = (str(value).split("#")[0].strip() for value in (saved.get(name), mine))
            if saved.get(name) != mine:
                found.append(f"{name} ({there}, not {here})" if there != here else name)
        return found

    def _resume(self) -> None:
        saved = self.checkpoint.load() if self.checkpoint else None
        if saved is None:
            return
        tensors, state = saved
        if MADE_OF not in state:
            return self.checkpoint.put_aside("was written by an earlier version")
        if differing := self._differing(state[MADE_OF]):
            raise InputError(
                f"The checkpoint {self.checkpoint.path} is that of another training, which has another "
                f"{' and '.join(differing)}: give this one a file of its own, or remove that one."
            )
        made_on = state.get("device", self.device.type)
        if made_on != self.device.type:  # the states of its generators mean nothing here
            return self.checkpoint.put_aside(f"was made on {made_on} and cannot be continued on {self.device.type}")
        self.network.load_state_dict(_under(tensors, "network."))
        self.best = _under(tensors, "best.")  # only ever copied from
        self.average = {name: tensor.to(self.device) for name, tensor in _under(tensors, "average.").items()}
        for name, tensor in _under(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            self.moments.setdefault(int(index), {})[key] = tensor
        self.order.set_state(tensors["generator.order"])
        self.noise.set_state(tensors["generator.noise"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.loss_sum, self.seconds = state["loss_sum"], state["seconds"]
        self.history = list(state["history"])
        self.checkpoint.history = state["history"]


def _form(network: nn.Module) -> Any:
    """What networks of any kind must share to be stacked: layers with their settings, and sizes."""
    sizes = [(name, tuple(t.shape), t.dtype) for name, t in (*network.named_parameters(), *network.named_buffers())]
    return type(network), repr(network), tuple(sizes)


def _outputs(network: nn.Module, batches: CaseSource) -> list[int]:
    """How many numbers each layer puts out for a case, the last layer's last."""
    found: list[int] = []
    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [
        leaf.register_forward_hook(lambda _, __, output: found.append(getattr(output, "numel", int)()))
        for leaf in leaves
    ]
    try:
        logits(network, batches.inputs[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _plain(name: str, figure: Any) -> Any:
    """A figure that `evaluate` gave, out of its tensor or array. Raises ValueError for several in one."""
    try:
        return figure.item() if hasattr(figure, "item") else figure
    except (RuntimeError, ValueError):
        raise ValueError(f"evaluate's figure {name!r} holds several numbers: give one, or a list.") from None


def _name(objective: Objective) -> str:
    """An objective as a reader knows it."""
    return getattr(objective, "__name__", None) or (
        repr(objective) if isinstance(objective, Distillation) else type(objective).__name__
    )


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _mix(seed: int, stream: int) -> int:
    """Seeds of separate streams that do not meet when user seeds are consecutive."""
    return (seed * 1_000_003 + stream * 7_919) % 2**63
