"""Figures of the chapters on specialists."""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdrepro import combining
from kdrepro.figures import COLOURS
from kdrepro.specialist_experiments import ON_VALIDATION, Committee, SpecialistExperiment

STEPS = (1, 2, 3, 5, 8, 14, 25, 45, 80, 140, 250)  # at which a solution of Eq. 5 is looked at


def clusters(run: SpecialistExperiment, subsets: Sequence[torch.Tensor], rows: int = 6, columns: int = 8) -> Figure:
    """A row a specialist: a test image of some of its classes, with their names; evenly chosen specialists."""
    chosen = np.linspace(0, len(subsets) - 1, min(rows, len(subsets))).round().astype(int)
    figure, axes = plt.subplots(len(chosen), columns, figsize=(0.98 * columns, 1.25 * len(chosen)), squeeze=False)
    for line, i in zip(axes, chosen, strict=True):
        for ax in line:
            ax.axis("off")
        for ax, label in zip(line, subsets[i].tolist(), strict=False):
            case = int((run.data.test_labels == label).nonzero()[0])
            _show(ax, run.data.test_images[case].cpu().numpy())
            ax.set_title(_short(run.data.class_names[label]), fontsize=7, pad=2)
    return figure


def convergence(
    run: SpecialistExperiment, committee: Committee, cases: int, top_n: int, steps: Sequence[int] = STEPS
) -> Figure:
    """How far Eq. 5's objective is above its minimum after so many steps, on the images with most active specialists.

    top_n: of the generalist's classes that make a specialist active. Plain EM, the paper's gradient descent on
    logits, and Newton's method, each from its own start.
    """
    p_g, p_m, subsets = run.opinions(committee, top_n=top_n)
    is_active = combining.active(p_g, subsets, top_n)
    most = is_active.sum(1).argsort(descending=True, stable=True)[:cases]
    p_g, p_m, is_active = p_g[most], [p[most] for p in p_m], is_active[most]

    def above(q: torch.Tensor) -> np.ndarray:
        value = combining.objective(q, p_g, p_m, subsets, is_active)
        return (value - least).clamp(min=1e-12).cpu().numpy()

    def stopped(method: str, count: int) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of cases cut short, which is the point
            return combining.combine(p_g, p_m, subsets, top_n=top_n, method=method, max_iterations=count)

    least = combining.objective(combining.combine(p_g, p_m, subsets, top_n=top_n), p_g, p_m, subsets, is_active)
    gaps = {
        "plain EM": [above(q) for q in _em_path(p_g, p_m, subsets, is_active, steps)],
        "gradient descent on logits": [above(stopped("gradient", count)) for count in steps],
        "Newton's method": [above(stopped("em", count)) for count in steps],
    }
    return _gaps(gaps, steps)


def _em_path(p_g, p_m, subsets, is_active, steps: Sequence[int]) -> Iterator[torch.Tensor]:
    """The iterates of plain EM after each of these numbers of steps, from a little more than p_g."""
    q, done = 0.999 * p_g + 0.001 / p_g.shape[1], 0
    for count in steps:
        for _ in range(count - done):
            q = combining.em_step(q, p_g, p_m, subsets, is_active)
        done = count
        yield q


def _gaps(gaps: Mapping[str, Sequence[np.ndarray]], steps: Sequence[int]) -> Figure:
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    for i, (name, found) in enumerate(gaps.items()):
        low, middle, high = np.percentile(np.stack(found), (10, 50, 90), axis=1)
        ax.plot(steps, middle, "o-", ms=4, color=COLOURS[i], label=name)
        ax.fill_between(steps, low, high, color=COLOURS[i], alpha=0.15, lw=0)
    ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="nats above the minimum")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # the curves leave no room inside
    return figure


def validation_curves(run: SpecialistExperiment, committees: Mapping[str, Sequence[Committee]]) -> Figure:
    """Conditional accuracy of specialists alone on validation images over the epochs, a line a kind, means over all."""
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    for i, (name, each) in enumerate(committees.items()):
        histories = [s.history for committee in each for s in committee.specialists]
        rows = [[row for row in history if ON_VALIDATION in row] for history in histories]
        means = np.mean([[row[ON_VALIDATION] for row in history] for history in rows], axis=0)
        ax.plot([row["epoch"] for row in rows[0]], 100 * means, "o-", ms=4, color=COLOURS[i], label=name)
    start = [
        run.conditional_right(run.logits(c.generalist, "validation").softmax(1), [subset], "validation").mean()
        for c in next(iter(committees.values()))
        for subset in c.subsets
    ]
    ax.axhline(100 * np.mean(start), ls="--", color="grey", label="generalist")
    ax.set(xlabel="epoch", ylabel="validation accuracy, %")
    ax.legend(fontsize=9)
    return figure


def _show(ax: Axes, image: np.ndarray) -> None:
    """A colour image [3, H, W], or a grey one [H, W] as dark ink on white."""
    if image.ndim == 3:
        ax.imshow(image.transpose(1, 2, 0), interpolation="nearest")
    else:
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")


def _short(name: str, most: int = 15) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
