"""The book's figures: one style, seeds always shown as dots beside their mean and interval."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from kdrepro.verdicts.stats import mean_ci

# Okabe & Ito's palette: told apart with any colour vision, on white and in print.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
# A net keeps its colour through the book: what teaches, what learns from labels alone, what learns from soft targets.
NETS = {
    **dict.fromkeys(("teacher", "ensemble", "longer teacher"), COLOURS[0]),
    **dict.fromkeys(("plain", "baseline", "hard targets", "labels alone"), COLOURS[1]),
    **dict.fromkeys(("distilled", "soft targets", "student"), COLOURS[2]),
    "generalist": COLOURS[3],
}
# Vector figures on white (readable on a dark page too), one palette, no needless ink.
STYLE = {
    "figure.figsize": (7.2, 3.6),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 11,
    "legend.frameon": False,
    "svg.hashsalt": "kdrepro",
}


def use_style() -> None:
    """Draw a notebook's figures in the book's style."""
    set_matplotlib_formats("svg")
    plt.rcParams.update(STYLE)


def colours_of(names: Iterable[str | None]) -> list[str]:
    """A colour for each name: a net's own, and for others, in turn, those that no net among them has."""
    names = list(names)
    own = {name: NETS[name] for name in names if name in NETS}
    free = [colour for colour in COLOURS if colour not in own.values()] or COLOURS
    others = iter(free[i % len(free)] for i in range(len(names)))
    return [own[name] if name in own else next(others) for name in names]


def seed_dots(ax: Axes, groups: Mapping[str, Sequence[float]], paper: Mapping[str, float] | None = None) -> None:
    """A row a group: every seed a dot, the mean with its 95 % interval, the paper's value a diamond."""
    for i, (colour, (name, values)) in enumerate(zip(colours_of(groups), groups.items(), strict=True)):
        mean, interval = mean_ci(values)
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
        ax.scatter(values, i + np.asarray(spread), s=26, color=colour, alpha=0.6, zorder=3)
        if interval:
            ax.plot(interval, [i - 0.27, i - 0.27], color=colour, lw=2, solid_capstyle="butt")
        ax.plot([mean], [i - 0.27], "|", color=colour, ms=12, mew=2.5)
        if paper and name in paper:
            ax.plot([paper[name]], [i], "D", mfc="none", mec="black", ms=8, zorder=4)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set_ylim(len(groups) - 0.5, -0.6)
    ax.plot([], [], "o", color="grey", label="one seed")
    ax.plot([], [], "|-", color="grey", ms=10, label="mean, 95 % over seeds")
    if paper:
        ax.plot([], [], "D", mfc="none", mec="black", label="paper")
    inches = ax.get_position().height * ax.figure.get_figheight()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5 / inches), ncols=3, fontsize=10)  # below the axis' label


def sweep(ax: Axes, frame: pd.DataFrame, x: str, y: str, by: str | None = None, log: bool = True) -> None:
    """Mean of y over x with its 95 % interval as a band, and every row of the frame (a seed) as a dot.

    The axis is that of the dots: with two or three seeds the band may well leave it.
    """
    groups = [(None, frame)] if by is None else list(frame.groupby(by, sort=False))
    for colour, (name, part) in zip(colours_of(name for name, _ in groups), groups, strict=True):
        rows = [(at, *mean_ci(values[y].to_numpy())) for at, values in part.groupby(x)]
        at, means = [r[0] for r in rows], [r[1] for r in rows]
        bands = [r[2] or (r[1], r[1]) for r in rows]
        ax.plot(at, means, "-", color=colour, label=name)
        ax.fill_between(at, [b[0] for b in bands], [b[1] for b in bands], color=colour, alpha=0.15, lw=0)
        ax.scatter(part[x], part[y], s=14, color=colour, alpha=0.7, zorder=3)
    low, high = frame[y].min(), frame[y].max()
    room = 0.3 * (high - low) or 1.0
    ax.set_ylim(max(low - room, 0.7 * low), high + room)
    if log:
        ax.set_xscale("log")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if by is not None:
        ax.legend()


def learning_curves(ax: Axes, histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], y: str) -> None:
    """y over epochs: one thin line a seed, one colour a kind of network."""
    for colour, (name, runs) in zip(colours_of(histories), histories.items(), strict=True):
        for j, rows in enumerate(runs):
            rows = [row for row in rows if y in row]
            ax.plot(
                [row["epoch"] for row in rows],
                [row[y] for row in rows],
                color=colour,
                lw=1.2,
                alpha=0.8,
                label=name if j == 0 else None,
            )
    ax.set_xlabel("epoch")
    ax.set_ylabel(y)
    ax.legend()


def image_grid(images: np.ndarray, titles: Sequence[str], columns: int = 8, size: float = 0.9) -> Figure:
    """Small grey images [n, H, W] with a title each, dark ink on white."""
    rows = max(1, -(-len(images) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(columns * size, rows * (size + 0.38)), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(title, fontsize=8, pad=2)
    return figure
