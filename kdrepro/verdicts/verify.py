"""Whether what is published follows from what lies beside it: checksums, means, intervals, tests, verdicts."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdrepro.files import atomic_write, writing
from kdrepro.verdicts import claims, recompute, records, stats
from kdrepro.verdicts.claims import Claim

SUMS = "SHA256SUMS"
ROUNDING = 1e-6  # of a figure: records hold eight digits


@dataclass
class Report:
    """wrong: a sentence for each thing that does not follow. unsupported: figures that nothing published gives again,
    as "claim: metric". checked: how many figures were computed again from predictions."""

    wrong: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    checked: int = 0


def verify(folder: Path) -> Report:
    """Compute every number, interval, test and verdict of a folder's records again.

    Raises InputError for a file that is no record.
    """
    report = Report(wrong=list(_changed(folder)))
    described, digest = claims.load(), rules_digest()
    for path in sorted(folder.glob("*.json")):
        record = records.read(path)
        if record.get("rules") != digest:
            report.wrong.append(f"{path.name}: judged by other rules than those of claims.yaml: `kdrepro judge`.")
        for claim_id, entry in record["claims"].items():
            parts = {"": entry} | ({" (confirm)": entry["confirm"]} if "confirm" in entry else {})
            for part, one in parts.items():
                name = f"{path.name}, {claim_id}{part}"
                report.wrong += _summaries(name, one)
                report.wrong += _verdict(name, one, described.get(claim_id), record["data"]["name"])
        _from_predictions(report, path, record, described)
    return report


def judge_again(folder: Path) -> None:
    """Give the records of a folder the verdicts of the present rules, and write their checksums.

    Raises InputError as `records.read` does, and when they cannot be written.
    """
    described, digest = claims.load(), rules_digest()
    for path in sorted(folder.glob("*.json")):
        record = records.read(path)
        for claim_id, entry in record["claims"].items():
            for part in filter(None, (entry, entry.get("confirm"))):
                part["verdict"] = described[claim_id].verdict(part, record["data"]["name"])
        if record != records.read(path) or record.get("rules") != digest:
            records.write(path, record | {"rules": digest})
    with writing(f"the checksums {folder / SUMS}"):
        atomic_write(folder / SUMS, sums(folder).encode())


def rules_digest() -> str:
    """12 hex digits over the rules of all claims, and what decides them."""
    rules = {claim.id: [claim.data, claim.rule.model_dump()] for claim in claims.load().values()}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]


def sums(folder: Path) -> str:
    """Checksums of a folder's records and predictions, as `sha256sum` writes them."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".npz"))
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def _changed(folder: Path) -> Iterator[str]:
    """A sentence for each file that is not what was published."""
    path = folder / SUMS
    published = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    there = set(sums(folder).splitlines())
    for line in sorted(published ^ there, key=lambda line: line.split()[-1]):
        yield f"{line.split()[-1]}: {'changed or new' if line in there else 'changed or gone'} since {SUMS} was made."


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


def _from_predictions(report: Report, path: Path, record: Mapping[str, Any], described: Mapping[str, Claim]) -> None:
    """Compare a record's figures with those that its predictions give, and note what they do not give."""
    figures = recompute.figures(record, recompute.load(path))
    for claim_id, entry in record["claims"].items():
        again = figures.get(claim_id, {})
        for metric, found in {**entry["metrics"], **entry.get("pooled", {})}.items():
            if metric not in again:
                report.unsupported.append(f"{path.stem}, {claim_id}: {metric}")
                continue
            report.checked += 1
            expected = np.atleast_1d(again[metric])
            if len(expected) != len(np.atleast_1d(found)) or not all(map(_same, expected, np.atleast_1d(found))):
                report.wrong.append(
                    f"{path.name}, {claim_id}: {metric} is {found}, but the predictions give {_short(expected)}."
                )


def _same(expected: float, found: float | None) -> bool:
    return found is not None and math.isclose(expected, found, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.8g}") for value in values]
