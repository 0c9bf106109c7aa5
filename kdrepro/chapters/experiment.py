"""What a chapter asks for: trained networks, and a record of its numbers.

Whether a network is trained or loaded is the store's business, and where it is trained that of `kdrepro.executors`.
What is particular to images is in `images`, to generalists and specialists in `committees`, and to speech in `speech`.
"""

import datetime
import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property, partial
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
from kdrepro.executors import Desk, Task, Workers
from kdrepro.executors.tasks import Shared
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
        """Its name without the seed, and without the number of a member or specialist."""
        return re.sub(r"(?<=member|ialist) \d+$", "", re.sub(r",? seed \d+$", "", self.name))

    @property
    def seconds(self) -> float:
        """What its training took."""
        return self.history[-1]["seconds"]

    @property
    def parameters(self) -> int:
        """How many weights and biases it has."""
        return parameter_count(self.network)


def _digest(plans: Iterable[Mapping[str, Any]]) -> str:
    """12 hex digits over the ways in which networks were trained, whatever their number and seeds."""
    texts = sorted({json.dumps(plan, sort_keys=True) for plan in plans})
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


class Promised(Trained):
    """A network that is trained elsewhere. Its name is known at once; whoever looks at more waits until it is there.

    In another process it is read from the store, where somebody looks at it.
    """

    def __init__(self, run: "Experiment", request: "Request"):
        known = {"key": run.store.key(request.config), "seed": request.seed, "plan": request.plan, "name": request.name}
        vars(self).update(known, _run=run, _request=request)

    def __reduce__(self) -> tuple:
        return Promised, (self._run, self._request)

    def __repr__(self) -> str:
        return f"Promised({self.name!r}, {self.key})"

    @property
    def network(self) -> nn.Module:
        """See `Trained`."""
        return self._run.found(self._request).network

    @property
    def history(self) -> list[dict[str, Any]]:
        """See `Trained`."""
        return self._run.found(self._request).history


