"""One picture of all claims that have a number: paper, ours with its interval, and pass mark, a row a claim.

Each row has a scale of its own, on which the pass mark is 0 and better is to the right. A one-sided rule puts the
paper's value at 1, or our mean one unit from the mark where the paper prints none; a two-sided rule puts its other
bound at 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from kdrepro.publishing.standing import Standing, by_section, heading
from kdrepro.verdicts import wording
from kdrepro.verdicts.rules import Condition

LOWEST, HIGHEST = -2.0, 4.2  # of the axis; what lies beyond is drawn as an arrow at its end


@dataclass(frozen=True)
class Scale:
    """From a metric's values to the axis; the rule is passed from `zone[0]` to `zone[1]`."""

    origin: float
    unit: float  # below 0 where less is better
    zone: tuple[float, float]

    def __call__(self, value: float) -> float:
        """Where a value lies on the axis."""
        return (value - self.origin) / self.unit


def scale_of(condition: Condition, paper: float | None, mean: float) -> Scale:
    """The scale of a claim's row, by the condition on the metric that it shows."""
    low, high = condition.at_least, condition.at_most
    if condition.margin is not None:
        low, high = -condition.margin, condition.margin
    if low is not None and high is not None:
        return Scale(low, (high - low) / 2 or 1.0, (0.0, 2.0))
    mark, direction = (low, 1.0) if low is not None else (high, -1.0)
    reference = paper if paper is not None and direction * (paper - mark) > 0 else mean
    return Scale(mark, direction * (abs(reference - mark) or 1.0), (0.0, float("inf")))


@dataclass(frozen=True)
class Layout:
    """Sizes in the picture's own units: the label beside the track, or above it where the page is narrow."""

    name: str
    width: int
    row: int
    left: int  # of the track
    right: int
    middle: int  # of the track, from the top of a row
    text: int  # base line of the text
    figures: int  # right end of the figures in words


WIDE = Layout("wide", width=760, row=24, left=214, right=566, middle=12, text=16, figures=756)
NARROW = Layout("narrow", width=360, row=42, left=8, right=352, middle=28, text=15, figures=354)
HEAD = 26  # height of a section's title


def with_number(these: Sequence[Standing]) -> list[Standing]:
    """The claims that have a number on the data that decides."""
    return [one for one in these if one.decided and one.mean is not None]


def draw(these: Sequence[Standing], layout: Layout) -> str:
    """The picture as SVG, for a page in `book/`: each row is a link to its claim's box."""
    parts, y = [], HEAD
    for section, members in by_section(with_number(these)).items():
        title = heading(section)
        parts.append(
            f'<g class="claim-head" data-section="{section}" data-height="{HEAD}" transform="translate(0,{y})">'
            f'<text x="4" y="18">{escape(title)}</text></g>'
        )
        y += HEAD
        for one in members:
            parts.append(_row(one, layout, y))
            y += layout.row
    return (
        f'<svg class="claims-picture {layout.name}" viewBox="0 0 {layout.width} {y}" role="group" '
        f'aria-label="All claims that have a number: the paper\'s value, ours with its interval, and the pass mark">'
        f"{_axis(layout)}{''.join(parts)}</svg>"
    )


def position(one: Standing, value: float) -> float:
    """Where a value of the claim's metric lies on the axis."""
    return _scale(one)(value)


def _scale(one: Standing) -> Scale:
    metric = one.claim.metric
    condition = next(c for c in one.claim.rule.reproduced if c.metric == metric)
    return scale_of(condition, one.claim.paper.get(metric), one.mean)


def _axis(layout: Layout) -> str:
    labels = "".join(
        f'<text x="{_x(layout, at):.1f}" y="14" text-anchor="middle">{text}</text>'
        for at, text in ((-1.2, "← worse"), (0, "pass mark"), (3, "better →"))
    )
    return f'<g class="axis">{labels}</g>'


def _x(layout: Layout, at: float) -> float:
    inside = min(max(at, LOWEST), HIGHEST)
    return layout.left + (inside - LOWEST) / (HIGHEST - LOWEST) * (layout.right - layout.left)


