"""Run records: what a chapter measured, for which claim, made how. One JSON file per chapter and run."""

import datetime
import functools
import hashlib
import io
import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdrepro import __version__, paths
from kdrepro.errors import InputError
from kdrepro.files import atomic_write, remove_stale, writing
from kdrepro.verdicts import stats
from kdrepro.verdicts.claims import get, seeds_of
from kdrepro.verdicts.rules import Verdict

if TYPE_CHECKING:
    import torch  # takes seconds, and whoever reads records has no need of it


class _Entry(BaseModel):
    """What a record must hold of a claim to be shown and judged."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    metrics: dict[str, list[float]]
    mean: dict[str, float]
    ci95: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)] | None]
    verdict: Verdict
    pooled: dict[str, float] = {}

    @model_validator(mode="after")
    def _every_metric_has_a_mean(self) -> Self:
        if not {*self.metrics, *self.pooled} <= self.mean.keys():
            raise ValueError("a metric has no mean")
        return self


class _Data(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)

    chapter: str
    preset: str
    data: _Data
    claims: dict[str, _Entry]
    provenance: dict[str, Any]


def claim_entry(
    claim_id: str,
    data: str,
    seconds: float,
    metrics: Mapping[str, Sequence[float]],
    pooled: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """A claim's part of a record: raw values per seed, mean, 95 % interval over seeds, verdict.

    metrics: name -> one value per seed. seconds: training time behind it, on this run's device.
    pooled: name -> one value for all seeds together, without an interval.
    """
    entry = summarised(metrics, pooled or {})
    return entry | {"verdict": get(claim_id).verdict(entry, data), "seconds": round(seconds, 1)}


def summarised(metrics: Mapping[str, Sequence[float]], pooled: Mapping[str, float]) -> dict[str, Any]:
    """The figures of a claim's entry: `metrics`, their `mean` and `ci95`, and `pooled` where there is any.

    A metric with a value that is not finite (the share of a gap that is 0, say) is left out, and a rule that asks for
    it is not decided.
    """
    values = {name: [_plain(v) for v in series] for name, series in metrics.items()}
    values = {name: series for name, series in values.items() if all(math.isfinite(v) for v in series)}
    single = {name: _plain(value) for name, value in pooled.items()}
    single = {name: value for name, value in single.items() if math.isfinite(value)}
    summary = {name: stats.mean_ci(series) for name, series in values.items()}
    mean = {name: m for name, (m, _) in summary.items()} | single
    ci95 = {name: list(interval) if interval else None for name, (_, interval) in summary.items()}
    return {"metrics": values, "mean": mean, "ci95": ci95} | ({"pooled": single} if single else {})


def provenance(device: "torch.device", config: Mapping[str, Any]) -> dict[str, Any]:
    """Where and with what a run was made."""
    import torch

    return {
        "git": git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": bool(git("status", "--porcelain", "--", "kdrepro", "notebooks/presets")),
        "kdrepro": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gflops": gflops(),
        "date": datetime.date.today().isoformat(),
        "lock": _lock(),
        "config": dict(config),
    }


@functools.cache  # every experiment of a process asks
def gflops(size: int = 768, times: int = 5) -> float:
    """Billions of operations a second of one of the processor's threads in a float32 matrix product, at its best."""
    import torch

    square, threads, took = torch.ones(size, size), torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(times):
            start = time.perf_counter()
            square @ square
            took.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return round(2 * size**3 / min(took) / 1e9, 1)


