"""Where the claims stand: each with its record, its figures and its verdict, as the site's pages show them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from kdrepro.verdicts import claims, records, wording
from kdrepro.verdicts.claims import BEYOND, Claim

TITLES = {
    "2": "Distillation",
    "3": "MNIST",
    "4": "Speech",
    "5": "Specialists",
    "6": "Soft targets as regularisers",
    "7": "Mixtures of experts",
    "8": "What the paper leaves open",
    BEYOND: "Beyond the paper",
}
# The mark of each verdict stands beside its colour, so that it is told without colour too.
MARKS = {"reproduced": "●", "partly": "▲", "not reproduced": "✕", "not decided": "□", "not run": "–"}


@dataclass(frozen=True)
class Standing:
    """A claim, where it stands. entry: as `claims.verdict_entries`; row: as `claims.verdict_rows`; record: its file."""

    claim: Claim
    entry: dict[str, Any]
    row: dict[str, str]
    record: Path | None
    about: dict[str, Any] | None

    @property
    def verdict(self) -> str:
        """Its verdict, without marks."""
        return self.entry["verdict"]

    @property
    def style(self) -> str:
        """The class that gives what is shown of it the verdict's colour."""
        return f"is-{self.verdict.replace(' ', '-')}"

    @property
    def badge(self) -> str:
        """Its verdict with its marks, in HTML."""
        return f'<span class="verdict {self.style}">{MARKS[self.verdict]}&nbsp;{escape(self.row["marked"])}</span>'

    @property
    def first(self) -> dict[str, Any] | None:
        """Its part of the record: the figures of the first seeds, with those that confirm as `confirm`."""
        return self.about["claims"][self.claim.id] if self.about else None

    @property
    def anchor(self) -> str:
        """The label of its box, on the page of claims."""
        return f"claim-{slug(self.claim.id)}"

    @property
    def section(self) -> str:
        """The number of the paper's section, without that of the part of it."""
        return self.claim.section.partition(".")[0]

    @property
    def deciding(self) -> dict[str, Any] | None:
        """The figures that decide; None where no run is published."""
        return self.entry["deciding"]

    @property
    def decided(self) -> bool:
        """Whether there is a run on the data that decides: figures of other data do not stand beside the paper's."""
        return self.deciding is not None and self.verdict != "not run"

    @property
    def mean(self) -> float | None:
        """What the table shows of it; None where that was not measured."""
        return self.deciding["mean"].get(self.claim.metric) if self.deciding else None

    def seeds(self) -> str:
        """Each seed's value of the metric that the table shows, for a reader."""
        values = self.deciding["metrics"].get(self.claim.metric, []) if self.deciding else []
        return ", ".join(wording.written(self.claim.metric, value) for value in values)


def slug(claim_id: str) -> str:
    """A claim's id as part of an anchor."""
    return claim_id.replace(".", "-").replace("_", "-")


def standings(results: Path) -> list[Standing]:
    """Every claim, in the paper's order, with what a folder's records say of it."""
    described, files = claims.load().values(), sorted(results.glob("*.json"))
    found = {path: records.read(path) for path in files}
    entries = claims.verdict_entries(described, found.values())
    rows = claims.verdict_rows(described, found.values())
    standing = []
    for claim, entry, row in zip(described, entries, rows, strict=True):
        paths = [p for p, r in found.items() if claim.id in r["claims"] and r["data"]["name"] == entry["data"]]
        path = paths[-1] if paths else None
        standing.append(Standing(claim, entry, row, path, found[path] if path else None))
    return standing


def by_section(all_of_them: Iterable[Standing]) -> dict[str, list[Standing]]:
    """They, a list for each section of the paper, in its order."""
    parts: dict[str, list[Standing]] = {}
    for one in all_of_them:
        parts.setdefault(one.section, []).append(one)
    return dict(sorted(parts.items()))


def heading(section: str) -> str:
    """A section of the paper by its number and title, or what lies beyond it."""
    title = TITLES.get(section, "")
    return title if section == BEYOND else f"§ {section} {title}"


def tally(these: Sequence[Standing]) -> str:
    """How many of these claims have which verdict, in a sentence."""
    found = {one.record: one.about for one in these if one.about}
    return claims.tally([one.claim for one in these], found.values())
