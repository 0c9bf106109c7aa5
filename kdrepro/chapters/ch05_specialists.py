"""Chapter 5: Tables 2 to 4 and the figures."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdrepro import specialists
from kdrepro.chapters.committees import Answers, Committee, SpecialistExperiment, packed
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.specialists import combining
from kdrepro.verdicts import recompute, stats, wording

# The paper's Table 4: covering specialists -> test cases, change in the number correct, relative change in accuracy.
PAPER_TABLE4 = {
    0: (350_037, 0, 0.0),
    1: (141_993, 1421, 0.034),
    2: (67_161, 1572, 0.074),
    3: (38_801, 1124, 0.088),
    4: (26_298, 835, 0.105),
    5: (16_474, 561, 0.111),
    6: (10_682, 362, 0.113),
    7: (7_376, 232, 0.128),
    8: (4_703, 182, 0.136),
    9: (4_706, 208, 0.166),
    10: (9_082, 324, 0.141),
}


def table3(found: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 3 with ours beside it: means over seeds with their 95 % intervals."""
    paper = {"accuracy": ("25.0 %", "26.1 %", "+4.4 %"), "conditional": ("43.1 %", "45.9 %", "+6.5 %")}
    gain = {"accuracy": "relative gain", "conditional": "relative gain, conditional"}
    columns = ("baseline", "+ specialists", "relative")
    lines = {}
    for name, label in (("accuracy", "accuracy"), ("conditional", "conditional accuracy")):
        ours = (_percent(found[name]), _percent(found[f"{name} +"]), _percent(found[gain[name]], sign=True))
        lines[label] = {
            **{("paper", c): value for c, value in zip(columns, paper[name], strict=True)},
            **{("this run", c): value for c, value in zip(columns, ours, strict=True)},
        }
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def percent_right(right: Mapping[str, Sequence[np.ndarray]], seeds: int) -> dict[str, float]:
    """Accuracy of each system in per cent, the mean over its first so many seeds.

    right: name -> which test cases the system gets right, one bool array [N] a seed. A system with fewer seeds, which
    cannot be compared on them, is left out.
    """
    return {
        name: 100 * float(np.mean([r.mean() for r in each[:seeds]]))
        for name, each in right.items()
        if len(each) >= seeds
    }


def of_class(run: SpecialistExperiment, right: Sequence[np.ndarray]) -> np.ndarray:
    """How many test cases of each class a system gets right, [seeds, C]. right: of each seed, which cases, bool [N]."""
    labels = run.data.test_labels.cpu().numpy()
    return np.stack([np.bincount(labels[one], minlength=run.data.classes) for one in right]).astype(np.uint16)


def answers_of(
    run: SpecialistExperiment,
    subsets: Sequence[Sequence[torch.Tensor]],
    systems: Mapping[str, Iterable[Iterable[torch.Tensor]]],
) -> dict[str, list[Answers]]:
    """What each system gets right, of each seed, or of the first seeds.

    subsets: of each seed. systems: name -> of each seed, distributions or logits [n, C] over the test cases, in parts.
    A seed's parts are looked at one at a time and not kept.
    """
    return {
        name: [run.answers(parts, found) for parts, found in zip(each, subsets, strict=False)]
        for name, each in systems.items()
    }


def publish(
    run: SpecialistExperiment,
    subsets: Sequence[Sequence[torch.Tensor]],
    answers: Mapping[str, Sequence[Answers]],
    longer: Mapping[str, Sequence[Trained]],
) -> dict[str, np.ndarray]:
    """Put the arrays that Tables 2 to 4 follow from among the run's predictions; returns all of these.

    subsets: of each seed. answers: of each system, one a seed (or for the first seeds): which cases are right, how many
    of each class, and how many of each specialist's classes when restricted to them. longer: the networks whose answers
    on validation images are published too.
    """
    names = sorted(set(run.families))
    members = np.stack([torch.stack(list(found)).numpy() for found in subsets]).astype(np.uint16)
    class_cases = torch.bincount(run.data.test_labels, minlength=run.data.classes).cpu().numpy()
    arrays = {
        "families": np.array([names.index(family) for family in run.families], np.uint16),
        "subsets": members,
        "cases": np.array(len(run.data.test_labels)),
        "cases of class": class_cases,
        "conditional cases": class_cases[members].sum(2),
        "least cases": np.array(run.sizes.least_cases),
        "validation cases": np.array(len(run.data.validation_labels)),
    }
    for name, each in answers.items():
        right = [one.right for one in each]
        arrays[f"{name}.right"] = packed(right)
        arrays[f"{name}.of class"] = of_class(run, right)
        arrays[f"{name}.conditional"] = np.array([one.conditional for one in each], np.uint32)
    for name, nets in longer.items():
        found = [run.answers(run.logits_in_parts(net, "validation"), [], "validation") for net in nets]
        arrays[f"{name}.validation"] = packed([one.right for one in found])
    run.predictions |= arrays
    return dict(run.predictions)


