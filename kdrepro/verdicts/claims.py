"""The claims of the paper, the rule that decides each, and the one verdict table.

`book/claims.yaml` holds the rules, written before the runs that they judge; where one was not, it says so.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import ValidationError, field_validator, model_validator

from kdrepro import paths
from kdrepro.errors import InputError, nearest
from kdrepro.files import not_yaml
from kdrepro.settings import Settings
from kdrepro.verdicts.rules import Rule, Verdict
from kdrepro.verdicts.wording import label, unit, written, written_mean

BEYOND = "beyond"  # in the place of a section's number: a claim that is not the paper's


class Control(Settings):
    """What must be beaten for the claim to mean anything: its figure stands in the verdict's row.

    metric: of the same run. name: what it is, before its figure: "gain over a generalist trained as long" say.
    """

    metric: str
    name: str


class Amendment(Settings):
    """Something that was changed when a result was known.

    changed: what. tried: what had been tried before, with what came out. then: the change. rule, verdict: those before,
    where the rule was changed, on the run that was published then.
    """

    when: str
    changed: Literal["rule", "recipe", "data", "teacher", "seeds", "statement"]
    tried: str = ""
    then: str
    rule: str = ""
    verdict: str = ""

    def __str__(self) -> str:
        before = f"; before: {self.rule}, by which the verdict was *{self.verdict}*" if self.rule else ""
        tried = f"{self.tried}; then " if self.tried else ""
        return f"{self.when}, {self.changed}: {tried}{self.then}{before}."


class Claim(Settings):
    """One claim of the paper."""

    id: str
    section: str
    chapter: str
    statement: str
    paper: dict[str, float] = {}  # the paper's value of each metric, where it prints one
    metric: str  # the one that is shown in tables, of those that the rule reads
    data: str  # the data set that decides
    rule: Rule
    control: list[Control] = []
    by_construction: str = ""  # why it could not have come out otherwise: shown, not counted
    repeats: str = ""  # the claim whose figure it shows in other units: shown, not counted
    amended: list[Amendment] = []
    figure: str = ""  # label of the figure that shows it
    note: str = ""
    defence: str = ""  # why the verdict is as it is where a reviewer would doubt it

    @field_validator("control", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return [given] if isinstance(given, Mapping | Control) else given or []

    @model_validator(mode="after")
    def _shows_what_decides(self) -> Self:
        if self.metric not in {condition.metric for condition in self.rule.reproduced}:
            raise ValueError(f"{self.id} shows {self.metric}, which its rule does not read")
        return self

    @property
    def beyond(self) -> bool:
        """Whether it is not the paper's, but of what came later."""
        return self.section == BEYOND

    def verdict(self, entry: Mapping[str, Any], data: str) -> Verdict:
        """The verdict that a run on `data` gives. entry: its claim entry, with metrics, mean and ci95."""
        return self.rule.verdict(entry) if data == self.data else "not run"

    def marked(self, verdict: str) -> str:
        """A verdict with its marks: why it isn't counted, and † where something was changed after a result."""
        if verdict == "not run":
            return verdict
        return verdict + f", {self.uncounted}" * bool(self.uncounted) + " †" * bool(self.amended)

    @property
    def uncounted(self) -> str:
        """Why it is shown and not counted; "" for what is counted."""
        return "by construction" if self.by_construction else "in other units" if self.repeats else ""


@functools.cache
def _parsed(content: bytes) -> dict[str, Claim]:
    return {claim.id: claim for claim in map(Claim.model_validate, yaml.safe_load(content))}


def load() -> dict[str, Claim]:
    """All claims by id, in the paper's order. Raises InputError when the file is malformed, or the book is not here."""
    if not paths.CLAIMS.exists():
        paths.need_book()
    try:
        return _parsed(paths.CLAIMS.read_bytes())
    except (OSError, TypeError, ValidationError, *not_yaml()) as error:
        raise InputError(f"{paths.CLAIMS.name} is not valid: {' '.join(str(error).split())}.") from error


def get(claim_id: str) -> Claim:
    """One claim. Raises InputError, with the nearest id, when there is none."""
    claims = load()
    if claim_id in claims:
        return claims[claim_id]
    raise InputError(f"There is no claim {claim_id!r}{nearest(claim_id, claims)}: `kdrepro claims` lists them.")