def _row(one: Standing, layout: Layout, y: int) -> str:
    metric, scale, middle = one.claim.metric, _scale(one), layout.middle
    paper, interval = one.claim.paper.get(metric), one.deciding["ci95"].get(metric)
    zone = _x(layout, scale.zone[0]), _x(layout, scale.zone[1])
    parts = [
        f'<rect class="hit" x="0" y="1" width="{layout.width}" height="{layout.row - 2}" rx="4"/>',
        f'<rect class="zone" x="{zone[0]:.1f}" y="{middle - 8}" width="{zone[1] - zone[0]:.1f}" height="16"/>',
        f'<path class="bound" d="M{zone[0]:.1f} {middle - 8}v16"/>',
        _interval(layout, sorted(map(scale, interval))) if interval else "",
        _mark(one.verdict, _x(layout, scale(one.mean)), middle),
        _diamond(_x(layout, scale(paper)), middle) if paper is not None else "",
        f'<text class="id" x="4" y="{layout.text}">{escape(one.claim.id)}</text>',
        f'<text class="figures" x="{layout.figures}" y="{layout.text}" text-anchor="end">{escape(_words(one))}</text>',
    ]
    return (
        f'<a class="claim-row {one.style}" href="claims.html#{one.anchor}" data-claim="{one.claim.id}" '
        f'data-section="{one.section}" data-verdict="{one.verdict}" data-height="{layout.row}" '
        f'transform="translate(0,{y})" aria-label="{escape(summary(one), quote=True)}">'
        f"<title>{escape(summary(one))}</title>{''.join(parts)}</a>"
    )


def _words(one: Standing) -> str:
    ours = wording.written(one.claim.metric, one.mean)
    return f"{ours} (paper {one.row['paper']})" if one.row["paper"] != "–" else ours


def summary(one: Standing) -> str:
    """What a pointer or a screen reader is told of a row."""
    paper = f"paper {one.row['paper']}; " if one.row["paper"] != "–" else ""
    seeds = f"; each seed: {one.seeds()}" if one.seeds() else ""
    control = f"; control: {one.row['control']}" if one.row["control"] else ""
    return f"{one.claim.id}, {one.row['marked']}: {paper}ours, {one.row['metric']}: {one.row['ours']}{seeds}{control}"


def _interval(layout: Layout, ends: Sequence[float]) -> str:
    """The interval; an arrow where it goes on beyond the axis."""
    low, high, y = _x(layout, ends[0]), _x(layout, ends[1]), layout.middle
    left, right = f"M{low:.1f} {y - 4}v8", f"M{high:.1f} {y - 4}v8"
    if ends[0] < LOWEST:
        left = f"M{low + 5:.1f} {y - 4}L{low:.1f} {y}L{low + 5:.1f} {y + 4}"
    if ends[1] > HIGHEST:
        right = f"M{high - 5:.1f} {y - 4}L{high:.1f} {y}L{high - 5:.1f} {y + 4}"
    return f'<path class="interval" d="M{low:.1f} {y}H{high:.1f}{left}{right}"/>'


def _mark(verdict: str, x: float, y: float) -> str:
    """Ours, by verdict: a disc, a triangle, a cross, an open square."""
    shapes = {
        "reproduced": f'<circle class="ours" cx="{x:.1f}" cy="{y}" r="5"/>',
        "partly": f'<path class="ours" d="M{x:.1f} {y - 6}l6 10.5h-12z"/>',
        "not reproduced": f'<path class="ours open" d="M{x - 5:.1f} {y - 5}l10 10m0 -10l-10 10"/>',
        "not decided": f'<rect class="ours open" x="{x - 4.5:.1f}" y="{y - 4.5}" width="9" height="9"/>',
    }
    return shapes[verdict]


def _diamond(x: float, y: float) -> str:
    return f'<path class="paper" d="M{x:.1f} {y - 6}l6 6l-6 6l-6 -6z"/>'


def legend() -> str:
    """What the marks mean, in HTML that folds as the page is narrow."""
    marks = [
        (f"is-{verdict.replace(' ', '-')}", _mark(verdict, 10, 9), f"ours: {verdict}")
        for verdict in ("reproduced", "partly", "not reproduced", "not decided")
    ]
    marks += [
        ("", '<path class="interval" d="M2 9h16M2 5v8M18 5v8"/>', "95 % over seeds"),
        ("", _diamond(10, 9), "the paper"),
        ("", '<rect class="zone" x="4" y="1" width="16" height="16"/><path class="bound" d="M4 1v16"/>', "pass"),
    ]
    items = [
        f'<li><svg class="claims-picture key {name}" viewBox="0 0 20 18" aria-hidden="true">{mark}</svg> {text}</li>'
        for name, mark, text in marks
    ]
    return f'<ul class="claims-legend">{"".join(items)}</ul>'
