"""Chapters on images: networks by plan, subsets of the training cases, averaged teachers, test errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import nn

from kdrepro import ensembles, losses, training
from kdrepro.chapters.experiment import Experiment, Request, Trained
from kdrepro.chapters.sizes import ConvTraining, Training
from kdrepro.checks import NO_LABEL
from kdrepro.store import build

# How many numbers of soft targets are kept for all training images: 1 GB of them.
MOST_STORED = 2**28

OBJECTIVES: dict[str, Callable[[Training], training.Objective]] = {
    "hard": lambda plan: training.hard_targets,
    "soft": lambda plan: training.soft_targets(plan.temperature, plan.soft_weight),
    "logits": lambda plan: training.matched_logits,
    "dkd": lambda plan: training.taught(losses.decoupled_loss, **_softness(plan), beta=plan.beta),
    "standardised": lambda plan: training.taught(losses.standardised_loss, **_softness(plan)),
}


def _softness(plan: Training) -> dict[str, float]:
    return {"temperature": plan.temperature, "soft_weight": plan.soft_weight}


@dataclass
class ImageExperiment(Experiment):
    """One chapter on images at one preset; its data is an `ImageData`."""

    _logits: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    _teacher_logits: dict[tuple, torch.Tensor] = field(default_factory=dict)
    _subsets: WeakValueDictionary = field(default_factory=WeakValueDictionary)

    @cached_property
    def inputs(self) -> int:
        """Pixels of an image."""
        return self.data.train_images[0].numel()

    # --- networks -------------------------------------------------------------------------------

    def request(
        self,
        plan: Training,
        seed: int,
        teacher: Trained | Sequence[Trained] | None = None,
        name: str = "",
        start: Trained | None = None,
    ) -> Request:
        """Ask for the network of this plan and seed, with others: see `train_many`.

        teacher: whose logits are matched when plan.loss is not "hard"; several are averaged as plan.teachers
        says. name: how the run's log calls the network. start: a network of the same layers whose weights training
        starts from, instead of random ones.
        Raises ValueError when there are teachers and plan.loss is "hard", and when there are none and it is not.
        """
        teachers = [] if teacher is None else [teacher] if isinstance(teacher, Trained) else list(teacher)
        if (plan.loss == "hard") != (not teachers):
            raise ValueError(f"A plan with loss {plan.loss!r} was given {len(teachers)} teachers.")
        plan = self.settled(plan)
        return Request(
            self._config(plan, seed, teachers, start),
            plan,
            seed,
            OBJECTIVES[plan.loss](plan),
            partial(self._batches, plan, seed, teachers),
            f"{name or plan.loss} seed {seed}",
            build if start is None else begun_from(start),
            self._curve if plan.curve else None,
            max(1, plan.curve),
            needs=tuple(teachers) if start is None else (*teachers, start),
        )

    def train(self, *asked: Any, **also: Any) -> Trained:
        """Load one network from the store, or train it; the arguments are those of `request`."""
        return self.train_many([self.request(*asked, **also)])[0]

    def train_seeds(
        self,
        plan: Training,
        teachers: Sequence[Any] | None = None,
        seeds: Sequence[int] | None = None,
        name: str = "",
        starts: Sequence[Trained] | None = None,
    ) -> list[Trained]:
        """One network a seed; `teachers` holds, for each seed, the teacher (or list of teachers) to match.

        starts: for each seed, the network whose weights training starts from.
        Raises ValueError when there are fewer of these than seeds.
        """
        seeds = self.seeds if seeds is None else seeds
        for what, given in (("teachers", teachers), ("starts", starts)):
            if given is not None and len(given) < len(seeds):
                raise ValueError(f"There are {len(seeds)} seeds but only {len(given)} {what}.")
        none = [None] * len(seeds)
        each = zip(seeds, teachers or none, starts or none, strict=False)  # there may be teachers of more seeds
        return self.train_many([self.request(plan, seed, teacher, name, start) for seed, teacher, start in each])

    def untrained(self, plan: Training, seed: int) -> nn.Module:
        """The network of this plan and seed before its first step."""
        return build({"network": self.architecture(plan), "seed": seed}).to(self.device)

    def architecture(self, plan: Training) -> dict[str, Any]:
        """The arguments of the plan's network, for this chapter's images and classes."""
        images = self.data.train_images
        if isinstance(plan, ConvTraining):
            return plan.network.of(images.shape[1] if images.dim() == 4 else 1, self.data.classes)
        return plan.network.of(self.inputs, self.data.classes)

    def _config(self, plan: Training, seed: int, teachers: Sequence[Trained], start: Trained | None) -> dict[str, Any]:
        """All that decides a trained network, in values that JSON can hold.

        A setting that came later than the first published networks enters only where it is not what was fixed
        before, so that those networks keep their names.
        """
        config = plan.model_dump(exclude={"network", "teachers"})
        if plan.classes is None:
            del config["classes"]
        if plan.recipe.beta2 == training.Recipe.model_fields["beta2"].default:
            del config["recipe"]["beta2"]
        config["network"] = self.architecture(plan)
        config |= {"seed": seed, "data": {"name": self.data.name, "fingerprint": self.data.fingerprint}}
        if teachers:
            config["teachers"] = {"keys": [t.key for t in teachers]}
            if len(teachers) > 1:
                config["teachers"]["how"] = plan.teachers
        if start is not None:
            config["start"] = start.key
        return config

    def _batches(self, plan: Training, seed: int, teachers: list[Trained]) -> training.Batches:
        """What a network is trained on."""
        moved = moves(plan)
        asked = any(moved.values()) or (self._many_soft_targets and not plan.label_in_targets)
        teacher = teachers[0].network if asked and len(teachers) == 1 else None
        soft = self._soft_logits(plan, teachers) if teachers and teacher is None else None
        images, labels = self.data.train_images, self.data.train_labels
        if plan.label_in_targets:
            soft = losses.with_label(soft, labels, plan.temperature, plan.label_in_targets)
        if plan.labelled < 1:
            labels = torch.full_like(labels, NO_LABEL)
            known = self.subset(plan.labelled, seed)
            labels[known] = self.data.train_labels[known]
        if plan.fraction < 1 or plan.classes is not None:
            which = self.transfer_set(plan, seed)
            images, labels = self._chosen(plan, seed, which), labels[which]
            soft = None if soft is None else soft[which]
        return training.Batches(
            images, labels, batch_size=plan.recipe.batch_size, **moved, teacher_logits=soft, teacher=teacher
        )

    @property
    def _many_soft_targets(self) -> bool:
        """Whether a teacher is rather asked for every batch, since all that it says would fill the memory."""
        return len(self.data.train_images) * self.data.classes > MOST_STORED

    def _chosen(self, plan: Training, seed: int, which: torch.Tensor) -> torch.Tensor:
        """The images of a transfer set: one copy, however many networks train on it at a time."""
        chosen_by = (plan.fraction, plan.fraction < 1 and seed, plan.classes and tuple(plan.classes))
        images = self._subsets.get(chosen_by)
        if images is None:
            images = self._subsets[chosen_by] = self.data.train_images[which]
        return images

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
        unseen: Sequence[int] = (),
    ) -> None:
        """Keep beside the record the classes that these networks predict, [seeds, cases], and which of them are right.

        changed: what is done to a network's logits [N, C] before its predictions are read off. unseen: classes whose
        cases are also counted apart. The right ones are packed bits, [seeds, cases / 8]: with them the figures can be
        computed again where the labels are not.
        """
        labels = self.data.test_labels.cpu().numpy()
        kind = np.min_scalar_type(self.data.classes - 1)
        answers = np.stack([changed(t, self.logits(t)).argmax(1).cpu().numpy().astype(kind) for t in networks])
        self.predictions[name] = answers
        self.predictions[f"{name}.right"] = np.packbits(answers == labels, axis=1)
        if unseen:
            inside = np.isin(labels, unseen)
            self.predictions[f"{name}.right on it"] = np.packbits((answers == labels)[:, inside], axis=1)
            self.predictions[f"{name}.cases on it"] = np.array(inside.sum())

    def publish_right(self, name: str, networks: Sequence[Trained]) -> None:
        """Keep beside the record which test cases these get right, packed bits [seeds, cases / 8], and no more."""
        self.predictions[f"{name}.right"] = np.stack([np.packbits(~self.wrong(t)) for t in networks])

    def publish_logits(self, name: str, networks: Sequence[Trained], cases: int) -> None:
        """Keep the logits [seeds, cases, C] of the first so many test cases beside the record."""
        self.predictions[f"{name}.logits"] = np.stack([self.logits(t)[:cases].cpu().numpy() for t in networks])

    def finish(self) -> Path:
        """Write the record and the predictions; with these, of how many test images they are."""
        if self.predictions:
            self.predictions["cases"] = np.array(len(self.data.test_images))
        return super().finish()

    def _curve(self, network: nn.Module) -> dict[str, int]:
        """What a learning curve notes of a network."""
        answers = training.logits(network, self.data.test_images).argmax(1)
        return {"errors": int((answers != self.data.test_labels).sum())}


def moves(plan: Training) -> dict[str, Any]:
    """How a plan's images are moved and changed, as `training.Batches` takes it."""
    names = ("jitter", "flip", "cutout", "mix") if isinstance(plan, ConvTraining) else ("jitter",)
    return {name: getattr(plan, name) for name in names}


def begun_from(start: Trained) -> Callable[[Mapping[str, Any]], nn.Module]:
    """A `build` for the store: the configuration's network with another's weights."""

    def begun(config: Mapping[str, Any]) -> nn.Module:
        network = build(config)
        network.load_state_dict({name: tensor.cpu() for name, tensor in start.network.state_dict().items()})
        return network

    return begun
