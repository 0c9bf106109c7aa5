"""Sphinx: what records say, in the middle of a sentence, so that no page has a result that was typed.

    {claim}`mnist.distilled`            the mean of the figure that decides, as verdict tables write it
    {claim}`mnist.distilled interval`   with its 95 % interval and the number of seeds
    {claim}`mnist.distilled verdict`    the verdict's word, with its marks
    {claim}`mnist.distilled paper`      the paper's figure
    {claim}`mnist.distilled recovered`  the mean of another metric; `paper recovered` is the paper's
    {claim}`tally`                      how many claims have which verdict, in a sentence
    {search}`03-acoustic-ensemble: taught for longer: labels, 9 passes: errors`
                                        a cell of a search's table: chapter, search, student (teacher: student, where
                                        there are several teachers), column

and the directive `{claims} partly`, a list of the claims of that verdict.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from kdrepro import paths
from kdrepro.chapters import searches
from kdrepro.errors import InputError, nearest
from kdrepro.publishing.standing import Standing, standings
from kdrepro.verdicts import claims, records
from kdrepro.verdicts.claims import Claim
from kdrepro.verdicts.rules import Verdict
from kdrepro.verdicts.wording import label, written, written_mean

MISSING = "not measured yet"
_log = logging.getLogger(__name__)


def said(asked: str, found: Sequence[Mapping[str, Any]]) -> str:
    """What the records say of `asked`, as above. Raises InputError where it is no claim or no figure of one.

    found: records. A claim that no run has decided has the verdict "not run", and figures that are "not measured yet".
    """
    if asked == "tally":
        return claims.tally(claims.load().values(), found)
    claim_id, _, what = asked.partition(" ")
    claim = claims.get(claim_id)
    (entry,) = claims.verdict_entries([claim], found)
    deciding = entry["deciding"]
    if what == "verdict":
        return claim.marked(entry["verdict"])
    if what.split()[:1] == ["paper"]:
        metric = what.removeprefix("paper").strip() or claim.metric
        if metric not in claim.paper:
            raise InputError(f"The paper has no {metric} for {claim_id}: it has {', '.join(claim.paper) or 'none'}.")
        return written(metric, claim.paper[metric])
    if deciding is None:
        return MISSING
    if what == "interval":
        return written_mean(claim.metric, deciding)
    metric = what or claim.metric
    if metric not in deciding["mean"] and metric not in _read_by(claim):
        raise InputError(f"No record has {metric} for {claim_id}: it has {', '.join(deciding['mean'])}.")
    return written(metric, deciding["mean"][metric]) if metric in deciding["mean"] else MISSING


def _read_by(claim: Claim) -> set[str]:
    """The metrics that a claim's rule, control and paper name, which a run may have yet to measure."""
    of_rule = {condition.metric for conditions in claim.rule.lists.values() for condition in conditions}
    return of_rule | {one.metric for one in claim.control} | set(claim.paper)


def searched(asked: str, results: Path) -> str:
    """A cell of a published search's table, as above; "not measured yet" where the search has not come to it.

    results: the folder of the published records. Raises InputError for a search, a row or a column that there is not.
    """
    chapter, name, *row, column = asked.split(": ") if asked.count(": ") in (3, 4) else [asked, "", ""]
    path = searches.place_in(results, chapter, name)
    if not path.exists():
        there = [one.stem for one in sorted(path.parent.glob("*.json"))]
        raise InputError(f"No published search is {path.stem!r}{nearest(path.stem, there)}, which {asked!r} asks for.")
    table = searches.table(json.loads(path.read_bytes()))
    found = table[(table[["teacher", "student"][-len(row) :]] == row).all(axis=1)]
    if len(found) != 1 or column not in table:
        raise InputError(
            f"{asked!r} is {len(found)} rows of a table with the columns {', '.join(table.columns)}: it must be one, "
            "and a column of these; name the teacher, too, where there are several."
        )
    (cell,) = found.to_dict("records")
    if cell["errors"] == "not run":
        return MISSING
    return written(column, cell[column]) if isinstance(cell[column], float) else str(cell[column])


def listed(verdict: str, these: Sequence[Standing]) -> list[str]:
    """The claims of a verdict, a Markdown line each, with the paper's figure and ours; one line where there are none.

    Raises InputError for a word that is no verdict.
    """
    if verdict not in get_args(Verdict):
        raise InputError(f"{verdict!r} is no verdict: they are {', '.join(get_args(Verdict))}.")
    lines = []
    for one in these:
        claim, row = one.claim, one.row
        if one.verdict != verdict:
            continue
        name = f"{{ref}}`{claim.id} <{one.anchor}>`"
        marks = row["marked"].removeprefix(verdict).strip(", ")
        paper = f"; the paper: {row['paper']}" if row["paper"] != "–" else ""
        shown = one.decided and row["ours"] != "–"
        ours = f" Here, {label(claim.metric)} {row['ours']}{paper}." if shown else ""
        lines.append(f"- {name}{f' ({marks})' if marks else ''}: {claim.statement}{ours}")
    return lines or ["None."]


class RecordRole(SphinxRole):
    """What records say; a warning, which fails a strict build, where they say nothing of it."""

    def say(self) -> str:
        """The text. Raises InputError where there is none."""
        raise NotImplementedError

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The text, as a node; a verdict in italics."""
        try:
            text = self.say()
        except InputError as error:
            _log.warning("%s", error, location=self.get_location())
            text = "?"
        kind = nodes.emphasis if self.text.endswith(" verdict") else nodes.inline
        return [kind(self.rawtext, text, classes=["claim-figure"])], []


class ClaimRole(RecordRole):
    """What the records say of a claim."""

    def say(self) -> str:
        """See `said`."""
        return said(self.text, _records(self.env.srcdir))


class SearchRole(RecordRole):
    """What the published searches found."""

    def say(self) -> str:
        """See `searched`."""
        return searched(self.text, _results(self.env.srcdir))


class ClaimsDirective(SphinxDirective):
    """The claims of a verdict, as a list."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self) -> list[nodes.Node]:
        """The list, parsed as the page is."""
        try:
            lines = listed(self.arguments[0], standings(_results(self.env.srcdir)))
        except InputError as error:
            _log.warning("%s", error, location=self.get_location())
            return []
        node = nodes.container(classes=["claims-list"])
        self.state.nested_parse(StringList(lines), self.content_offset, node)
        return [node]


@functools.cache
def _records(source: str | Path) -> list[dict[str, Any]]:
    """The records of the book that is being built, read once."""
    return records.read_all(_results(source))


def _results(source: str | Path) -> Path:
    return Path(source) / paths.RESULTS.relative_to(paths.ROOT)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register them with Sphinx."""
    app.add_role("claim", ClaimRole())
    app.add_role("search", SearchRole())
    app.add_directive("claims", ClaimsDirective)
    return {"parallel_read_safe": True}
