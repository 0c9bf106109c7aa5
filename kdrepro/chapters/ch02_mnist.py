"""Chapter 2: nets compared image by image and seed by seed, shifts of classes never seen, and the figures."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdrepro import biases
from kdrepro.chapters import figures
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.chapters.images import ImageExperiment
from kdrepro.verdicts import stats
from kdrepro.verdicts.wording import interval

Pairs = Iterable[tuple[str, str]]

# --- two kinds of uncertainty ---------------------------------------------------------------------------------------


def with_interval(mean: float, ends: tuple[float, float] | None) -> str:
    """A mean with its sign and its interval as text."""
    return f"{mean:+.1f} [{interval(ends)}]"


def uncertainties(errors: Mapping[str, Sequence[float]], cases: int) -> pd.DataFrame:
    """Spread over seeds and sampling of the test set, a row a kind of net.

    errors: test errors by name, one a seed, of `cases` test cases.
    """
    rows = {}
    for name, counts in errors.items():
        mean, over_seeds = stats.mean_ci(counts)
        rows[name] = {
            "mean errors": f"{mean:.1f}",
            "SD over seeds": f"{np.std(counts, ddof=1):.1f}" if len(counts) > 1 else "–",
            "SD of sampling": f"{np.sqrt(mean * (1 - mean / cases)):.1f}",
            "95 %, mean over seeds": interval(over_seeds),
            "95 %, sampling": interval(stats.sampling_ci(mean, cases)),
        }
    return pd.DataFrame(rows).T


def image_by_image(wrong: Mapping[str, np.ndarray], pairs: Pairs, seeds: Sequence[int]) -> pd.DataFrame:
    """McNemar's test of each pair of nets of one seed: the images that only one of them gets wrong, and p.

    wrong: by the nets' name, boolean [seeds, cases]. Raises ValueError for other than `len(seeds)` rows.
    """
    rows = []
    for a, b in pairs:
        for seed, first, second in zip(seeds, wrong[a], wrong[b], strict=True):
            only_a, only_b, p = stats.mcnemar(first, second)
            counts = {"only first wrong": only_a, "only second wrong": only_b, "p": f"{p:.1e}"}
            rows.append({"nets": f"{a} / {b}", "seed": seed, **counts})
    return pd.DataFrame(rows).set_index(["nets", "seed"])


def seed_by_seed(errors: Mapping[str, Sequence[float]], pairs: Pairs) -> pd.DataFrame:
    """The paired t test over seeds, a row a pair: mean difference, its interval, and p."""
    rows = {}
    for a, b in pairs:
        mean, ends, p = stats.paired(errors[a], errors[b])
        p = "–" if p is None else f"{p:.1e}"
        rows[f"{a} − {b}"] = {"mean": f"{mean:.1f}", "95 % over seeds": interval(ends), "p": p}
    return pd.DataFrame(rows).T


def by_holm(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]], apart: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """Of each pair, its errors by seed: the mean of first - second with its interval, and p, as text.

    The p-values are of paired t tests, corrected by Holm for all pairs together but those that are named in `apart`;
    a dash for these, and for a single seed.
    """
    tests = {name: stats.paired(first, second) for name, (first, second) in pairs.items()}
    family = {name: 1.0 if p is None else p for name, (_, _, p) in tests.items() if name not in apart}
    corrected = dict(zip(family, stats.holm(list(family.values())), strict=True))
    return {
        name: (with_interval(mean, ends), "–" if p is None or name in apart else f"{corrected[name]:.2g}")
        for name, (mean, ends, p) in tests.items()
    }


# --- single images --------------------------------------------------------------------------------------------------


def usual_mistake(answers: np.ndarray, label: int) -> int | None:
    """The most frequent wrong one of several nets' answers [seeds] to an image; None where all are right."""
    wrong = answers[answers != label]
    return int(np.bincount(wrong).argmax()) if len(wrong) else None


