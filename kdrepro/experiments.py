"""What a chapter asks for: its sizes, its data, trained networks, and a record of its numbers.

A notebook starts with ``run = experiments.start("02-mnist", preset=..., ...)`` and from then on asks `run`
for networks by their configuration; whether one is trained or loaded is the store's business.
"""

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdrepro import data, ensembles, paths, presets, records, training
from kdrepro.checkpoints import Checkpoint
from kdrepro.errors import InputError
from kdrepro.networks import parameter_count
from kdrepro.presets import Preset, Training
from kdrepro.store import Store, build
from kdrepro.training import Recipe


@dataclass(frozen=True)
class Trained:
    """A trained network with what made it.

    network: in eval mode on the run's device. key: its name in the store. history: rows of `training.fit`.
    """

    network: nn.Module
    key: str
    seed: int
    plan: Training
    history: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """What its training took."""
        return self.history[-1]["seconds"]

    @property
    def parameters(self) -> int:
        return parameter_count(self.network)


@dataclass
class Experiment:
    """One chapter at one preset."""

    chapter: str
    preset: Preset
    seeds: list[int]
    device: torch.device
    data: data.ImageData
    store: Store
    record: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    trainings: dict[str, float] = field(default_factory=dict)  # seconds of every network asked for, by key
    _logits: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    _teacher_logits: dict[tuple, torch.Tensor] = field(default_factory=dict)

    @property
    def sizes(self) -> Any:
        """This chapter's part of the preset."""
        return self.preset.chapters[self.chapter]

    @cached_property
    def inputs(self) -> int:
        return self.data.train_images[0].numel()

    # --- networks -------------------------------------------------------------------------------

    def train(
        self, plan: Training, seed: int, teacher: Trained | Sequence[Trained] | None = None, label: str = ""
    ) -> Trained:
        """Load the network of this plan and seed from the store, or train it.

        teacher: whose logits are matched when plan.loss is "soft" or "logits"; several are averaged as
            plan.teachers says. label: how the run's log names it.
        """
        teachers = [] if teacher is None else [teacher] if isinstance(teacher, Trained) else list(teacher)
        if (plan.loss == "hard") != (not teachers):
            raise ValueError(f"A plan with loss {plan.loss!r} was given {len(teachers)} teachers.")
        config = self._config(plan, seed, teachers)
        name = f"{label or plan.loss} seed {seed}"
        loaded = True

        def fit(network: nn.Module, checkpoint: Checkpoint) -> None:
            nonlocal loaded
            loaded = False
            self._fit(network, plan, seed, teachers, checkpoint, name)

        network = self.store.train_or_load(config, fit).to(self.device)
        trained = Trained(network, self.store.key(config), seed, plan, self.store.entry(config)["history"])
        self.log(f"{name}: " + (f"loaded {trained.key}" if loaded else f"trained in {trained.seconds:.1f} s"))
        self.trainings[trained.key] = trained.seconds
        return trained

    def train_seeds(
        self, plan: Training, teachers: Sequence[Any] | None = None, seeds: Sequence[int] | None = None, label: str = ""
    ) -> list[Trained]:
        """One network a seed; `teachers` holds, for each seed, the teacher (or list of teachers) to match."""
        seeds = self.seeds if seeds is None else seeds
        return [self.train(plan, s, teachers[i] if teachers else None, label) for i, s in enumerate(seeds)]

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
        teacher = teachers[0].network if plan.jitter and len(teachers) == 1 else None
        cached = self._soft_logits(plan, teachers)[which] if teachers and teacher is None else None
        batches = training.Batches(
            self.data.train_images[which],
            self.data.train_labels[which],
            batch_size=plan.recipe.batch_size,
            jitter=plan.jitter,
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
        """Logits [N, C] over the "test" or "train" images, unshifted; kept for the next time."""
        key = (trained.key, split)
        if key not in self._logits:
            images = self.data.test_images if split == "test" else self.data.train_images
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

    # --- numbers --------------------------------------------------------------------------------

    def claim(
        self,
        claim_id: str,
        networks: Sequence[Trained],
        *,
        pooled: Mapping[str, float] | None = None,
        **metrics: Sequence[float],
    ) -> dict[str, Any]:
        """Record a claim's metrics, one value a seed; `networks` are those whose training it took.

        pooled: metrics that have one value for all seeds together, such as a p-value.
        Returns the claim's entry of the record, its verdict included.
        """
        seconds = sum({t.key: t.seconds for t in networks}.values())
        entry = records.claim_entry(claim_id, self.data.name, seconds, metrics, pooled or {})
        self.record["claims"][claim_id] = entry
        return entry

    def finish(self) -> Path:
        """Write the record and the predictions of this run; returns the record's path."""
        self.record["provenance"] |= {
            "networks": len(self.trainings),
            "training_seconds": round(sum(self.trainings.values()), 1),
        }
        path = paths.runs(self.preset.name) / "results" / f"{self.chapter}.json"
        records.write(path, self.record, self.predictions)
        self.log(f"wrote {path.name}")
        return path

    # --- log ------------------------------------------------------------------------------------

    def log(self, line: str) -> None:
        """Add a line to the run's log, which `kdrepro run` shows while the chapter runs."""
        path = log_path(self.chapter, self.preset.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.datetime.now():%H:%M:%S} {line}\n")

    def _progress(self, name: str, epochs: int) -> Callable[[dict[str, Any]], None]:
        def progress(row: dict[str, Any]) -> None:
            left = row["seconds"] / row["epoch"] * (epochs - row["epoch"])
            extra = f", {row['errors']} test errors" if "errors" in row else ""
            self.log(
                f"{name}: epoch {row['epoch']}/{epochs}, loss {row['loss']:.4g}{extra}, "
                f"{row['images_per_second']:,} images/s, {left:.0f} s left"
            )

        return progress


def log_path(chapter: str, preset: str) -> Path:
    """The log of a chapter's run."""
    return paths.runs(preset) / "logs" / f"{chapter}.log"


def start(
    chapter: str,
    *,
    preset: str = "smoke",
    seeds: int | None = None,
    first_seed: int = 0,
    device: str = "cpu",
    data_root: str | None = None,
) -> Experiment:
    """Check everything that was asked for and return the chapter's experiment.

    preset: smoke, full or paper. seeds: how many, None for the preset's number. first_seed: the first of
    them. device: "cpu", "cuda" or "cuda:1". data_root: the folder of the data sets, None for
    KDREPRO_DATA or `data/`.
    Raises InputError, before anything trains, when one of them is wrong.
    """
    chapter, loaded, seed_list, where, images = check(chapter, preset, seeds, first_seed, device, data_root)
    sizes = loaded.chapters[chapter]
    run = Experiment(
        chapter=chapter,
        preset=loaded,
        seeds=seed_list,
        device=where,
        data=images.to(where),
        store=Store(paths.runs(loaded.name) / "store", warn=lambda line: print(line, file=sys.stderr)),
    )
    config = {
        "preset": loaded.name,
        "seeds": run.seeds,
        "minutes": sizes.minutes,
        "sizes": sizes.model_dump(),
    }
    run.record = {
        "chapter": chapter,
        "preset": loaded.name,
        "data": {"name": images.name, "fingerprint": images.fingerprint},
        "claims": {},
        "provenance": records.provenance(where, config),
    }
    run.log(f"{chapter} at {loaded.name}: {images.name}, seeds {run.seeds}, {where}")
    return run


def check(
    chapter: str, preset: str, seeds: Any, first_seed: Any, device: str, data_root: str | None
) -> tuple[str, Preset, list[int], torch.device, data.ImageData]:
    """What `start` was asked for, looked up and validated; the data on the CPU.

    Raises InputError for whatever is wrong with it.
    """
    chapter = presets.check_chapter(chapter)
    loaded = presets.load(preset)
    count = check_count("seeds", loaded.chapters[chapter].seeds if seeds is None else seeds, least=1)
    first = check_count("first_seed", first_seed, least=0)
    where = check_device(device)
    images = data.digits() if loaded.data == "digits" else data.mnist(paths.data_root(data_root))
    return chapter, loaded, list(range(first, first + count)), where, images


def check_count(name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`, also from a string of digits. Raises InputError."""
    try:
        number = int(str(value))
    except ValueError:
        number = None
    if number is None or number < least or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return number


def check_device(name: str) -> torch.device:
    """A device that is there. Raises InputError."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"There is no device {name!r}: use cpu or cuda.") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not there.get(device.type, False):
        raise InputError(f"The device {name!r} is not there: this machine has {_devices()}; use one of these.")
    return device


def _devices() -> str:
    return " and ".join(["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())])
