"""Explorables: a slider or two in a chapter, beside its figure. The script takes over what is drawn here.

Without a script, and in print, a reader has the chapter's own figure, or the drawing with a few settings.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kdrepro.specialists import combine
from kdrepro.verdicts import recompute
from kdrepro.verdicts.recompute import Arrays

CORNERS = [(230.0, 20.0), (50.0, 250.0), (410.0, 250.0)]  # of the classes A, B and C, in the drawing's units
SCRIPTS = (
    '<link rel="stylesheet" href="../../_static/play/play.css">'
    '<script src="../../_static/play/nets.js" defer></script>'
    '<script src="../../_static/play/explore.js" defer></script>'
)


def place(cells: list[dict[str, Any]], chapter: str, arrays: Callable[[], Arrays]) -> list[dict[str, Any]]:
    """A chapter's cells with its explorable after the figure that it belongs to, where there is what it needs.

    arrays: gives those beside the chapter's record; not called for a chapter that has no explorable of them.
    """
    made: dict[str, tuple[str, Callable[[], str]]] = {
        "01-dark-knowledge": ("fig-dark-t2", lambda: softening(arrays())),
        "02-mnist": ("fig-mnist-shift", lambda: shifts(arrays())),
        "05-specialists": ("fig-specialists-eq5", triangle),
    }
    if chapter not in made:
        return cells
    figure, html = made[chapter][0], made[chapter][1]()
    placed = []
    for cell in cells:
        placed.append(cell)
        if html and cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") == figure:
            source = f"```{{raw}} html\n{html}\n{SCRIPTS}\n```"
            placed.append({"cell_type": "markdown", "id": f"explore-{chapter}", "metadata": {}, "source": source})
    return placed


def softening(arrays: Arrays) -> str:
    """Eq. 1 and the 1/T^2 law on the test image that a teacher is most nearly 99 % sure of; "" without its logits."""
    if "teacher.logits" not in arrays or "plain.logits" not in arrays:
        return ""
    teacher, student = (arrays[f"{net}.logits"][0].astype(float) for net in ("teacher", "plain"))
    sure = recompute.softened(teacher, 1).max(1)
    chosen = int(np.abs(sure - 0.99).argmin())
    label = f"Temperature, on a test image that a teacher is {100 * sure[chosen]:.0f} % sure of"
    bars = "".join(f"<span><i></i><b>{digit}</b></span>" for digit in range(teacher.shape[1]))
    return _explorable(
        "softening",
        "Try it: the temperature",
        '<div class="bars control" role="img" aria-label="A teacher\'s soft targets, a bar a class" hidden>'
        f"{bars}</div>"
        f"{_slider(label, -0.3, 2, 0.01, 0)}",
        {"teacher": teacher[chosen].round(4).tolist(), "student": student[chosen].round(4).tolist()},
    )


def shifts(arrays: Arrays) -> str:
    """Test errors against the shift of class 3, in the mean over seeds; "" where they are not published."""
    if "without 3.needed" not in arrays:
        return ""
    needed = arrays["without 3.needed"]
    count = needed.shape[1]
    seen, unseen = (
        np.unpackbits(arrays[f"without 3.{kind} right"], axis=1, count=count).astype(bool)
        for kind in ("seen", "unseen")
    )
    grid = np.linspace(-1, 6, 71)
    on_3 = np.array([(unseen & (needed <= shift)).sum(1).mean() for shift in grid])
    rest = np.array([(seen & (needed > shift)).sum(1).mean() for shift in grid])
    errors, threes = count - on_3 - rest, int(arrays["without 3, best shift.cases on it"])
    x, y = 44 + 406 * (grid - grid[0]) / (grid[-1] - grid[0]), 150 - 138 * errors / errors.max()
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    paper = 44 + 406 * (3.5 - grid[0]) / (grid[-1] - grid[0])
    ticks = "".join(
        f'<text x="{44 + 406 * (shift + 1) / 7:.0f}" y="166" text-anchor="middle">{shift}</text>' for shift in range(7)
    )
    svg = (
        '<svg viewBox="0 0 460 184" role="img" aria-label="Test errors over the shift of class 3">'
        '<path class="axis" d="M44 12V150H450"/>'
        f'<line class="mark" x1="{paper:.1f}" x2="{paper:.1f}" y1="12" y2="150"/>'
        f'<text x="{paper + 4:.1f}" y="22">the paper\'s 3.5</text>'
        f'<polyline class="ours" points="{points}"/>{ticks}<text x="247" y="181" text-anchor="middle">shift</text>'
        f'<text x="40" y="20" text-anchor="end">{errors.max():.0f}</text>'
        '<text x="40" y="153" text-anchor="end">0</text></svg>'
    )
    return _explorable(
        "shifts",
        "Try it: the bias of a digit that was never seen",
        f"{svg}{_slider('Shift of class 3, mean over the seeds', 0, len(grid) - 1, 1, 10)}",
        {
            "shift": grid.round(2).tolist(),
            "errors": errors.round(1).tolist(),
            "inside": (threes - on_3).round(1).tolist(),
            "what": "3s",
        },
    )


def triangle() -> str:
    """Eq. 5 for three classes, a generalist and two specialists who know a class each, and the rest as a dustbin."""
    generalist, first, second = [0.5, 0.3, 0.2], 0.8, 0.15
    q = answer(generalist, first, second)
    corners = np.array(CORNERS)
    dots = [np.asarray(p) @ corners for p in (generalist, q)]
    lines = [_line(0, first), _line(1, second)]
    drawn = "".join(
        f'<line class="{name}" x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"/>'
        for name, (a, b) in zip(("first", "second"), lines, strict=True)
    )
    drawn += "".join(
        f'<circle class="{name}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}"/>'
        for name, at, radius in zip(("generalist", "answer"), dots, (9, 6), strict=True)
    )
    outline = " ".join(f"{x:.0f},{y:.0f}" for x, y in CORNERS)
    svg = (
        '<svg viewBox="0 0 460 280" role="img" aria-label="A triangle of three classes: the generalist, two '
        f'specialists and what Eq. 5 makes of them"><polygon class="axis" points="{outline}"/>'
        '<text x="230" y="14" text-anchor="middle">A</text><text x="36" y="262">B</text><text x="416" y="262">C</text>'
        f"{drawn}</svg>"
    )
    sliders = [
        ("Generalist: A", 50),
        ("Generalist: B, of what is left", 60),
        ("First specialist, who knows A: A", 80),
        ("Second specialist, who knows B: B", 15),
    ]
    said = "A {:.0f} %, B {:.0f} %, C {:.0f} %".format(*(100 * value for value in q))
    return _explorable(
        "triangle",
        "Try it: Eq. 5 on three classes",
        "<p>A corner is a class, and a point a distribution. The large dot is the generalist's; each line is all that "
        "a specialist says, who knows one class and a dustbin for the rest. The small dot is Eq. 5's answer. Drag the "
        f"large dot and the lines, or move the sliders.</p>{svg}"
        + "".join(_slider(label, 2, 98, 1, value) for label, value in sliders),
        {"corners": CORNERS},
        f"Together: {said}.",
    )


def answer(generalist: Sequence[float], first: float, second: float) -> list[float]:
    """Eq. 5's distribution over A, B and C. first, second: what specialists of A and of B give their class."""
    opinions = [torch.tensor([[p, 1 - p]], dtype=torch.float64) for p in (first, second)]
    own = [torch.tensor([0]), torch.tensor([1])]
    return combine(torch.tensor([generalist], dtype=torch.float64), opinions, own, top_n=3)[0].tolist()


def _line(of: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the line of distributions that give a class the probability p."""
    corners = np.array(CORNERS)
    others = [i for i in range(3) if i != of]
    a, b = (p * corners[of] + (1 - p) * corners[other] for other in others)
    return a, b


def _slider(label: str, least: float, most: float, step: float, value: float) -> str:
    return (
        f'<label class="control" hidden><span>{label}: <output></output></span>'
        f'<input type="range" min="{least}" max="{most}" step="{step}" value="{value}"></label>'
    )


def _explorable(kind: str, title: str, inside: str, data: Mapping[str, Any], said: str = "") -> str:
    shown = json.dumps(data).replace("</", "<\\/")
    return (
        f'<div class="explore" data-explore="{kind}"><p><strong>{title}</strong></p>{inside}'
        f'<p class="said" aria-live="polite">{said}</p><script type="application/json">{shown}</script></div>'
    )
