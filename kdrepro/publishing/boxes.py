"""A box for every claim, in Markdown: all that is known of its number, and where each part of it lies."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from kdrepro.publishing import weights
from kdrepro.publishing.standing import TITLES, Standing, by_section, slug
from kdrepro.verdicts import records, wording
from kdrepro.verdicts.claims import BEYOND, Claim
from kdrepro.verdicts.rules import Condition, Reason

FILES = "../files"  # from a page in `book/` to what the site carries beside its pages


def boxes(these: Sequence[Standing], folder: Path, repository: str) -> str:
    """The boxes, by section. folder: of the published weights; repository: its address, or ""."""
    index = weights.read_index(folder)
    parts = []
    for section, members in by_section(these).items():
        title = TITLES.get(section, "more")
        parts.append(f"## {title}" if section == BEYOND else f"## Section {section}: {title}")
        parts += [_box(one, index, repository) for one in members]
    return "\n\n".join(parts)


def _box(one: Standing, index: dict[str, Any], repository: str) -> str:
    claim = one.claim
    lines = [
        f"({one.anchor})=\n### {claim.id}",
        f"::::{{div}} claim-box {one.style}",
        f"**{claim.statement}** ({_where(claim)})",
        f"{one.badge} {_headline(one)}",
        *_figures(one),
        *([f"**Control.** {one.row['control']}."] if one.row["control"] else []),
        *_rules(one),
        *([f"**By construction:** {claim.by_construction}."] if claim.by_construction else []),
        *([f"**In other units** it is `{claim.repeats}`, and not counted beside that."] if claim.repeats else []),
        *([f"**What is measured.** {claim.note}"] if claim.note else []),
        *([f"**Why the rule is as it is:** {claim.defence}."] if claim.defence else []),
        *_history(one),
        _links(one, index, repository),
        *_command(one),
        "::::",
    ]
    return "\n\n".join(lines)


def _headline(one: Standing) -> str:
    """Paper and ours, in a line."""
    metric = one.claim.metric
    paper = f"Paper: {one.row['paper']}. " if one.row["paper"] != "–" else "The paper prints no number. "
    if one.deciding is None:
        return f"{paper}No published run measures it yet."
    if not one.decided:
        return f"{paper}This run is on {one.entry['data']}, which does not decide: its figures are not comparable."
    return f"{paper}Ours: {wording.label(metric)} {one.row['ours']} ({one.row['data']})."


def _figures(one: Standing) -> list[str]:
    """Every metric with each seed's value: of the fresh seeds that decide, where there are such, and of the first."""
    if one.first is None:
        return []
    first, fresh = _table(one, one.first, _seeds(one.entry["seeds"])), one.entry["confirm"]
    if not fresh:
        return [first]
    return [_table(one, fresh, _seeds(fresh["seeds"])), "The first seeds, which no longer decide:", first]