def write(path: Path, record: Mapping[str, Any], predictions: Mapping[str, np.ndarray] | None = None) -> None:
    """Save a record, and beside it as .npz what its figures are computed again from: predictions, curves, logits.

    Raises InputError when they cannot be written; each file is then what it was.
    """
    with writing(f"the record {path}"):
        if predictions:
            content = io.BytesIO()
            np.savez_compressed(content, **predictions)
            atomic_write(path.with_suffix(".npz"), content.getvalue())
        atomic_write(path, (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    remove_stale(path.parent, f".{path.stem}.*.part")


def read(path: Path) -> dict[str, Any]:
    """Load one record. Raises InputError when it is not one."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The record {path} cannot be read ({error}): run its chapter again.") from error
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a run record ({where}: {first['msg']}): run its chapter again.") from None
    return record


def files(chapter: str, folder: Path = paths.RESULTS) -> list[Path]:
    """A chapter's records in a folder: one, or one for each of its data sets (`<chapter>.<data>.json`)."""
    return sorted({*folder.glob(f"{chapter}.json"), *folder.glob(f"{chapter}.*.json")})


def has_run(run: Path, chapter: str) -> bool:
    """Whether a folder of runs has a chapter's notebook and its records, which are written one after the other."""
    return (run / "notebooks" / f"{chapter}.ipynb").exists() and bool(files(chapter, run / "results"))


def place(run: Path, chapter: str, seeds: Sequence[int]) -> Path:
    """The folder that a run of these seeds writes its notebook and records into: `run`, or one within it.

    A run of fewer seeds than the one that is there, or of as many later ones, does not replace it: it is kept beside
    it, in `seeds-7` or `seeds-5-9`. run: the folder of the preset's runs.
    """
    there = [found for path in files(chapter, run / "results") if (found := _seeds(path))]
    if all((len(seeds), -min(seeds)) >= (len(found), -min(found)) for found in there):
        return run
    return run / (f"seeds-{min(seeds)}" + (f"-{max(seeds)}" if len(seeds) > 1 else ""))


def claim_by_data(claim_id: str, chapter: str, folder: Path = paths.RESULTS) -> dict[str, dict[str, Any]]:
    """A claim's entry in each of a chapter's records, by data set."""
    found = [read(path) for path in files(chapter, folder)]
    return {r["data"]["name"]: r["claims"][claim_id] for r in found if claim_id in r["claims"]}


def read_all(folder: Path = paths.RESULTS) -> list[dict[str, Any]]:
    """Every record of a folder, in the order of the chapters."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def _seeds(path: Path) -> list[int]:
    """A record's seeds; none of one that cannot be read, which the next run replaces."""
    try:
        return seeds_of(read(path))
    except InputError:
        return []


def _plain(value: Any) -> float | int:
    """NumPy and torch scalars as Python ones; figures are rounded to what they can mean."""
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int) else float(f"{value:.8g}")


def uncommitted(*files: Path) -> list[str]:
    """Which of these files or folders' files have changes that are not committed; none where there is no repository."""
    lines = git("status", "--porcelain", "--", *map(str, files)).splitlines()
    return [line.split(maxsplit=1)[-1] for line in lines]


def merge_confirmed(record: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """A published record with the claims of a run of fresh seeds as `confirm`: seeds, origin, figures, verdict.

    A claim that is confirmed stays as it is: the first look decides. Raises InputError where the fresh seeds cannot
    confirm: fewer than the record's, of other training data, trained in other ways, or by code that was not committed.
    """
    about = {"seeds": seeds_of(fresh), "git": fresh["provenance"]["git"], "date": fresh["provenance"]["date"]}
    about |= {"test": test} if (test := fresh["data"].get("test")) else {}
    claims = dict(record["claims"])
    for claim_id, entry in fresh["claims"].items():
        if claim_id not in claims or "confirm" in claims[claim_id]:
            continue
        if reason := _not_confirming(record, claims[claim_id], fresh, entry):
            raise InputError(
                f"The fresh seeds of {claim_id}, of {about['date']}, {reason}: run it with --confirm again, when you "
                f"have taken that run's folder away (it is `confirm` or `confirm/{claim_id}` in the preset's runs)."
            )
        claims[claim_id] = {**claims[claim_id], "confirm": about | entry}
    return {**record, "claims": claims}


def commits_of_fresh(record: Mapping[str, Any]) -> dict[str, str]:
    """Of each claim that fresh seeds have confirmed, the commit of the code that ran them."""
    return {claim_id: one["confirm"]["git"] for claim_id, one in record["claims"].items() if "confirm" in one}


def of_fresh(path: Path, commit: str) -> Path:
    """The name that a published record's fresh seeds of a commit would have as a record: theirs is its .npz alone."""
    return path.with_name(f"{path.stem}.{commit}.json")


def _not_confirming(record: Mapping, entry: Mapping, fresh: Mapping, of_fresh: Mapping) -> str:
    """Why a claim's fresh seeds do not confirm what the record has of it; "" where they do."""
    if len(seeds_of(fresh)) < len(seeds_of(record)):
        return f"are {len(seeds_of(fresh))} where the record has {len(seeds_of(record))}"
    if reason := _differs(record, entry, fresh, of_fresh):
        return reason
    return "were run by code that was not committed" if fresh["provenance"].get("dirty") else ""


def _differs(record: Mapping, entry: Mapping, other: Mapping, of_other: Mapping) -> str:
    """In what two records' entries of a claim are of different experiments, whatever their seeds; "" for nothing."""
    if other["data"].get("fingerprint") != record["data"].get("fingerprint"):
        return "are of other data than the record"
    if entry.get("recipes") != of_other.get("recipes"):  # records of before November 2026 say nothing of them
        return "are of networks that were trained in another way than the record's"
    return ""


def kept_confirmed(record: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the `confirm` that its claims had in the one that it replaces, where that still confirms them."""
    claims = dict(record["claims"])
    for claim_id, entry in before["claims"].items():
        if "confirm" in entry and claim_id in claims and not _differs(record, claims[claim_id], before, entry):
            claims[claim_id] = {**claims[claim_id], "confirm": entry["confirm"]}
    return {**record, "claims": claims}


def git(*arguments: str) -> str:
    """What git says of the book's repository; "" where it fails, or there is none."""
    return _git(*arguments) if _is_repository(paths.ROOT) else ""


@functools.cache
def _is_repository(folder: Path) -> bool:
    """Whether a folder is the top of a repository: an unpacked archive may lie in somebody else's."""
    top = _git("rev-parse", "--show-toplevel")
    return bool(top) and Path(top).resolve() == folder.resolve()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def _lock() -> str | None:
    """The beginning of requirements.lock's sha256: which versions the book's own runs are made with."""
    try:
        return hashlib.sha256(paths.LOCK.read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
