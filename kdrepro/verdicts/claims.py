"""The claims of the paper, the rule that decides each, and the one verdict table.

`book/claims.yaml` holds the rules, written before the runs that they judge; where one was not, it says so.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdrepro import paths
from kdrepro.errors import InputError, nearest
from kdrepro.verdicts.wording import label, written, written_mean

# What PyYAML raises for text that it cannot load: its own error, and for bad scalars such as `0b_` or `!!bool x` nearly
# anything that Python's conversions raise.
NOT_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError, OverflowError)
Verdict = Literal["reproduced", "partly", "not reproduced", "not run"]


class Condition(BaseModel):
    """One comparison on one metric; all those that are given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    stat: Literal["mean", "ci_low", "ci_high"] = "mean"
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, means: Mapping[str, float], ci95: Mapping[str, Any]) -> bool | None:
        """Whether it holds; None when the metric (or its interval, with one seed) is not there."""
        if self.stat == "mean":
            value = means.get(self.metric)
        else:
            interval = ci95.get(self.metric)
            value = None if interval is None else interval[self.stat == "ci_high"]
        if value is None:
            return None
        low = self.at_least is None or value >= self.at_least
        high = self.at_most is None or value <= self.at_most
        return low and high

    def __str__(self) -> str:
        name = {"mean": "", "ci_low": "lower end of ", "ci_high": "upper end of "}[self.stat] + self.metric
        bounds = [f"{name} ≥ {self.at_least:g}"] if self.at_least is not None else []
        return " and ".join(bounds + ([f"{name} ≤ {self.at_most:g}"] if self.at_most is not None else []))


class Rule(BaseModel):
    """`reproduced` if all its conditions hold, else `partly` if all of its do, else `not reproduced`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reproduced: Annotated[list[Condition], Field(min_length=1)]
    partly: list[Condition] = []


class Claim(BaseModel):
    """One claim of the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    section: str
    chapter: str
    statement: str
    paper: dict[str, float] = {}  # the paper's value of each metric, where it prints one
    metric: str  # the one shown in the table
    data: str  # the data set that decides
    rule: Rule
    amended: str = ""  # what was changed, in the rule or in what it judges, when a result was known
    figure: str = ""  # label of the figure that shows it
    note: str = ""

    def verdict(self, means: Mapping[str, float], ci95: Mapping[str, Any], data: str) -> Verdict:
        """The verdict that a run on `data` gives."""
        if data != self.data:
            return "not run"
        for name in ("reproduced", "partly"):
            held = [condition.holds(means, ci95) for condition in getattr(self.rule, name)]
            if name == "reproduced" and None in held:
                return "not run"
            if held and all(held):
                return name
        return "not reproduced"


def load() -> dict[str, Claim]:
    """All claims by id, in the paper's order. Raises InputError when the file is malformed, or the book is not here."""
    paths.need_book()
    try:
        rows = yaml.safe_load(paths.CLAIMS.read_text(encoding="utf-8"))
        claims = [Claim.model_validate(row) for row in rows]
    except (OSError, TypeError, ValidationError, *NOT_YAML) as error:
        raise InputError(f"{paths.CLAIMS.name} is not valid: {' '.join(str(error).split())}.") from error
    return {claim.id: claim for claim in claims}


def get(claim_id: str) -> Claim:
    """One claim. Raises InputError, with the nearest id, when there is none."""
    claims = load()
    if claim_id in claims:
        return claims[claim_id]
    raise InputError(f"There is no claim {claim_id!r}{nearest(claim_id, claims)}: `kdrepro claims` lists them.")


def verdict_rows(claims: Iterable[Claim], records: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The verdict table: one row a claim, from the records that are given, as `verdict_entries` chooses them."""
    found = _deciding(records)
    rows = []
    for claim in claims:
        entry = found.get(claim.id)
        rows.append(
            {
                "claim": claim.id,
                "section": claim.section,
                "chapter": claim.chapter,
                "statement": claim.statement,
                "metric": label(claim.metric),
                "paper": written(claim.metric, claim.paper.get(claim.metric)),
                "ours": written_mean(claim.metric, entry) if entry else "–",
                "verdict": entry["verdict"] if entry else "not run",
                "data": f"{entry['data']}, {entry['preset']}" if entry else "",
            }
        )
    return rows


def verdict_entries(claims: Iterable[Claim], records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each claim with all of its figures, as JSON can hold them: the paper's, and a run's where there is one.

    Where several records hold a claim, the one on the deciding data set counts. What is not there is None.
    """
    found = _deciding(records)
    keys = ("verdict", "metrics", "mean", "ci95", "pooled", "seconds", "data", "preset", "seeds")
    described = ("section", "chapter", "statement", "metric", "paper", "amended")
    nothing = {"verdict": "not run"}
    return [
        {"claim": claim.id}
        | {name: getattr(claim, name) for name in described}
        | {key: found.get(claim.id, nothing).get(key) for key in keys}
        for claim in claims
    ]


def _deciding(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entry of each claim that counts, by its id."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        about = {"preset": record["preset"], "data": record["data"]["name"], "seeds": seeds_of(record)}
        for claim_id, entry in record["claims"].items():
            if claim_id not in found or entry["verdict"] != "not run":
                found[claim_id] = {**entry, **about}
    return found


def seeds_of(record: Mapping[str, Any]) -> list[int]:
    """The seeds of a run, from its record; none where it does not say."""
    config = record.get("provenance", {}).get("config")
    seeds = config.get("seeds") if isinstance(config, Mapping) else None
    return [seed for seed in seeds if isinstance(seed, int)] if isinstance(seeds, list) else []