def _seeds(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else ", ".join(map(str, numbers))


def _table(one: Standing, entry: dict[str, Any], seeds: str) -> str:
    lines = [f"| figure | paper | mean [95 % over seeds] | each seed ({seeds or 'not said'}) |", "|---|---|---|---|"]
    for name in entry["mean"]:
        paper = wording.written(name, one.claim.paper.get(name)) if one.decided else "–"
        values = ", ".join(wording.written(name, value) for value in entry["metrics"].get(name, []))
        lines.append(f"| {wording.label(name)} | {paper} | {wording.written_mean(name, entry)} | {values or '–'} |")
    return "\n".join(lines)


def _rules(one: Standing) -> list[str]:
    """What must hold, in words, each with what the figures say of it; then as claims.yaml has it."""
    entry = one.deciding if one.decided else {"mean": {}, "ci95": {}, "metrics": {}}
    reasons = one.claim.rule.why(entry)
    titles = {
        "premise": "**Premise**, without which nothing is decided:",
        "reproduced": "**Reproduced** if all of this holds:",
        "partly": "**Partly** if at least this holds:",
    }
    lines = []
    for name, title in titles.items():
        these = [f"- {_reason(reason, entry)}" for reason in reasons if reason.verdict == name]
        if these:
            lines.append("\n".join([title, "", *these]))
    rule = one.claim.rule.model_dump(exclude_none=True, exclude_defaults=True)
    code = yaml.safe_dump({"rule": rule}, sort_keys=False, default_flow_style=None, width=100).strip()
    lines.append(f":::{{dropdown}} The rule as claims.yaml has it\n```yaml\n{code}\n```\n:::")
    return lines


def _reason(reason: Reason, entry: dict[str, Any]) -> str:
    mark = {True: "✓", False: "✕", None: "○"}[reason.holds]
    metric = reason.condition.metric
    ours = f": {wording.written_mean(metric, entry)}" if reason.measured else ""
    level = reason.condition.level
    ours += f", {f'at {100 * level:g} %' if level else 'more exactly'} {reason.figure}" if reason.figure else ""
    return f"{in_words(reason.condition, reason.pooled)} ({mark} {reason.word}{ours})"


def _where(claim: Claim) -> str:
    return "not the paper's" if claim.beyond else f"Section {claim.section}"


def in_words(condition: Condition, pooled: bool = False) -> str:
    """A condition in a plain phrase. pooled: whether its metric is one number for all seeds together."""
    name, written = wording.label(condition.metric), wording.written
    interval = f"{100 * (condition.level or 0.95):g} % interval"
    if condition.stat == "equivalence":
        return f"{name} lies within ±{written(condition.metric, condition.margin)} of 0 by two one-sided tests at 5 %"
    subject = {
        "mean": f"{name} is" if pooled else f"the mean of {name} is",
        "p": f"{name} is",
        "end": f"{name} is",
        "ci_low": f"the whole {interval} of {name} is",
        "ci_high": f"the whole {interval} of {name} is",
    }[condition.stat]
    bounds = [
        f"{words} {written(condition.metric, bound)}"
        for words, bound in (("at least", condition.at_least), ("at most", condition.at_most))
        if bound is not None
    ]
    return f"{subject} {' and '.join(bounds)}"


def _history(one: Standing) -> list[str]:
    changes = [f"- {change}" for change in one.claim.amended]
    return ["\n".join(["**Changed when a result was known** (†):", "", *changes])] if changes else []


def _links(one: Standing, index: dict[str, Any], repository: str) -> str:
    """Where record, predictions, weights and code are. Raw links: the files are no pages of the book."""
    chapter, links = f"chapters/{one.claim.chapter}.html", []
    if one.record is not None:
        name = one.record.name
        links.append(_link(f"{FILES}/results/{name}", "record (JSON)", f"the record {name}"))
        if one.record.with_suffix(".npz").exists():
            npz = one.record.with_suffix(".npz").name
            links.append(_link(f"{FILES}/results/{npz}", "predictions (npz)", f"the predictions {npz}"))
        if one.entry["confirm"]:
            npz = records.of_fresh(one.record, one.entry["confirm"]["git"]).with_suffix(".npz").name
            links.append(_link(f"{FILES}/results/{npz}", "those of the fresh seeds", f"the predictions {npz}"))
        links += _weights(index, one.claim.id)
        links.append(_link(f"{chapter}#at-{slug(one.claim.id)}", "where the chapter measures it"))
        if one.claim.figure:
            links.append(_link(f"{chapter}#{one.claim.figure}", "its figure"))
    links.append(_link(f"{FILES}/claims.yaml", "claims.yaml"))
    commits = _commits(one, repository)
    return f'<p class="claim-links">{" · ".join(links)}{commits}</p>'


def _weights(index: dict[str, Any], claim_id: str) -> list[str]:
    """A link to every published file of the claim's networks: large ones have several."""
    links, keys = [], index.get("claims", {}).get(claim_id, [])
    for number, key in enumerate(keys, start=1):
        name, parts = f"weights {number}" if len(keys) > 1 else "weights", index["networks"][key]["parts"]
        for part in range(parts):
            file = f"{key}.{part}.safetensors"
            text = f"{name}, part {part + 1}" if parts > 1 else name
            links.append(_link(f"{FILES}/results/weights/{file}", text, file))
    return links


def _link(address: str, text: str, title: str = "") -> str:
    return f'<a href="{escape(address)}"{f" title={title!r}" if title else ""}>{escape(text)}</a>'


def _commits(one: Standing, repository: str) -> str:
    """The commits of the code that made the figures."""
    if one.about is None:
        return ""
    origin, fresh = one.about["provenance"], one.entry["confirm"]
    made = [(origin["git"], origin["date"], " with changes" if origin["dirty"] else "")]
    made += [(fresh["git"], fresh["date"], ", the fresh seeds")] if fresh else []
    parts = []
    for git, date, more in made:
        code = f"<code>{escape(git)}</code>"
        shown = f'<a href="{escape(repository)}/commit/{escape(git)}">{code}</a>' if repository else code
        parts.append(f"commit {shown} ({escape(date)}{more})")
    return " · " + " · ".join(parts)


def _command(one: Standing) -> list[str]:
    preset = one.entry["preset"] or "full"
    command = f"```bash\nkdrepro reproduce {one.claim.id} --preset {preset}\n```"
    if one.about is None:
        return [command]
    origin, seconds = one.about["provenance"], one.deciding["seconds"]
    count = len((one.entry["confirm"] or one.entry)["seeds"])
    took = (
        f"Trains what the claim needs, all {count} seeds; networks in your store are loaded. The published ones took "
        f"{wording.duration(seconds)} on {origin['device']} ({origin['cpu']}, {wording.threads(origin)} a training"
        f"{wording.trained_elsewhere(origin)})."
    )
    return [took, command]
