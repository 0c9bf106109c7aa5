"""What a chapter asks for: trained networks, and a record of its numbers.

Whether a network is trained or loaded is the store's business. What is particular to images is in `images`, what is
particular to generalists and specialists in `committees`, and what is particular to speech in `speech`.
"""

import datetime
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from kdrepro import paths, training
from kdrepro.acoustic.batches import FrameBatches
from kdrepro.chapters.presets import Preset
from kdrepro.chapters.sizes import Specialist, Training
from kdrepro.files import writing
from kdrepro.networks import parameter_count
from kdrepro.store import Missing, Store, build
from kdrepro.verdicts import records


@dataclass(frozen=True)
class Trained:
    """A trained network with what made it.

    network: in eval mode on the run's device. key: its name in the store. history: rows of `training.fit`. name: how
    the run's log calls it.
    """

    network: nn.Module
    key: str
    seed: int
    plan: Training | Specialist
    history: list[dict[str, Any]]
    name: str = ""

    @property
    def kind(self) -> str:
        """Its name without the seed and without its number among others."""
        return re.sub(r"( \d+)?,? seed \d+$", "", self.name)

    @property
    def seconds(self) -> float:
        """What its training took."""
        return self.history[-1]["seconds"]

    @property
    def parameters(self) -> int:
        """How many weights and biases it has."""
        return parameter_count(self.network)


@dataclass(frozen=True)
class Request:
    """A network that a chapter asks for, and how it is trained where the store has not got it.

    config: all that decides the network, in values that JSON can hold. plan: its sizes, with the recipe. build: makes
    the untrained network of the configuration. batches: makes what it is trained on, not called for what is loaded.
    evaluate, evaluate_every, keep_best: see `training.fit`. name: how the run's log calls it.
    """

    config: Mapping[str, Any]
    plan: Training | Specialist
    seed: int
    objective: training.Objective
    batches: Callable[[], training.Batches | FrameBatches]
    name: str
    build: Callable[[Mapping[str, Any]], nn.Module] = build
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None
    evaluate_every: int = 1
    keep_best: str | None = None


