"""What the front page shows of the records: the finding, the picture with its filters, and the table of verdicts."""

import json
from collections.abc import Collection, Sequence
from html import escape
from typing import get_args

from kdrepro.publishing import carried, picture
from kdrepro.publishing.standing import MARKS, Standing, by_section, heading, tally
from kdrepro.verdicts import wording
from kdrepro.verdicts.rules import Verdict

VERDICTS = get_args(Verdict)


def finding(these: Sequence[Standing]) -> str:
    """The finding in two sentences, with the tally; the tally alone where the nets on MNIST are not decided."""
    of = {one.claim.id: one for one in these}
    nets = [of[f"mnist.{name}"] for name in ("plain", "distilled", "teacher")]
    counted = tally(these)
    if not all(one.decided and one.mean is not None for one in nets):
        return f"{counted} The figures of this run are of other data than the paper's, and decide nothing."
    plain, distilled, teacher = (f"{wording.written('errors', one.mean)} (paper: {one.row['paper']})" for one in nets)
    control = of["mnist.distilled"].deciding["mean"].get("errors_of_labels")
    alone = "" if control is None else f" (without them, by the same recipe, {wording.written('errors', control)})"
    return (
        f"**It works: on labels alone a small net makes {plain} test errors on MNIST, with the soft targets of a "
        f"teacher {distilled}{alone}; the teacher makes {teacher}.** {counted}"
    )


def claims_picture(these: Sequence[Standing]) -> str:
    """The picture, for wide and for narrow pages, with its legend and what the script needs for filters and hints."""
    shown = picture.with_number(these)
    if not shown:
        return "No claim is decided by this run, so that there is nothing to draw."
    hints = {
        one.claim.id: {
            "verdict": f"{MARKS[one.verdict]} {one.row['marked']}",
            "statement": one.claim.statement,
            "paper": one.row["paper"],
            "ours": f"{one.row['metric']} {one.row['ours']}",
            "seeds": one.seeds(),
            "control": one.row["control"],
            "conditions": len(one.claim.rule.reproduced) + len(one.claim.rule.premise),
        }
        for one in shown
    }
    data = json.dumps(hints, ensure_ascii=False).replace("</", "<\\/")
    return "\n".join(
        [
            '<figure class="claims-figure" id="claims-figure">',
            _filters(these),
            picture.legend(),
            picture.draw(these, picture.WIDE),
            picture.draw(these, picture.NARROW),
            '<div class="claims-hint" id="claims-hint" aria-hidden="true" hidden></div>',
            "<figcaption>Every claim that has a number, each on a scale of its own: the line is the pass mark, right "
            "of it is better, ◇ is the paper. Where the paper prints no value, ours stands one unit from the mark. A "
            "row can lie past the mark and be <em>partly</em> reproduced: its rule asks for more than this number. "
            "Every row leads to its claim.</figcaption>",
            "</figure>",
            f'<script type="application/json" id="claims-data">{data}</script>',
        ]
    )


def _filters(these: Sequence[Standing]) -> str:
    """Filters by section and verdict and an order; hidden until the script is there."""
    sections = [(s, heading(s)) for s in by_section(these)]
    verdicts = [(v, f"{MARKS[v]} {v}") for v in VERDICTS if any(one.verdict == v for one in these)]
    orders = [("order", "as in the paper"), ("verdict", "by verdict"), ("claim", "by name")]
    return (
        '<form class="claims-filters" id="claims-filters" aria-label="Filter the claims" hidden>'
        f"{_select('section', 'Section', [('', 'all'), *sections])}"
        f"{_select('verdict', 'Verdict', [('', 'all'), *verdicts])}"
        f"{_select('sort', 'Order of the table', orders)}"
        '<output id="claims-count"></output></form>'
    )


def _select(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    inside = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options)
    return f'<label>{label} <select name="{name}">{inside}</select></label>'


