"""Chapters on images: networks by plan, subsets of the training cases, averaged teachers, test errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from kdrepro import ensembles, training
from kdrepro.checkpoints import Checkpoint
from kdrepro.experiments import Experiment, Trained
from kdrepro.presets import ConvTraining, Training
from kdrepro.store import build
from kdrepro.training import Recipe


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
        """Load the network of this plan and seed from the store, or train it.

        teacher: whose logits are matched when plan.loss is "soft" or "logits"; several are averaged as
            plan.teachers says. label: how the run's log names it. start: a network of the same layers whose weights
            training starts from, instead of random ones.
        """
        teachers = [] if teacher is None else [teacher] if isinstance(teacher, Trained) else list(teacher)
        if (plan.loss == "hard") != (not teachers):
            raise ValueError(f"A plan with loss {plan.loss!r} was given {len(teachers)} teachers.")
        config = self._config(plan, seed, teachers) | ({} if start is None else {"start": start.key})
        name = f"{label or plan.loss} seed {seed}"
        loaded = True

        def fit(network: nn.Module, checkpoint: Checkpoint) -> None:
            nonlocal loaded
            loaded = False
            self._fit(network, plan, seed, teachers, checkpoint, name)

        network = self.store.train_or_load(config, fit, build if start is None else begun_from(start))
        trained = self._trained(network, config, seed, plan)
        self.log(f"{name}: " + (f"loaded {trained.key}" if loaded else f"trained in {trained.seconds:.1f} s"))
        return trained

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
        """
        seeds = self.seeds if seeds is None else seeds
        none = [None] * len(seeds)
        each = zip(seeds, teachers or none, starts or none, strict=False)  # there may be teachers of more seeds
        return [self.train(plan, seed, teacher, label, start) for seed, teacher, start in each]

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

    def _fit(self, network, plan: Training, seed: int, teachers: list[Trained], checkpoint: Checkpoint, name: str):
        network.to(self.device)
        which = self.transfer_set(plan, seed)
        moved = {"jitter": plan.jitter} | ({"flip": plan.flip} if isinstance(plan, ConvTraining) else {})
        teacher = teachers[0].network if any(moved.values()) and len(teachers) == 1 else None
        cached = self._soft_logits(plan, teachers)[which] if teachers and teacher is None else None
        batches = training.Batches(
            self.data.train_images[which],
            self.data.train_labels[which],
            batch_size=plan.recipe.batch_size,
            **moved,
            teacher_logits=cached,
            teacher=teacher,
        )
        objective = {
            "hard": training.hard_targets,
            "soft": training.soft_targets(plan.temperature, plan.soft_weight),
            "logits": training.matched_logits,
        }[plan.loss]
        evaluate = (lambda network: {"errors": self._count_errors(network)}) if plan.curve else None
        training.fit(
            network,
            batches,
            objective,
            plan.recipe,
            seed=seed,
            checkpoint=checkpoint,
            evaluate=evaluate,
            evaluate_every=max(1, plan.curve),
            progress=self._progress(name, plan.recipe.epochs),
        )

    def _config(self, plan: Training, seed: int, teachers: list[Trained]) -> dict[str, Any]:
        """All that decides a trained network, in values that JSON can hold.

        A setting that came later than the first published networks enters only where it is not what was fixed
        before, so that those networks keep their names.
        """
        config = plan.model_dump(exclude={"network", "teachers"})
        if plan.classes is None:
            del config["classes"]
        if plan.recipe.beta2 == Recipe.model_fields["beta2"].default:
            del config["recipe"]["beta2"]
        config["network"] = self._widths(plan)
        config |= {"seed": seed, "data": {"name": self.data.name, "fingerprint": self.data.fingerprint}}
        if teachers:
            config["teachers"] = {"keys": [t.key for t in teachers]}
            if len(teachers) > 1:
                config["teachers"]["how"] = plan.teachers
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

    def _count_errors(self, network: nn.Module) -> int:
        return int((training.logits(network, self.data.test_images).argmax(1) != self.data.test_labels).sum())


def begun_from(start: Trained) -> Callable[[Mapping[str, Any]], nn.Module]:
    """A `build` for the store: the configuration's network with another's weights."""

    def begun(config: Mapping[str, Any]) -> nn.Module:
        network = build(config)
        network.load_state_dict({name: tensor.cpu() for name, tensor in start.network.state_dict().items()})
        return network

    return begun
