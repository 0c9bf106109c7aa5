"""What a chapter asks for: its sizes, its data, trained networks, and a record of its numbers.

A notebook starts with ``run = experiments.start("02-mnist", preset=..., ...)`` and from then on asks `run` for networks
by their configuration; whether one is trained or loaded is the store's business. What is particular to images is in
`image_experiments`, what is particular to speech in `speech_experiments`.
"""

import datetime
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdrepro import data, paths, presets, records
from kdrepro.errors import InputError
from kdrepro.files import remove_stale, writing
from kdrepro.networks import parameter_count
from kdrepro.presets import AcousticEnsemble, Preset, Specialised, Training
from kdrepro.speech import espeak, timit
from kdrepro.store import Store


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
            "claims": {},
            "provenance": records.provenance(
                self.device,
                {
                    "preset": self.preset.name,
                    "seeds": self.seeds,
                    "minutes": self.sizes.minutes,
                    "sizes": self.sizes.model_dump(),
                },
            ),
        }

    def _trained(self, network: nn.Module, config: Mapping[str, Any], seed: int, plan: Training) -> Trained:
        """A network of the store as the chapter gets it, noted among those that the record counts."""
        entry = self.store.entry(config)
        trained = Trained(network.to(self.device), self.store.key(config), seed, plan, entry["history"])
        self.trainings[trained.key] = trained.seconds
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
        path = paths.runs(self.preset.name) / "results" / f"{self.record_name}.json"
        records.write(path, self.record, self.predictions)
        self.log(f"wrote {path.name}")
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

    def _log_each(self, names: Sequence[str], found: Sequence[Trained], trained: Sequence[int]) -> None:
        """Say of each network whether it was loaded or, at these positions, trained."""
        for i, (name, network) in enumerate(zip(names, found, strict=True)):
            done = f"trained in {network.seconds:.1f} s" if i in trained else f"loaded {network.key}"
            self.log(f"{name}: {done}")

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


def start(
    chapter: str,
    *,
    preset: str = "smoke",
    seeds: int | None = None,
    first_seed: int = 0,
    device: str = "cpu",
    data_root: str | None = None,
) -> Any:
    """Check everything that was asked for and return the chapter's experiment.

    preset: smoke, full or paper. seeds: how many, None for the preset's number. first_seed: the first of
    them. device: "cpu", "cuda" or "cuda:1". data_root: the folder of the data sets, None for
    KDREPRO_DATA or `data/`.
    Returns an `ImageExperiment`, for a chapter on specialists a `SpecialistExperiment`, and for one on speech its
    `SpeechChapter`.
    Raises InputError, before anything trains, when one of them is wrong.
    """
    # These modules build on this one.
    from kdrepro.image_experiments import ImageExperiment
    from kdrepro.specialist_experiments import SpecialistExperiment
    from kdrepro.speech_experiments import SpeechChapter

    chapter, loaded, seed_list, where, found = check(chapter, preset, seeds, first_seed, device, data_root)
    store = Store(paths.runs(loaded.name) / "store", warn=lambda line: print(line, file=sys.stderr))
    remove_stale(store.root, ".*")  # what killed runs left half written
    common = {"chapter": chapter, "preset": loaded, "seeds": seed_list, "device": where, "store": store}
    if presets.is_speech(chapter):
        return SpeechChapter.of(found, **common)
    kind = SpecialistExperiment if isinstance(loaded.chapters[chapter], Specialised) else ImageExperiment
    run = kind(data=found.to(where), **common)
    run.log(f"{chapter} at {loaded.name}: {found.name}, seeds {run.seeds}, {where}")
    return run


def check(
    chapter: str, preset: str, seeds: Any, first_seed: Any, device: str, data_root: str | None
) -> tuple[str, Preset, list[int], torch.device, Any]:
    """What `start` was asked for, looked up and validated; the images on the CPU, or the corpora of speech.

    Raises InputError for whatever is wrong with it.
    """
    chapter = presets.check_chapter(chapter)
    loaded = presets.load(preset)
    count = check_count("seeds", loaded.chapters[chapter].seeds if seeds is None else seeds, least=1)
    first = check_count("first_seed", first_seed, least=0)
    where = check_device(device)
    root = paths.data_root(data_root)
    sizes = loaded.chapters[chapter]
    if presets.is_speech(chapter):
        if isinstance(sizes, AcousticEnsemble) and first + count > sizes.members:
            raise InputError(
                f"Each seed of {chapter} is a member of one ensemble of {sizes.members}, so seeds can't go up to "
                f"{first + count - 1}: ask for fewer, or raise `members` in notebooks/presets/{loaded.name}.yaml."
            )
        found = _corpora(sizes, root)
    elif isinstance(sizes, Specialised):
        loaded = presets.with_seeds(loaded, chapter, count)
        found = _images(sizes.images, root, paths.runs(loaded.name) / "images")
    else:
        found = data.digits() if loaded.data == "digits" else data.mnist(root)
    return chapter, loaded, list(range(first, first + count)), where, found


def _images(wanted: Any, root: Path, cache: Path) -> data.ImageData:
    """Images of many classes, drawn or decoded once and kept in `cache`."""
    arguments = wanted.model_dump(exclude={"kind"})
    if wanted.kind == "glyphs":
        return data.glyphs(**arguments, cache=cache)
    return data.tiny_imagenet(root, **arguments, cache=cache)


def _corpora(sizes: Any, root: Path) -> dict[str, list[Any]]:
    """The corpora of a chapter on speech, by name, several where one is split into folds; TIMIT only where it is."""
    espeak.check()
    found = {"synthetic": [data.synthetic_speech(**sizes.synthetic.corpus.model_dump())]}
    if sizes.timit is not None and timit.find(root) is not None:
        first = data.timit(root)
        folds = 1 if first.name == "timit" else timit.FOLDS
        found[first.name] = [first, *(data.timit(root, fold) for fold in range(1, folds))]
    return found


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
        raise InputError(
            f"The device {name!r} is not there: this machine has {_devices()}; use one of these{_why_no_gpu()}."
        )
    return device


def _devices() -> str:
    return " and ".join(["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())])


def _why_no_gpu() -> str:
    """What may keep a GPU that is there from PyTorch."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return " (this PyTorch is built for the processor alone; a GPU needs another build)"
    return f" (a GPU that is there needs a driver for CUDA {torch.version.cuda}, or a PyTorch for the driver it has)"