@dataclass(frozen=True)
class Request:
    """A network that a chapter asks for, and how it is trained where the store has not got it.

    config: all that decides the network, in values that JSON can hold. plan: its sizes, with the recipe. build: makes
    the untrained network of the configuration. batches: makes what it is trained on, not called for what is loaded.
    evaluate, evaluate_every, keep_best: see `training.fit`. name: how the run's log calls it. needs: the networks that
    it is trained from.
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
    needs: tuple[Trained, ...] = ()


LEAST_ON_GPU = 5  # networks of a stack there, whose steps take as long for one as for five
CONFIRM = "confirm"  # the folder of the preset's runs that a confirmation's records are put into


def is_to_confirm(into: str) -> bool:
    """Whether this folder of a preset's runs is for the records of a confirmation."""
    return into.split("/")[0] == CONFIRM


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
    devices: dict[str, str] = field(default_factory=dict)  # what trained each of them, by key
    record_name: str = ""  # of its file; the chapter's where that has one data set
    left_out: dict[str, str] = field(default_factory=dict)  # claims that this data cannot show, and why
    into: str = ""  # folder of the preset's runs that the record is put into; "" as `records.place` says
    workers: Workers | None = None  # who trains; None for this process itself
    beside: list[int] | None = None  # seeds of the run that it belongs to, whose folder its record goes to
    precision: str = "auto"  # of the products of recipes that say "auto"; "auto" for what the device gains from
    tell: Callable[[str], None] | None = None  # takes the log's lines; None for the log's file
    _promised: dict[str, Request] = field(default_factory=dict)  # what workers train, by key
    _found: dict[str, Trained] = field(default_factory=dict)  # of these, what somebody has looked at

    @property
    def confirms(self) -> bool:
        """Whether its seeds are to confirm what a record has."""
        return is_to_confirm(self.into)

    @property
    def sizes(self) -> Any:
        """This chapter's part of the preset."""
        return self.preset.chapters[self.chapter]

    def __post_init__(self) -> None:
        self.record_name = self.record_name or self.chapter
        trained_by = {} if self.workers is None else self.workers.describe()
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
            )
            | trained_by,
        }

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs to train this run's networks: not its record, nor what it has looked at so far."""
        kept = ("chapter", "preset", "seeds", "data", "store", "record_name", "into")
        state = {name: getattr(self, name) for name in kept}
        state["device"] = self._trains_on
        # Said once, by this run: a worker's processor may gain from another.
        state["precision"] = self._usual_precision if self.precision == "auto" else self.precision
        return state | ({"data": self.data.to("cpu")} if hasattr(self.data, "to") else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        for one in fields(self):
            if one.default_factory is not MISSING:
                setattr(self, one.name, one.default_factory())
            elif one.default is not MISSING:
                setattr(self, one.name, one.default)
        vars(self).update(state)
        if hasattr(self.data, "to"):
            self.data = self.data.to(self.device)

    def _own(self) -> dict[str, Any]:
        """What a record says of a run that is not one of the book's: what it starts from, and what differs."""
        preset = self.preset
        if not preset.is_own:
            return {}
        changed = {key: {"before": before, "after": after} for key, (before, after) in preset.changed.items()}
        return {"own": {"origin": preset.origin, "changed": changed, "data": preset.own_data}}

    def train_many(self, requests: Sequence[Request]) -> list[Trained]:
        """Load these networks from the store; train together those that are missing (see `training.fit_many`).

        With workers, those are trained there, and this returns at once: whoever looks at one of them waits for it.
        """
        if self.workers is not None:
            self._send(requests)
            self._promised |= {self.store.key(one.config): one for one in requests}
            return [Promised(self, one) for one in requests]

        def train(missing: Missing) -> None:
            wanted = [requests[i] for i in missing.positions]
            recipes = [self.resolved(one.plan.recipe) for one in wanted]
            training.fit_many(
                [network.to(self.device) for network in missing.networks],
                [one.batches() for one in wanted],
                [one.objective for one in wanted],
                recipes,
                seeds=[one.seed for one in wanted],
                checkpoints=missing.checkpoints,
                evaluate=[one.evaluate for one in wanted],
                evaluate_every=[one.evaluate_every for one in wanted],
                keep_best=[one.keep_best for one in wanted],
                progress=[self._progress(one.name, one.plan.recipe.epochs) for one in wanted],
                finished=lambda n: missing.finished(n, precision=recipes[n].precision),
            )

        networks, trained = self.store.train_or_load_many(
            [one.config for one in requests], train, [one.build for one in requests]
        )
        found = [self._trained(network, one) for network, one in zip(networks, requests, strict=True)]
        for i, one in enumerate(found):
            done = f"trained in {one.seconds:.1f} s" if i in trained else f"loaded {one.key}"
            self.log(f"{requests[i].name}: {done}")
        return found

    # --- trained elsewhere ----------------------------------------------------------------------

    @cached_property
    def _shared(self) -> Shared:
        """This run as workers get it, once each."""
        return Shared(self)

    @property
    def _trains_on(self) -> torch.device:
        """The device that workers train on."""
        given = None if self.workers is None else self.workers.options.device
        return self.device if given is None else torch.device(given)

    def _send(self, requests: Sequence[Request]) -> None:
        """Have workers train what the store has not got and nobody was asked for yet."""
        wanted = {self.store.key(one.config): one for one in requests}
        missing = [
            one
            for key, one in wanted.items()
            if not self.workers.knows(key) and key not in self._found and self.store.entry(one.config) is None
        ]
        least = LEAST_ON_GPU if self._trains_on.type == "cuda" else 1
        groups = _groups(missing, self.workers.count, least) if missing else []
        self.workers.add([self._task(group) for group in groups])

    def _task(self, group: Sequence[Request]) -> Task:
        """A group of networks that train together, as a task."""
        names = group[0].name + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        needs = frozenset(net.key for one in group for net in one.needs)
        keys = tuple(self.store.key(one.config) for one in group)
        return Task(names, partial(_train_at, self, list(group)), keys, needs, self._shared)

    def found(self, request: Request) -> Trained:
        """A network that was promised, once it is there. Raises what its training has raised."""
        key = self.store.key(request.config)
        if key not in self._found:
            if self.workers is not None:
                self.workers.wait(key)
            # Read from the store; trained here where somebody has removed it, or damaged it, meanwhile.
            here = {"workers": None, "tell": lambda line: None if line.endswith(f"loaded {key}") else self.log(line)}
            self._found[key] = _with(self, **here).train_many([request])[0]
        return self._found[key]

    @property
    def _usual_precision(self) -> str:
        """What "auto" means on the run's device."""
        return "bf16" if training.gains_from_bf16(self.device) else "fp32"

    def resolved(self, recipe: training.Recipe) -> training.Recipe:
        """A recipe with "auto" made what this run means by it, whatever machine trains."""
        if recipe.precision != "auto":
            return recipe
        means = self._usual_precision if self.precision == "auto" else self.precision
        return recipe.model_copy(update={"precision": means})

    def settled(self, plan: Any) -> Any:
        """A plan that says this run's precision where that is another than the run's device would choose.

        So it stands in the network's name, and machines of several kinds don't mix their results; where it is what
        "auto" has always meant here, names stay what they were.
        """
        if plan.recipe.precision != "auto" or self.precision == "auto":
            return plan
        if self.precision == self._usual_precision:
            return plan
        return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"precision": self.precision})})

    def _trained(self, network: nn.Module, request: Request) -> Trained:
        """A network of the store as the chapter gets it, noted among those that the record counts."""
        entry, key = self.store.entry(request.config), self.store.key(request.config)
        trained = Trained(network.to(self.device), key, request.seed, request.plan, entry["history"], request.name)
        made = entry.get("made", {})
        self.trainings[key], self.devices[key] = trained.seconds, made.get("device", "")
        precision, there = self.resolved(request.plan.recipe).precision, made.get("precision")
        if there not in (None, precision):
            self.log(f"{request.name}: was trained in {there}, where this run trains in {precision}")
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
        entry["recipes"] = _digest(t.plan.model_dump(mode="json") for t in each)
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
        for request in self._promised.values():
            self.found(request)
        self.record["provenance"] |= {
            "networks": len(self.trainings),
            "training_seconds": round(sum(self.trainings.values()), 1),
            "trained_on": dict(Counter(device for device in self.devices.values() if device)),
        }
        run = paths.runs(self.preset.name)
        seeds = self.seeds if self.beside is None else self.beside
        path = records.place(run / self.into, self.chapter, seeds) / "results" / f"{self.record_name}.json"
        records.write(path, self.record, self.predictions)
        self.log(f"wrote {path.relative_to(run)}")
        return path

    def log(self, line: str) -> None:
        """Add a line to the run's log, which `kdrepro run` shows while the chapter runs.

        Raises InputError when it cannot be written.
        """
        (self.tell or partial(write_log, self.chapter, self.preset.name))(line)

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


