"""The tables that the README and the page on the making of verdicts show, from claims and records."""

import json
from collections.abc import Sequence
from typing import Any

from kdrepro import paths
from kdrepro.chapters import searches
from kdrepro.verdicts import claims
from kdrepro.verdicts.claims import Claim


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
        lines += ["", f"† Rule, recipe, data, teacher or statement was changed when a result was known: {page}."]
    if decided and waiting:
        lines += ["", "No published run measures these yet:", ""]
    if waiting:
        lines += ["| verdict | claim | paper | § |", "|---|---|---|---|"]
    for row in waiting:
        paper = "–" if row["paper"] == "–" else f"{row['metric']} {row['paper']}"
        lines.append(f"| {row['verdict']} | `{row['claim']}`: {row['statement']} | {paper} | {row['section']} |")
    return "\n".join(lines)


def history(results: Sequence[dict[str, Any]]) -> str:
    """What was changed of each claim when a result was known, in Markdown: the rules in a table, all else in a list."""
    described = claims.load()
    now = {entry["claim"]: entry for entry in claims.verdict_entries(described.values(), results)}
    verdicts, rules = ["| claim | verdict before | verdict now |", "|---|---|---|"], []
    others: dict[tuple[str, ...], list[str]] = {}  # the claims of each change that was no rewritten rule
    for claim in described.values():
        for change in claim.amended:
            if change.rule:
                verdicts.append(f"| `{claim.id}` | {change.verdict} | **{now[claim.id]['verdict']}** |")
                rules.append(f"- `{claim.id}`: {change.then}.  \n  Before: {change.rule}.  \n  Now: {_rule(claim)}.")
            else:
                about = (change.changed, change.when, change.tried, change.then)
                others.setdefault(about, []).append(f"`{claim.id}`")
    stand = [f"- `{claim.id}`, {claim.defence}." for claim in described.values() if claim.defence]
    built = [f"- `{c.id}`, {c.by_construction}." for c in described.values() if c.by_construction]
    parts = {
        "Rules that were written again": [*verdicts, "", *rules],
        "Recipes, teachers and rules that were changed before": [_change(of, *about) for about, of in others.items()],
        "By construction": built,
        "Why a rule is as it is": stand,
    }
    return "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in parts.items())


def _change(of: Sequence[str], changed: str, when: str, tried: str, then: str) -> str:
    """One change and the claims it is of, as an entry of a list."""
    before = f"  \n  Before: {tried}." if tried else ""
    return f"- {changed.capitalize()} of {', '.join(of)}, {when}.{before}  \n  Then: {then}."


def _rule(claim: Claim) -> str:
    """A claim's rule in a line."""
    lists = claim.rule.lists.items()
    return "; ".join(f"*{name}*: {', '.join(map(str, conditions))}" for name, conditions in lists if conditions)


def search_tables() -> str:
    """What the published searches found, a table each, in Markdown."""
    parts = []
    for path in sorted(paths.SEARCHES.glob("*.json")):
        record = json.loads(path.read_bytes())
        table = searches.table(record)
        head = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
        rows = [f"| {' | '.join(map(str, row))} |" for row in table.to_numpy().tolist()]
        p = record["provenance"]
        about = (
            f"**{record['search']}**, chapter {record['chapter']} at {record['preset']}: errors on "
            f"{record['held_out']:,} {searches.judged_on(record)} ({p['date']}, {p['git'][:12]})."
        )
        picture = (
            f"```{{image}} results/searches/{path.stem}.svg\n:alt: What the search {record['search']} found\n"
            ":class: line-figure dark-light\n```"
        )
        parts.append("\n".join([about, "", *head, *rows, "", picture]))
    return "\n\n".join(parts) or "No search has been published yet."
