"""Chapters on images: networks by plan, subsets of the training cases, averaged teachers, test errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from kdrepro import ensembles, training
from kdrepro.chapters.experiment import Experiment, Trained
from kdrepro.chapters.sizes import ConvTraining, Training
from kdrepro.store import Missing, build
from kdrepro.training import Recipe


@dataclass(frozen=True)
class Request:
    """A network that a chapter asks for.

    teacher: whose logits are matched when plan.loss is "soft" or "logits"; several are averaged as plan.teachers says.
    label: how the run's log names the network. start: a network of the same layers whose weights training starts from,
    instead of random ones.
    Raises ValueError when there are teachers and plan.loss is "hard", and when there are none and it is not.
    """

    plan: Training
    seed: int
    teacher: Trained | Sequence[Trained] | None = None
    label: str = ""
    start: Trained | None = None

    def __post_init__(self) -> None:
        if (self.plan.loss == "hard") != (not self.teachers):
            raise ValueError(f"A plan with loss {self.plan.loss!r} was given {len(self.teachers)} teachers.")

    @property
    def teachers(self) -> list[Trained]:
        if self.teacher is None:
            return []
        return [self.teacher] if isinstance(self.teacher, Trained) else list(self.teacher)

    @property
    def name(self) -> str:
        return f"{self.label or self.plan.loss} seed {self.seed}"


@dataclass
class ImageExperiment(Experiment):
    """One chapter on images at one preset; its data is an `ImageData`."""

    _logits: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    _teacher_logits: dict[tuple, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> int:
        return self.data.train_images[0].numel()

    # --- networks -------------------------------------------------------------------------------

    def train(
        self,
        plan: Training,
        seed: int,
        teacher: Trained | Sequence[Trained] | None = None,
        label: str = "",
        start: Trained | None = None,
    ) -> Trained:
        """Load the network of this plan and seed from the store, or train it; see `Wanted` for the arguments."""
        return self.train_many([Request(plan, seed, teacher, label, start)])[0]

    def train_seeds(
        self,
        plan: Training,
        teachers: Sequence[Any] | None = None,
        seeds: Sequence[int] | None = None,
        label: str = "",
        starts: Sequence[Trained] | None = None,
    ) -> list[Trained]:
        """One network a seed; `teachers` holds, for each seed, the teacher (or list of teachers) to match.

        starts: for each seed, the network whose weights training starts from.
        Raises ValueError when there are fewer of these than seeds.
        """
        seeds = self.seeds if seeds is None else seeds
        for name, given in (("teachers", teachers), ("starts", starts)):
            if given is not None and len(given) < len(seeds):
                raise ValueError(f"There are {len(seeds)} seeds but only {len(given)} {name}.")
        none = [None] * len(seeds)
        each = zip(seeds, teachers or none, starts or none, strict=False)  # there may be teachers of more seeds
        return self.train_many([Request(plan, seed, teacher, label, start) for seed, teacher, start in each])

    def train_many(self, wanted: Sequence[Request]) -> list[Trained]:
        """Load these networks from the store; train together those that are missing (see `training.fit_many`)."""
        configs = [self._config(one) for one in wanted]
        starts = {one.start.key: one.start for one in wanted if one.start is not None}

        def built(config: Mapping[str, Any]) -> nn.Module:
            return begun_from(starts[config["start"]])(config) if "start" in config else build(config)

        def train_missing(missing: Missing) -> None:
            self._fit_many([wanted[i] for i in missing.positions], missing)

        networks, trained = self.store.train_or_load_many(configs, train_missing, built)
        found = [self._trained(n, c, w.seed, w.plan) for n, c, w in zip(networks, configs, wanted, strict=True)]
        self._log_each([one.name for one in wanted], found, trained)
        return found

    def untrained(self, plan: Training, seed: int) -> nn.Module:
        """The network of this plan and seed before its first step."""
        return build({"network": self._widths(plan), "seed": seed}).to(self.device)

    def _widths(self, plan: Training) -> dict[str, Any]:
        """The arguments of `networks.MLP`."""
        return {
            "widths": [self.inputs, *plan.network.hidden, self.data.classes],
            "input_dropout": plan.network.input_dropout,
            "hidden_dropout": plan.network.hidden_dropout,
        }

    def _fit_many(self, wanted: Sequence[Request], missing: Missing) -> None:
        cases = {}  # one copy of each subset, however many train on it
        for curve in sorted({one.plan.curve for one in wanted}):  # they note their test errors equally often
            which = [i for i, one in enumerate(wanted) if one.plan.curve == curve]
            some = [wanted[i] for i in which]
            training.fit_many(
                [missing.networks[i].to(self.device) for i in which],
                [self._batches(one, cases) for one in some],
                [_objective(one.plan) for one in some],
                [one.plan.recipe for one in some],
                seeds=[one.seed for one in some],
                checkpoints=[missing.checkpoints[i] for i in which],
                evaluate=[self._curve] * len(some) if curve else None,
                evaluate_every=max(1, curve),
                progress=[self._progress(one.name, one.plan.recipe.epochs) for one in some],
                finished=lambda n, which=which: missing.finished(which[n]),
            )

    def _batches(self, wanted: Request, cases: dict[Any, tuple[torch.Tensor, torch.Tensor]]) -> training.Batches:
        """What a network is trained on; `cases`, by what chooses them, are added to."""
        plan, teachers = wanted.plan, wanted.teachers
        moved = {"jitter": plan.jitter} | ({"flip": plan.flip} if isinstance(plan, ConvTraining) else {})
        teacher = teachers[0].network if any(moved.values()) and len(teachers) == 1 else None
        soft = self._soft_logits(plan, teachers) if teachers and teacher is None else None
        images, labels = self.data.train_images, self.data.train_labels
        if plan.fraction < 1 or plan.classes is not None:
            which = self.transfer_set(plan, wanted.seed)
            chosen_by = (plan.fraction, plan.fraction < 1 and wanted.seed, plan.classes and tuple(plan.classes))
            images, labels = cases.setdefault(chosen_by, (images[which], labels[which]))
            soft = None if soft is None else soft[which]
        return training.Batches(
            images, labels, batch_size=plan.recipe.batch_size, **moved, teacher_logits=soft, teacher=teacher
        )

    def _config(self, wanted: Request) -> dict[str, Any]:
        """All that decides a trained network, in values that JSON can hold.

        A setting that came later than the first published networks enters only where it is not what was fixed
        before, so that those networks keep their names.
        """
        plan, teachers = wanted.plan, wanted.teachers
        config = plan.model_dump(exclude={"network", "teachers"})
        if plan.classes is None:
            del config["classes"]
        if plan.recipe.beta2 == Recipe.model_fields["beta2"].default:
            del config["recipe"]["beta2"]
        config["network"] = self._widths(plan)
        config |= {"seed": wanted.seed, "data": {"name": self.data.name, "fingerprint": self.data.fingerprint}}
        if teachers:
            config["teachers"] = {"keys": [t.key for t in teachers]}
            if len(teachers) > 1:
                config["teachers"]["how"] = plan.teachers
        if wanted.start is not None:
            config["start"] = wanted.start.key
        return config

    def transfer_set(self, plan: Training, seed: int) -> torch.Tensor:
        """Indices of the training cases that a plan trains on: its share of them, and of these its classes."""
        which = self.subset(plan.fraction, seed)
        if plan.classes is None:
            return which
        wanted = torch.tensor(plan.classes, device=self.device)
        return which[torch.isin(self.data.train_labels[which], wanted)]

    def subset(self, fraction: float, seed: int) -> torch.Tensor:
        """Indices of a random share of the training cases; a smaller share of the same seed lies within."""
        count = len(self.data.train_images)
        if fraction == 1:
            return torch.arange(count, device=self.device)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return order[: max(1, round(fraction * count))].to(self.device)

    def _soft_logits(self, plan: Training, teachers: list[Trained]) -> torch.Tensor:
        """Teacher logits [N, C] over the training images, computed once for each set of teachers."""
        if len(teachers) == 1:
            return self.logits(teachers[0], "train")
        key = (*(t.key for t in teachers), plan.teachers, plan.temperature)
        if key not in self._teacher_logits:
            members = torch.stack([self.logits(t, "train") for t in teachers])
            mean = ensembles.average(members, plan.teachers, plan.temperature)
            self._teacher_logits[key] = plan.temperature * mean.log()
        return self._teacher_logits[key]

    # --- evaluation -----------------------------------------------------------------------------

    def logits(self, trained: Trained, split: str = "test") -> torch.Tensor:
        """Logits [N, C] over the "test", "train" or "validation" images, unshifted; kept for the next time."""
        key = (trained.key, split)
        if key not in self._logits:
            images = getattr(self.data, f"{split}_images")
            self._logits[key] = training.logits(trained.network, images)
        return self._logits[key]

    def wrong(self, trained: Trained) -> np.ndarray:
        """Which test cases a network gets wrong: boolean [N]."""
        return (self.logits(trained).argmax(1) != self.data.test_labels).cpu().numpy()

    def errors(self, trained: Trained | Sequence[Trained]) -> Any:
        """Test errors of a network, or a list of them for several."""
        return int(self.wrong(trained).sum()) if isinstance(trained, Trained) else [self.errors(t) for t in trained]

    def publish_predictions(
        self,
        name: str,
        networks: Sequence[Trained],
        changed: Callable[[Trained, torch.Tensor], torch.Tensor] = lambda trained, logits: logits,
    ) -> None:
        """Keep the predicted classes of these networks, [seeds, cases], beside the record.

        changed: what is done to a network's logits [N, C] before its predictions are read off.
        """
        answers = [changed(t, self.logits(t)).argmax(1).cpu().numpy().astype(np.uint8) for t in networks]
        self.predictions[name] = np.stack(answers)

    def _curve(self, network: nn.Module) -> dict[str, int]:
        """What a learning curve notes of a network."""
        answers = training.logits(network, self.data.test_images).argmax(1)
        return {"errors": int((answers != self.data.test_labels).sum())}


def _objective(plan: Training) -> training.Objective:
    return {
        "hard": training.hard_targets,
        "soft": training.soft_targets(plan.temperature, plan.soft_weight),
        "logits": training.matched_logits,
    }[plan.loss]


def begun_from(start: Trained) -> Callable[[Mapping[str, Any]], nn.Module]:
    """A `build` for the store: the configuration's network with another's weights."""

    def begun(config: Mapping[str, Any]) -> nn.Module:
        network = build(config)
        network.load_state_dict({name: tensor.cpu() for name, tensor in start.network.state_dict().items()})
        return network

    return begun
