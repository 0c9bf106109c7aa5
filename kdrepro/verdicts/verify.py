"""Whether what is published follows from what lies beside it: checksums, means, intervals, tests, verdicts."""

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdrepro.files import atomic_write, writing
from kdrepro.verdicts import claims, recompute, records, stats
from kdrepro.verdicts.claims import Claim
from kdrepro.verdicts.recompute import Metrics

SUMS = "SHA256SUMS"
SUMMED = (".json", ".npz", ".safetensors")
ROUNDING = 1e-6  # of a figure: records hold eight digits


@dataclass
class Report:
    """wrong: a sentence for each thing that does not follow. unsupported: figures that nothing published gives again,
    as "claim: metric". checked: how many figures were computed again from predictions."""

    wrong: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    checked: int = 0


def verify(folder: Path, signed: bool = True) -> Report:
    """Compute every number, interval, test and verdict of a folder's records again.

    signed: whether the folder has checksums and the digest of the rules, as what is published has, and a run has not.
    Raises InputError for a file that is no record.
    """
    report = Report(wrong=list(_changed(folder)) if signed else [])
    described, digest = claims.load(), rules_digest()
    for path in sorted(folder.glob("*.json")):
        record = records.read(path)
        if signed and record.get("rules") != digest:
            report.wrong.append(f"{path.name}: judged by other rules than those of claims.yaml: `kdrepro judge`.")
        for claim_id, entry in record["claims"].items():
            parts = {"": entry} | ({" (confirm)": entry["confirm"]} if "confirm" in entry else {})
            for part, one in parts.items():
                name = f"{path.name}, {claim_id}{part}"
                report.wrong += _summaries(name, one)
                report.wrong += _verdict(name, one, described.get(claim_id), record["data"]["name"])
        _from_predictions(report, path, record)
    return report


def judge_again(folder: Path) -> None:
    """Give the records of a folder the verdicts of the present rules, and write their checksums.

    A metric that a rule reads, and that a record has not since the rule came later, is computed from its predictions.
    Raises InputError as `records.read` does, and when they cannot be written.
    """
    described, digest = claims.load(), rules_digest()
    for path in sorted(folder.glob("*.json")):
        before = records.read(path)
        record = copy.deepcopy(before) | {"rules": digest}
        again = _again(path, record)
        for claim_id, entry in record["claims"].items():
            for part, found in zip((entry, entry.get("confirm")), again, strict=True):
                if part is not None:
                    _complete(part, described[claim_id].rule.metrics, found.get(claim_id, {}))
                    part["verdict"] = described[claim_id].verdict(part, record["data"]["name"])
        if record != before:
            records.write(path, record)
    with writing(f"the checksums {folder / SUMS}"):
        atomic_write(folder / SUMS, sums(folder).encode())


def _complete(entry: dict[str, Any], wanted: Set[str], found: Mapping[str, Any]) -> None:
    """Put metrics that are wanted, and found in the predictions, into a claim's entry where it has none of them."""
    new = {name: found[name] for name in sorted(wanted & found.keys() - entry["mean"].keys())}
    pooled = {name: value for name, value in new.items() if np.ndim(value) == 0}
    for part, figures in records.summarised({n: v for n, v in new.items() if n not in pooled}, pooled).items():
        entry.setdefault(part, {}).update(figures)


def rules_digest() -> str:
    """12 hex digits over the rules of all claims, and what decides them."""
    rules = {claim.id: [claim.data, claim.rule.model_dump()] for claim in claims.load().values()}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]


def sums(folder: Path) -> str:
    """Checksums of a folder's records and predictions, and of its searches and weights, as `sha256sum` writes them."""
    there = [path for part in (".", "searches", "weights") for path in (folder / part).glob("*")]
    files = {path.relative_to(folder).as_posix(): path for path in there if path.suffix in SUMMED}
    return "".join(f"{hashlib.sha256(files[name].read_bytes()).hexdigest()}  {name}\n" for name in sorted(files))


def _changed(folder: Path) -> Iterator[str]:
    """A sentence for each file that is not what was published."""
    path = folder / SUMS
    published, there = map(_by_name, (path.read_text(encoding="utf-8") if path.exists() else "", sums(folder)))
    for name in sorted(published.keys() | there.keys()):
        if published.get(name) != there.get(name):
            what = "has changed" if name in published and name in there else "is new" if name in there else "is gone"
            yield f"{name} {what} since {SUMS} was made."


def _by_name(sums: str) -> dict[str, str]:
    return {name: digest for digest, name in (line.split("  ", 1) for line in sums.splitlines())}


def _summaries(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the means and intervals of a claim's entry."""
    expected = {metric: stats.mean_ci(values) for metric, values in entry["metrics"].items()}
    expected |= {metric: (value, None) for metric, value in entry.get("pooled", {}).items()}
    for metric, (mean, interval) in expected.items():
        if not _same(mean, entry["mean"].get(metric)):
            yield f"{name}: the mean of {metric} is {entry['mean'].get(metric)}, but its seeds give {mean:.8g}."
        found = entry["ci95"].get(metric)
        if (found is None) != (interval is None) or (interval and not all(map(_same, interval, found))):
            yield f"{name}: the interval of {metric} is {found}, but its seeds give {interval}."
    for metric in entry["mean"].keys() - expected.keys():
        yield f"{name}: {metric} has a mean without values."


def _verdict(name: str, entry: Mapping[str, Any], claim: Claim | None, data: str) -> Iterator[str]:
    if claim is None:
        yield f"{name}: claims.yaml has no such claim."
    elif entry["verdict"] != (verdict := claim.verdict(entry, data)):
        yield f"{name}: the verdict is {entry['verdict']!r}, but the rule gives {verdict!r}."


def _from_predictions(report: Report, path: Path, record: Mapping[str, Any]) -> None:
    """Compare a record's figures with those that its predictions give, and note what they do not give."""
    again, confirmed = _again(path, record)
    for claim_id, entry in record["claims"].items():
        _compare(report, f"{path.stem}, {claim_id}", entry, again.get(claim_id, {}))
        if "confirm" in entry:
            _compare(report, f"{path.stem}, {claim_id} (confirm)", entry["confirm"], confirmed.get(claim_id, {}))


def _again(path: Path, record: Mapping[str, Any]) -> tuple[Mapping[str, Metrics], Mapping[str, Metrics]]:
    """What the predictions beside a record give, of its own seeds and of those that confirm."""
    commits = records.commits_of_fresh(record)
    arrays = {commit: recompute.load(records.of_fresh(path, commit)) for commit in set(commits.values())}
    fresh = {commit: recompute.figures(record, found) for commit, found in arrays.items()}
    confirmed = {claim_id: fresh[commit].get(claim_id, {}) for claim_id, commit in commits.items()}
    return recompute.figures(record, recompute.load(path)), confirmed


def _compare(report: Report, name: str, entry: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    for metric, found in {**entry["metrics"], **entry.get("pooled", {})}.items():
        if metric not in again:
            report.unsupported.append(f"{name}: {metric}")
            continue
        report.checked += 1
        expected, found = np.atleast_1d(again[metric]), np.atleast_1d(found)
        if len(expected) != len(found) or not all(map(_same, expected, found)):
            report.wrong.append(f"{name}: {metric} is {_short(found)}, but the predictions give {_short(expected)}.")


def _same(expected: float, found: float | None) -> bool:
    return found is not None and math.isclose(expected, found, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.8g}") for value in values]