COLUMNS = (("verdict", "verdict"), ("claim", "claim"), ("paper", ""), ("ours: mean [95 % over seeds]", ""),
           ("control", ""), ("§", "order"))  # fmt: skip


def verdict_table(these: Sequence[Standing]) -> str:
    """The table of verdicts in HTML: a row a claim, which links to its box; on a phone a row is a card."""
    heads = "".join(
        f'<th role="columnheader" scope="col"{f" data-sort={key!r}" if key else ""}>{escape(text)}</th>'
        for text, key in COLUMNS
    )
    rows = "\n".join(_table_row(i, one) for i, one in enumerate(these))
    return (
        '<table class="verdicts" id="verdict-table" role="table">'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">\n{rows}\n</tbody></table>'
    )


def _table_row(order: int, one: Standing) -> str:
    row = one.row
    ours = f"{row['metric']} {row['ours']} <small>({row['data']})</small>" if one.decided else "–"
    cells = (
        one.badge,
        f'<a href="claims.html#{one.anchor}"><code>{escape(one.claim.id)}</code></a> {escape(one.claim.statement)}',
        escape(row["paper"]),
        ours,
        escape(row["control"]) or "–",
        escape(one.claim.section),
    )
    inside = "".join(
        f'<td role="cell" data-label="{escape(text.partition(":")[0])}">{cell}</td>'
        for cell, (text, _) in zip(cells, COLUMNS, strict=True)
    )
    return (
        f'<tr role="row" data-claim="{one.claim.id}" data-section="{one.section}" data-verdict="{one.verdict}" '
        f'data-order="{order}" data-rank="{VERDICTS.index(one.verdict)}">{inside}</tr>'
    )


def in_short(these: Sequence[Standing], chapter: str) -> str:
    """A chapter's box on top, in Markdown: its tally, and each of its claims with verdict, ours and the paper's."""
    mine = [one for one in these if one.claim.chapter == chapter]
    if not mine:
        return ""
    lines = [":::{admonition} In short", ":class: in-short", tally(mine), ""]
    for one in mine:
        paper = f" (paper: {one.row['paper']})" if one.row["paper"] != "–" else ""
        ours = (
            f"{one.row['metric']} {one.row['ours']}{paper}" if one.decided and one.mean is not None else "no figure yet"
        )
        lines.append(f'- {one.badge} <a href="../claims.html#{one.anchor}">{one.claim.id}</a>: {ours}')
    return "\n".join([*lines, ":::"])


LATER = {
    "08-pitfalls": "what goes wrong in published code, each mistake a line and its price measured, and the doctor.",
    "09-after-2015": "what was proposed since, beside the paper's loss at equal weight, temperature and trials.",
}


def later_chapters(published: Collection[str]) -> str:
    """The chapters beyond the paper, for the list of what is in the book; those that are not published by command."""
    entries = []
    for name, what in LATER.items():
        there = name in published
        title = f"{{doc}}`chapters/{name}`" if there else f"Chapter {int(name[:2])}, not published yet"
        entries.append(
            f"{title}\n: Beyond the paper: {what}" + ("" if there else f" `kdrepro run {name} --preset full`")
        )
    return "\n\n".join(entries)


def files(repository: str) -> str:
    """What the site carries, as a list of links."""
    entries = [
        (carried.WHEEL, "the package, for pip"),
        (carried.SOURCE, "the whole source: package, notebooks, presets, pages, records, tests"),
        ("SHA256SUMS", "the checksums of both"),
        ("claims.yaml", "every claim with its rule"),
        (
            "results/SHA256SUMS",
            "the checksums of records, predictions, searches and weights; each claim's box links to its own",
        ),
        ("CITATION.cff", "how to cite this book"),
    ]
    lines = [f'- <a href="../files/{name}"><code>{escape(name)}</code></a>: {what}' for name, what in entries]
    if repository:
        lines.append(f'- <a href="{escape(repository)}">{escape(repository)}</a>: the repository')
    return "\n".join(lines)
