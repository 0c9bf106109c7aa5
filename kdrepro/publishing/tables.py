"""The tables that the README and the page on the making of verdicts show, from claims and records."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdrepro import paths
from kdrepro.chapters import searches
from kdrepro.verdicts import claims, wording
from kdrepro.verdicts.claims import Claim
from kdrepro.verdicts.rules import Condition


def verdict_tables(results: Sequence[dict[str, Any]]) -> str:
    """The README's verdict table in Markdown, first what has been decided, then what is still to come."""
    described = claims.load()
    rows = claims.verdict_rows(described.values(), results)
    decided = [row for row in rows if row["verdict"] != "not run"]
    waiting = [row for row in rows if row["verdict"] == "not run"]
    lines = [claims.tally(described.values(), results), ""] if decided else []
    if decided:
        lines += [
            "| verdict | claim | paper | ours: mean [95 % over seeds] | control | § |",
            "|---|---|---|---|---|---|",
        ]
    for row in decided:
        ours = f"{row['metric']} {row['ours']} ({row['data']})"
        verdict = f"**{row['verdict']}**" + row["marked"].removeprefix(row["verdict"]).replace(
            " †", "\N{NO-BREAK SPACE}†"
        )
        cells = (
            verdict,
            f"`{row['claim']}`: {row['statement']}",
            row["paper"],
            ours,
            row["control"] or "–",
            row["section"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    if any(described[row["claim"]].amended for row in decided):
        page = "[how the verdicts were made](book/how-verdicts.md)"
        lines += ["", f"† Rule, recipe, data, teacher, seeds or statement was changed when a result was known: {page}."]
    if decided and waiting:
        lines += ["", "No published run measures these yet:", ""]
    if waiting:
        lines += ["| verdict | claim | paper | § |", "|---|---|---|---|"]
    for row in waiting:
        paper = "–" if row["paper"] == "–" else f"{row['metric']} {row['paper']}"
        lines.append(f"| {row['verdict']} | `{row['claim']}`: {row['statement']} | {paper} | {row['section']} |")
    return "\n".join(lines)


CLOSE = 0.2  # of half the width of an interval
CLOSE_CALLS = (
    "A rule has to draw its line somewhere. Each of these verdicts would be another if one figure lay past its bound, "
    f"and it lies nearer to that than {100 * CLOSE:g} % of half the width of its interval."
)
FIRST_AND_FRESH = (
    "Fresh seeds decide, once. By today's rules the first seeds gave these claims another verdict, and a third set of "
    "seeds may do so again:"
)
WRITTEN_AGAIN = (
    "A verdict that differs is not the rule's doing alone where recipe, data, teacher or seeds have changed as well."
)


def close_calls(results: Sequence[dict[str, Any]]) -> list[str]:
    """The verdicts that a figure a little across its bound would change: a Markdown table."""
    described, rows = claims.load(), ["| claim | what decides | figure | verdict | across |", "|---|---|---|---|---|"]
    for entry in claims.verdict_entries(described.values(), results):
        rule, deciding, verdict = described[entry["claim"]].rule, entry["deciding"], entry["verdict"]
        conditions = {str(one): one for these in rule.lists.values() for one in these} if verdict != "not run" else {}
        for text, condition in conditions.items():
            margin, across = condition.margin_of(deciding), rule.verdict(deciding, condition)
            if margin is not None and margin < CLOSE and across != verdict:
                rows.append(
                    f"| `{entry['claim']}` | {text} | {_figure(condition, deciding)} | **{verdict}** | {across} |"
                )
    return rows


def first_and_fresh(results: Sequence[dict[str, Any]]) -> list[str]:
    """The claims of which first and fresh seeds have different verdicts by today's rule: a Markdown table."""
    rows = [
        "| claim | first seeds | fresh seeds | what holds of the one alone: first, then fresh |",
        "|---|---|---|---|",
    ]
    described = claims.load()
    for entry in claims.verdict_entries(described.values(), results):
        claim, fresh = described[entry["claim"]], entry["confirm"]
        if not fresh or (first := claim.verdict(entry, entry["data"])) == entry["verdict"]:
            continue
        differ = {  # by its words: a condition may stand in two lists
            str(a.condition): f"{a.condition}: {_figure(a.condition, entry)}, {_figure(a.condition, fresh)}"
            for a, b in zip(claim.rule.why(entry), claim.rule.why(fresh), strict=True)
            if (a.holds is True) != (b.holds is True)
        }
        rows.append(f"| `{claim.id}` | {first} | **{entry['verdict']}** | {'; '.join(differ.values())} |")
    return rows


def _figure(condition: Condition, entry: Mapping[str, Any]) -> str:
    """What a condition compares with its bound, in as many digits as that takes."""
    return condition.figure(entry) or wording.written(condition.metric, condition.compared(entry))


def history(results: Sequence[dict[str, Any]]) -> str:
    """What was changed of each claim when a result was known, and what hangs by little, in Markdown."""
    described = claims.load()
    now = {entry["claim"]: entry for entry in claims.verdict_entries(described.values(), results)}
    verdicts = ["| claim | verdict before | verdict now | changed as well |", "|---|---|---|---|"]
    rules: list[str] = []
    others: dict[tuple[str, ...], list[str]] = {}  # the claims of each change that was no rewritten rule
    for claim in described.values():
        written_again = [change for change in claim.amended if change.rule]
        as_well = {change.changed for change in claim.amended if not change.rule} - {"rule", "statement"}
        for change in written_again:
            kinds = ", ".join(sorted(as_well)) or "nothing"
            verdicts.append(f"| `{claim.id}` | {change.verdict} | **{now[claim.id]['verdict']}** | {kinds} |")
        if written_again:
            changes = [f"  {change.when}: {change.then}.  \n  Before: {change.rule}.  " for change in written_again]
            rules += [f"- `{claim.id}`  ", *changes, f"  Now: {_rule(claim)}."]
        for change in claim.amended:
            if not change.rule:
                about = (change.changed, change.when, change.tried, change.then)
                others.setdefault(about, []).append(f"`{claim.id}`")
    stand = [f"- `{claim.id}`, {claim.defence}." for claim in described.values() if claim.defence]
    built = [f"- `{c.id}`, {c.by_construction}." for c in described.values() if c.by_construction]
    parts = {
        "Close calls": [CLOSE_CALLS, "", *close_calls(results), "", FIRST_AND_FRESH, "", *first_and_fresh(results)],
        "Rules that were written again": [WRITTEN_AGAIN, "", *verdicts, "", *rules],
        "Recipes, teachers and rules that were changed before": [_change(of, *about) for about, of in others.items()],
        "By construction": built,
        "Why a rule is as it is": stand,
    }
    text = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in parts.items())
    return f"(close-calls)=\n{text}"


def _change(of: Sequence[str], changed: str, when: str, tried: str, then: str) -> str:
    """One change and the claims it is of, as an entry of a list."""
    before = f"  \n  Before: {tried}." if tried else ""
    return f"- {changed.capitalize()} of {', '.join(of)}, {when}.{before}  \n  Then: {then}."


def _rule(claim: Claim) -> str:
    """A claim's rule in a line."""
    lists = claim.rule.lists.items()
    return "; ".join(f"*{name}*: {', '.join(map(str, conditions))}" for name, conditions in lists if conditions)


def _machine(origin: Mapping[str, Any]) -> str:
    """What a search ran on: the GPU, or the kind of processor."""
    return origin["cpu"] if origin["device"] == "cpu" else origin["device"]


def search_tables() -> str:
    """What the published searches found, a table each, in Markdown."""
    parts = []
    for path in sorted(paths.SEARCHES.glob("*.json")):
        record = json.loads(path.read_bytes())
        table = searches.table(record)
        if not table["teacher"].any():
            table = table.drop(columns="teacher")
        head = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
        rows = [f"| {' | '.join(map(str, row))} |" for row in table.to_numpy().tolist()]
        p = record["provenance"]
        about = (
            f"**{record['search']}**, chapter {record['chapter']} at {record['preset']}: errors on "
            f"{record['held_out']:,} {searches.judged_on(record)} of `{record['data']['name']}` "
            f"({p['date']}, {_machine(p)}, {p['git'][:12]})."
        )
        picture = (
            f"```{{image}} results/searches/{path.stem}.svg\n:alt: What the search {record['search']} found\n"
            ":class: line-figure dark-light\n```"
        )
        parts.append("\n".join([about, "", *head, *rows, "", picture]))
    return "\n\n".join(parts) or "No search has been published yet."