def _with(run: Experiment, **changes: Any) -> Experiment:
    """The same run, its record and all that it keeps shared, with some fields changed."""
    other = object.__new__(type(run))
    vars(other).update(vars(run), **changes)
    return other


def _train_at(run: Experiment, group: Sequence[Request], desk: Desk) -> None:
    """Train a group of networks in a worker's process, into the store."""
    run.tell, run.store.owner = desk.tell, desk.owner
    run.train_many(group)


def _groups(requests: Iterable[Request], workers: int, least: int = 1) -> list[list[Request]]:
    """Networks that train as a stack together, each stack shared out among the workers; in the order they are asked.

    least: of a stack, where there are so many.
    """
    alike: dict[str, list[Request]] = {}
    for one in requests:
        alike.setdefault(_kind(one), []).append(one)
    found = []
    for members in alike.values():
        size = max(least, math.ceil(len(members) / workers))
        found += [members[i : i + size] for i in range(0, len(members), size)]
    return found


def _kind(request: Request) -> str:
    """What networks that train as a stack have in common, by their configurations; `fit_many` looks again."""
    config, recipe = request.config, request.plan.recipe.model_dump(exclude={"learning_rate"})
    if "widths" not in config["network"]:
        return json.dumps(config, sort_keys=True)  # alone
    cases = [config.get(name) for name in ("fraction", "sampling", "classes", "data", "specialist")]
    return json.dumps([config["network"], recipe, *cases], sort_keys=True)


def write_log(chapter: str, preset: str, line: str) -> None:
    """Add a line to the log of a chapter's run. Raises InputError when it cannot be written."""
    path = log_path(chapter, preset)
    with writing(f"the log {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.datetime.now():%H:%M:%S} {line}\n")


def log_path(chapter: str, preset: str) -> Path:
    """The log of a chapter's run."""
    return paths.runs(preset) / "logs" / f"{chapter}.log"