def with_most(counts: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` cases, those with the highest counts [N] first; none whose count is not positive."""
    order = np.argsort(-counts, kind="stable")[:most]
    return order[counts[order] > 0]


def publish_images(run: ImageExperiment, times_wrong: np.ndarray, each: int = 10) -> None:
    """Keep some test images beside the record, for the playground: of each class half the hardest, half the first ones.

    times_wrong: by how many nets, for each test image, [cases]. each: how many of a class.
    """
    labels, chosen = run.data.test_labels.cpu().numpy(), []
    for digit in range(run.data.classes):
        own = np.flatnonzero(labels == digit)
        hard = own[np.argsort(-times_wrong[own], kind="stable")][: each // 2]
        chosen += [*hard, *own[~np.isin(own, hard)][: each - len(hard)]]
    run.predictions["shown.images"] = run.data.test_images.cpu().numpy()[chosen]
    run.predictions["shown.labels"] = labels[chosen]
    run.predictions["shown.cases"] = np.array(chosen)


def shared_errors(wrong: Mapping[str, np.ndarray], teacher: str = "teacher") -> pd.DataFrame:
    """Test errors that nets share with the teacher of their seed and with those of other seeds, a row a kind of net.

    Means over seeds, as text, with dashes where a single seed has no other. Only the difference is what a teacher hands
    down of its own mistakes: an image that is hard for every net is wrong for all teachers alike.
    wrong: by the nets' name, boolean [seeds, cases].
    """
    taught, rows = wrong[teacher].astype(int), {}
    for name in [name for name in wrong if name != teacher]:
        shared = wrong[name].astype(int) @ taught.T  # [seeds, seeds of the teachers]
        own, total = shared.diagonal(), wrong[name].sum(1)
        texts = [f"{total.mean():.1f}", f"{own.mean():.1f}", "–", "–", "–"]
        if len(taught) > 1:
            others = (shared.sum(1) - own) / (len(taught) - 1)
            difference, ends = stats.mean_ci(own - others)
            texts[2:] = [f"{others.mean():.1f}", f"{difference:+.1f}", interval(ends)]
        rows[name] = texts
    columns = ["errors", "with its seed's teacher", "with other seeds' teachers", "difference", "95 % over seeds"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def chosen_digits(classes: int) -> tuple[int, list[int]]:
    """The class that is left out of the transfer set, the paper's 3, and the two that are kept alone, its 7 and 8.

    Of so few classes that there are none of these, the last ones.
    """
    return min(3, classes - 1), [7, 8] if classes > 8 else [classes - 2, classes - 1]


# --- temperatures and shifts ----------------------------------------------------------------------------------------


def saved_by_range(errors: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """Errors that temperatures from `low` to `high` save, in their mean, against each one outside; paired t tests.

    errors: [seeds, temperatures].
    """
    outside = [t for t in errors if not low <= t <= high]
    inside, rows = errors.drop(columns=outside).mean(axis=1), []
    for t in outside:
        saved, ends, p = stats.paired(errors[t], inside)
        row = {"T": f"{t:g}", "errors": errors[t].mean(), f"errors saved at T of {low:g} to {high:g}": saved}
        rows.append(row | ({"95 %": interval(ends), "p": f"{p:.2g}"} if ends else {}))
    return pd.DataFrame(rows, columns=None if rows else ["T"]).set_index("T").round(1)


def of_shift(rows: pd.DataFrame, how: str, column: str) -> np.ndarray:
    """A column of the rows of `biases.compare` that are of this shift, one value a seed."""
    return rows.loc[rows["how"] == how, column].to_numpy()


def _moved(trained: Trained, logits: torch.Tensor, unseen: Sequence[int], shifts: Mapping[str, float]) -> torch.Tensor:
    return biases.shifted(logits, unseen, shifts[trained.key])


def pupils(seeds: Sequence[int], teachers: Sequence[Trained], count: int) -> list[tuple[int, Trained]]:
    """The seed and the teacher of so many students: each teacher has one of its own seed, then each another.

    Further students of the teacher of seed s have the seeds s + 1000, s + 2000 and so on.
    """
    turns = [divmod(i, len(seeds)) for i in range(count)]
    return [(seeds[i] + 1000 * turn, teachers[i]) for turn, i in turns]


def publish_shifts(
    run: ImageExperiment, name: str, students: Sequence[Trained], unseen: Sequence[int], rows: pd.DataFrame
) -> None:
    """Keep beside the record what students of a transfer set without some classes answer, shifted and at any shift.

    rows: of `biases.compare`, seed by seed. Of each shift: the answers, which of them are right, and the shift itself.
    For any shift: see `publish_sides`.
    """
    for how in ("best on the test set", "label-free", "equal shares", "the paper's"):
        shifts, shift = of_shift(rows, how, "shift"), f"{how.removesuffix(' on the test set')} shift"
        by_key = dict(zip([t.key for t in students], shifts, strict=True))
        move = partial(_moved, unseen=unseen, shifts=by_key)
        run.publish_predictions(f"{name}, {shift}", students, move, unseen)
        run.predictions[f"{name}, {shift}.shift"] = shifts
    publish_sides(run, name, students, unseen)


def publish_sides(
    run: ImageExperiment, name: str, students: Sequence[Trained], unseen: Sequence[int]
) -> dict[str, np.ndarray]:
    """Keep beside the record what students answer at any shift of classes that they have not seen; returns it.

    From which shift on the answer is an unseen class, and whether the best answer among the unseen, and among the seen
    classes, is right (see `recompute.digits.best_shift`).
    """
    needed = [biases.needed(run.logits(student), unseen) for student in students]
    found = {f"{name}.needed": torch.stack(needed).cpu().numpy()}
    sides = [biases.right_on_each_side(run.logits(student), run.data.test_labels, unseen) for student in students]
    for kind, right in zip(("seen", "unseen"), zip(*sides, strict=True), strict=True):
        found[f"{name}.{kind} right"] = np.packbits(torch.stack(right).cpu().numpy(), axis=1)
    run.predictions |= found
    return found


def by_seed(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """A table for each of these columns of rows with how, seed and more, shifts down and seeds across.

    names: of the tables, by column.
    """
    tables = {name: rows.pivot(index="how", columns="seed", values=column) for column, name in names.items()}
    return pd.concat(tables).reindex(rows["how"].unique(), level=1).round(2).map("{:.4g}".format)


# --- figures --------------------------------------------------------------------------------------------------------


def curves_figure(panels: Sequence[Mapping[str, Sequence]]) -> Figure:
    """Test errors during training: a panel for each of these, trained nets by name."""
    figure, axes = plt.subplots(1, len(panels), figsize=(7.6, 3.4), squeeze=False)
    for ax, nets in zip(axes.flat, panels, strict=True):
        figures.learning_curves(ax, {name: [net.history for net in each] for name, each in nets.items()}, "errors")
        ax.set_yscale("log")
        ax.set_ylabel("test errors")
        ax.yaxis.set_major_formatter("{x:.0f}")
        ax.yaxis.set_minor_formatter("{x:.0f}")
    return figure


def temperature_figure(rows: pd.DataFrame, shaded: Mapping[int, tuple[float, float]]) -> Figure:
    """Test errors over the temperature, a panel a width: rows with units, T, seed and errors.

    shaded: for each width, in units, the range of temperatures that the paper singles out.
    """
    columns = 2 if len(shaded) == 4 else len(shaded)
    down = len(shaded) // columns
    figure, axes = plt.subplots(down, columns, figsize=(7.6, 3.3 * down), squeeze=False)
    for ax, (units, ends) in zip(axes.flat, shaded.items(), strict=True):
        figures.sweep(ax, rows[rows["units"] == units], "T", "errors")
        ax.axvspan(*ends, color="black", alpha=0.07, lw=0)
        ax.set(title=f"{units} units a layer", ylabel="test errors" if ax in axes[:, 0] else "")
        ax.minorticks_off()
        ax.set_xticks([1, 3, 10, 40], ["1", "3", "10", "40"])
    return figure


def shift_panel(
    ax: Axes,
    logits: Iterable[torch.Tensor],
    labels: torch.Tensor,
    digits: Sequence[int],
    rows: pd.DataFrame,
    paper: Mapping[float, int],
    printed: bool,
) -> None:
    """Errors against the shift of `digits`: a line a net's logits [N, C], dots for the label-free shifts in `rows`.

    paper: its errors by shift, the last its own shift, drawn if `printed`.
    """
    own = max(paper)
    grid = np.linspace(-1, 1.75 * own, 600)
    for z in logits:
        at, counts = (t.cpu().numpy() for t in biases.error_curve(z, labels, digits))
        ax.plot(grid, counts[np.searchsorted(at, grid, side="right")], color=COLOURS[0], lw=1, alpha=0.8)
    found = [of_shift(rows, "label-free", column) for column in ("shift", "errors")]
    ax.plot(*found, "o", color=COLOURS[1], ms=5, zorder=3)
    ax.axvline(own, color="black", ls=":", lw=1)
    if printed:
        ax.plot(paper.keys(), paper.values(), "D", mfc="none", mec="black", ms=8, zorder=4)
    ax.set(xlim=(grid[0], grid[-1]), xlabel="shift")


def turn_figure(rows: pd.DataFrame, classes: int) -> Figure:
    """Share of a digit's images that students who never saw it get right: rows with how, digit and "right, %"."""
    figure, ax = plt.subplots(figsize=(7.6, 3.3))
    for k, (how, part) in enumerate(rows.groupby("how", sort=False)):
        ax.plot(part["digit"] + 0.2 * (k - 1), part["right, %"], "o", ms=4, color=COLOURS[k], label=f"shift: {how}")
    ax.set_xticks(range(classes))
    ax.set(xlabel="the digit left out", ylabel="right on it, %")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return figure