@dataclass
class Experiment:
    """One chapter at one preset, on one data set."""

    chapter: str
    preset: Preset
    seeds: list[int]
    device: torch.device
    data: Any  # with a name and a fingerprint
    store: Store
    record: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    trainings: dict[str, float] = field(default_factory=dict)  # seconds of every network asked for, by key
    record_name: str = ""  # of its file; the chapter's where that has one data set
    left_out: dict[str, str] = field(default_factory=dict)  # claims that this data cannot show, and why
    into: str = ""  # folder of the preset's runs that the record is put into; "" as `records.place` says

    @property
    def sizes(self) -> Any:
        """This chapter's part of the preset."""
        return self.preset.chapters[self.chapter]

    def __post_init__(self) -> None:
        self.record_name = self.record_name or self.chapter
        self.record = {
            "chapter": self.chapter,
            "preset": self.preset.name,
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            **self._own(),
            "claims": {},
            "provenance": records.provenance(
                self.device,
                {
                    "preset": self.preset.name,
                    "seeds": self.seeds,
                    "minutes": self.sizes.minutes,
                    "sizes": self.sizes.model_dump(exclude={"searches"}),
                },
            ),
        }

    def _own(self) -> dict[str, Any]:
        """What a record says of a run that is not one of the book's: what it starts from, and what differs."""
        preset = self.preset
        if not preset.is_own:
            return {}
        changed = {key: {"before": before, "after": after} for key, (before, after) in preset.changed.items()}
        return {"own": {"origin": preset.origin, "changed": changed, "data": preset.own_data}}

    def train_many(self, requests: Sequence[Request]) -> list[Trained]:
        """Load these networks from the store; train together those that are missing (see `training.fit_many`)."""

        def train(missing: Missing) -> None:
            wanted = [requests[i] for i in missing.positions]
            training.fit_many(
                [network.to(self.device) for network in missing.networks],
                [one.batches() for one in wanted],
                [one.objective for one in wanted],
                [one.plan.recipe for one in wanted],
                seeds=[one.seed for one in wanted],
                checkpoints=missing.checkpoints,
                evaluate=[one.evaluate for one in wanted],
                evaluate_every=[one.evaluate_every for one in wanted],
                keep_best=[one.keep_best for one in wanted],
                progress=[self._progress(one.name, one.plan.recipe.epochs) for one in wanted],
                finished=missing.finished,
            )

        networks, trained = self.store.train_or_load_many(
            [one.config for one in requests], train, [one.build for one in requests]
        )
        found = [self._trained(network, one) for network, one in zip(networks, requests, strict=True)]
        for i, one in enumerate(found):
            done = f"trained in {one.seconds:.1f} s" if i in trained else f"loaded {one.key}"
            self.log(f"{requests[i].name}: {done}")
        return found

    def _trained(self, network: nn.Module, request: Request) -> Trained:
        """A network of the store as the chapter gets it, noted among those that the record counts."""
        history, key = self.store.entry(request.config)["history"], self.store.key(request.config)
        trained = Trained(network.to(self.device), key, request.seed, request.plan, history, request.name)
        self.trainings[key] = trained.seconds
        return trained

    def claim(
        self,
        claim_id: str,
        networks: Sequence[Trained],
        *,
        pooled: Mapping[str, float] | None = None,
        **metrics: Sequence[float],
    ) -> dict[str, Any]:
        """Record a claim's metrics, one value a seed; `networks` are those whose training it took.

        Of its first seed, the last of them is the one that the claim is about (`kdrepro.load`).

        pooled: metrics that have one value for all seeds together, such as a p-value.
        Returns the claim's entry of the record, its verdict included; nothing for one that is left out.
        """
        if claim_id in self.left_out:
            return {}
        each = {t.key: t for t in networks}.values()
        entry = records.claim_entry(claim_id, self.data.name, sum(t.seconds for t in each), metrics, pooled or {})
        entry["networks"] = dict(Counter(t.kind for t in each))
        first = [t for t in networks if t.seed == min(t.seed for t in networks)]
        entry["nets"] = {"seed": first[0].seed, "keys": list(dict.fromkeys(t.key for t in first))} if first else None
        self.record["claims"][claim_id] = entry
        return entry

    def compared(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with a column "paper"; without it on data of one's own, of which the paper says nothing."""
        if not self.preset.own_data:
            return table
        first = [name[0] if isinstance(name, tuple) else name for name in table.columns]
        return table.loc[:, [name != "paper" for name in first]]

    def finish(self) -> Path:
        """Write the record and the predictions of this run; returns the record's path.

        Where the record that is there has seeds that this run lacks, it stays: see `records.place`.
        """
        self.record["provenance"] |= {
            "networks": len(self.trainings),
            "training_seconds": round(sum(self.trainings.values()), 1),
        }
        run = paths.runs(self.preset.name)
        path = records.place(run / self.into, self.chapter, self.seeds) / "results" / f"{self.record_name}.json"
        records.write(path, self.record, self.predictions)
        self.log(f"wrote {path.relative_to(run)}")
        return path

    def log(self, line: str) -> None:
        """Add a line to the run's log, which `kdrepro run` shows while the chapter runs.

        Raises InputError when it cannot be written.
        """
        path = log_path(self.chapter, self.preset.name)
        with writing(f"the log {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.datetime.now():%H:%M:%S} {line}\n")

    def _progress(self, name: str, epochs: int) -> Callable[[dict[str, Any]], None]:
        ended: float | None = None  # when the last epoch did

        def progress(row: dict[str, Any]) -> None:
            nonlocal ended
            # By the clock, from epoch to epoch: among others, a network's own seconds are only its share of them.
            now = time.monotonic()
            took = row["seconds"] / row["epoch"] if ended is None else now - ended
            ended = now
            extra = f", {row['errors']} test errors" if "errors" in row else ""
            self.log(
                f"{name}: epoch {row['epoch']}/{epochs}, loss {row['loss']:.4g}{extra}, "
                f"{row['cases_per_second']:,} cases/s, {took * (epochs - row['epoch']):.0f} s left"
            )

        return progress


def log_path(chapter: str, preset: str) -> Path:
    """The log of a chapter's run."""
    return paths.runs(preset) / "logs" / f"{chapter}.log"