def verdict_rows(claims: Iterable[Claim], records: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The verdict table: one row a claim, from the records that are given, as `verdict_entries` chooses them."""
    rows = []
    for claim, found in zip(claims := list(claims), verdict_entries(claims, records), strict=True):
        deciding = found["deciding"]
        rows.append(
            {
                "claim": claim.id,
                "section": claim.section,
                "chapter": claim.chapter,
                "statement": claim.statement,
                "metric": label(claim.metric),
                "paper": written(claim.metric, claim.paper.get(claim.metric)),
                "ours": written_mean(claim.metric, deciding) if deciding else "–",
                "control": _control(claim, deciding),
                "verdict": found["verdict"],
                "marked": claim.marked(found["verdict"]),
                "data": _origin(found) if deciding else "",
            }
        )
    return rows


def _origin(found: Mapping[str, Any]) -> str:
    """The data and the preset; where fresh seeds have confirmed, these and what they were tested on."""
    confirm = found["confirm"]
    origin = f"{found['data']}, {found['preset']}"
    return f"{origin}, {fresh_seeds(confirm)}, {tested_on(confirm)}" if confirm else origin


def fresh_seeds(confirm: Mapping[str, Any]) -> str:
    """Which seeds have confirmed a claim, from its entry's `confirm`."""
    return f"fresh seeds {min(confirm['seeds'])} to {max(confirm['seeds'])}"


def tested_on(confirm: Mapping[str, Any]) -> str:
    """What the networks of these seeds were tested on."""
    return confirm.get("test", "the same test cases")


def _control(claim: Claim, deciding: Mapping[str, Any] | None) -> str:
    """The controls' figures, for a reader."""
    found = []
    for one in claim.control:
        measured = deciding is not None and one.metric in deciding["mean"]
        figure = f"{unit(one.metric)}: {written_mean(one.metric, deciding)}" if measured else ": not measured yet"
        found.append(one.name + figure)
    return "; ".join(found)


def tally(claims: Iterable[Claim], records: Iterable[Mapping[str, Any]]) -> str:
    """How many claims have which verdict, and how many of them by fresh seeds, in a sentence.

    Claims that are not the paper's are counted apart; what holds by construction, or repeats another claim, is not.
    """
    claims = list(claims)
    found = {entry["claim"]: entry for entry in verdict_entries(claims, records)}
    parts = {"": [c for c in claims if not c.beyond], " beyond the paper": [c for c in claims if c.beyond]}
    sentences = []
    for which, these in parts.items():
        counted = [claim for claim in these if not claim.uncounted]
        if these or not (which or claims):
            kinds = {"by construction": [c for c in these if c.by_construction]}
            kinds["in other units of another claim"] = [c for c in these if c.repeats]
            rest = [f"{why}, {_counts(those, found)}" for why, those in kinds.items() if those]
            uncounted = f"; not counted: {'; '.join(rest)}" if rest else ""
            noun = "claim" if len(counted) == 1 else "claims"
            sentences.append(f"Of {len(counted)} {noun}{which}, {_counts(counted, found)}{uncounted}.")
    return " ".join(sentences)


def _counts(these: Iterable[Claim], found: Mapping[str, Mapping[str, Any]]) -> str:
    """How many of them have which verdict, and how many of these by fresh seeds."""
    parts = []
    for verdict in get_args(Verdict):
        such = [found[claim.id] for claim in these if found[claim.id]["verdict"] == verdict]
        fresh = sum(bool(entry["confirm"]) for entry in such)
        if such:
            parts.append(f"{len(such)} {verdict}" + (f" ({fresh} by fresh seeds)" if fresh else ""))
    return ", ".join(parts)


def verdict_entries(claims: Iterable[Claim], records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each claim with all of its figures, as JSON can hold them: the paper's, and a run's where there is one.

    Where several records hold a claim, the one on the deciding data set counts. The verdict is that of the present rule
    on `deciding`, the figures of the seeds that decide: those that confirm, where there are such (see
    `records.confirmed`), and otherwise all. What is not there is None.
    """
    found = _deciding(records)
    keys = ("metrics", "mean", "ci95", "pooled", "confirm", "seconds", "data", "preset", "seeds")
    described = ("section", "chapter", "statement", "metric", "paper")
    return [
        {"claim": claim.id}
        | {name: getattr(claim, name) for name in described}
        | {"amended": [amendment.model_dump() for amendment in claim.amended]}
        | {key: found.get(claim.id, {}).get(key) for key in keys}
        | _decided(claim, found.get(claim.id))
        for claim in claims
    ]


def _decided(claim: Claim, entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """The verdict, with the figures and the conditions that give it."""
    if entry is None:
        return {"verdict": "not run", "deciding": None, "why": []}
    deciding = entry.get("confirm") or entry
    verdict = claim.verdict(deciding, entry["data"])
    why = [] if verdict == "not run" else [str(reason) for reason in claim.rule.why(deciding)]
    return {"verdict": verdict, "deciding": deciding, "why": why}


def _deciding(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entry of each claim that counts, by its id."""
    claims, found = load(), {}
    for record in records:
        about = {"preset": record["preset"], "data": record["data"]["name"], "seeds": seeds_of(record)}
        for claim_id, entry in record["claims"].items():
            decides = claim_id in claims and claims[claim_id].data == about["data"]
            if claim_id not in found or decides:
                found[claim_id] = {**entry, **about}
    return found


def seeds_of(record: Mapping[str, Any]) -> list[int]:
    """The seeds of a run, from its record; none where it does not say."""
    config = record.get("provenance", {}).get("config")
    seeds = config.get("seeds") if isinstance(config, Mapping) else None
    return [seed for seed in seeds if isinstance(seed, int)] if isinstance(seeds, list) else []