def by_coverage(run: SpecialistExperiment, committee: Committee, **options: Any) -> pd.DataFrame:
    """Table 4 for one seed: what the specialists change, by how many of them have the case's true class.

    Columns: cases, change in the number correct, correct before, relative change in accuracy.
    """
    labels = run.data.test_labels.cpu().numpy()
    before = run.right(run.logits(committee.generalist))
    after = run.right(run.combined(committee, **options))
    covering = specialists.coverage(committee.subsets, run.data.classes).numpy()[labels]
    frame = pd.DataFrame({"covering": covering, "before": before, "change": after.astype(int) - before.astype(int)})
    table = frame.groupby("covering").agg(cases=("before", "size"), change=("change", "sum"), before=("before", "sum"))
    table["relative"] = table["change"] / table["before"].clip(lower=1)
    return table


def table4(found: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Table 4: sums over seeds, whose subsets differ, with the relative change's interval over seeds."""
    total = pd.concat(found).groupby(level=0).sum()
    lines = []
    for covering, row in total.iterrows():
        each = [table.loc[covering, "relative"] for table in found if covering in table.index]
        paper = PAPER_TABLE4.get(min(covering, 10))
        lines.append(
            {
                "specialists covering": covering,
                "cases": f"{int(row['cases']):,}",
                "change in correct": f"{int(row['change']):+,}",
                "relative change": f"{100 * row['change'] / max(1, row['before']):+.1f} %",
                "over seeds": wording.interval(stats.mean_ci(each)[1], "{:+.1f} %", 100),
                "paper": "–" if paper is None else f"{100 * paper[2]:+.1f} %",
            }
        )
    return pd.DataFrame(lines).set_index("specialists covering")


def second_tables(run: SpecialistExperiment) -> None:
    """Tables 2 to 4 of a second data set: trains, measures the claims and writes the record. It decides nothing."""
    generalists = run.generalists()
    subsets = [run.clusters(net) for net in generalists]
    committees = [run.committee(run.sizes.specialist, net, s) for net, s in zip(generalists, subsets, strict=True)]
    longer_plan = run.sizes.generalist.but(epochs=run.sizes.longer_epochs)
    longer = run.train_seeds(longer_plan, name="trained on", starts=generalists)
    some = [run.random_subsets(net) for net in generalists[: run.sizes.sweep_seeds]]
    random = [run.committee(run.sizes.specialist, net, s, "random") for net, s in zip(generalists, some, strict=False)]
    most = max(run.sizes.compared_top_n)
    systems = {
        "generalist": map(run.logits_in_parts, generalists),
        "+ specialists": map(run.combined_in_parts, committees),
        "longer generalist": map(run.logits_in_parts, longer),
        "random subsets": map(run.combined_in_parts, random),
        "+ specialists, more guesses": (run.combined_in_parts(committee, top_n=most) for committee in committees),
    }
    answers = answers_of(run, subsets, systems)
    arrays = publish(run, subsets, answers, {"generalist": generalists, "longer generalist": longer})
    nets = [net for committee in committees for net in (committee.generalist, *committee.specialists)]
    for claim in ("specialists.table2", "specialists.table3", "specialists.table3.conditional", "specialists.table4"):
        run.claim(claim, [*longer, *nets], **recompute.claimed(claim, arrays))
    run.finish()


def figures_of(run: SpecialistExperiment | None) -> pd.DataFrame:
    """What a run's record says of its claims so far, a row a figure; no rows without a run."""
    column = "mean [95 % over seeds]"
    found = [
        {"claim": claim.removeprefix("specialists."), "figure": wording.label(metric), column: mean}
        for claim, entry in (run.record["claims"] if run else {}).items()
        for metric in entry["mean"]
        for mean in [wording.written_mean(metric, entry)]
    ]
    return pd.DataFrame(found, columns=["claim", "figure", column]).set_index(["claim", "figure"])


def heard(run: SpecialistExperiment, committee: Committee, top_n: int) -> float:
    """Share of the special test cases, over all specialists, in which their specialist is active (step 1 of 5.2)."""
    active = specialists.active(run.logits(committee.generalist).softmax(1), committee.subsets, top_n)
    labels = run.data.test_labels
    own = torch.stack([torch.isin(labels, subset.to(labels.device)) for subset in committee.subsets], dim=1)
    return ((active & own).sum() / own.sum()).item()


def _percent(values: Sequence[float], sign: bool = False) -> str:
    mean, ends = stats.mean_ci(values)
    form = "{:+.1f}" if sign else "{:.1f}"
    interval = "" if ends is None else f" [{form.format(100 * ends[0])}, {form.format(100 * ends[1])}]"
    return f"{form.format(100 * mean)} %{interval}"


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


def _show(ax: Axes, image: np.ndarray) -> None:
    """A colour image [3, H, W], or a grey one [H, W] as dark ink on white."""
    if image.ndim == 3:
        ax.imshow(image.transpose(1, 2, 0), interpolation="nearest")
    else:
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")


def _short(name: str, most: int = 15) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
