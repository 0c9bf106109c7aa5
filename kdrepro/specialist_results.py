"""Tables of the chapters on specialists, and the metrics that their claims are decided by."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch.utils.flop_counter import FlopCounterMode

from kdrepro import specialists, stats
from kdrepro.experiments import Trained
from kdrepro.specialist_experiments import Committee, SpecialistExperiment
from kdrepro.training import as_inputs

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


def gains(run: SpecialistExperiment, committees: Sequence[Committee], **options: Any) -> pd.DataFrame:
    """A row a seed: accuracy of the generalist and of Eq. 5's answer, over all cases and conditional.

    options: of `SpecialistExperiment.combined`.
    """
    rows = []
    for committee in committees:
        before = run.logits(committee.generalist).softmax(1)
        after = run.combined(committee, **options)
        row: dict[str, Any] = {"seed": committee.generalist.seed}
        row["accuracy"], row["accuracy +"] = run.right(before).mean(), run.right(after).mean()
        subsets = committee.subsets
        row["conditional"] = run.conditional_right(before, subsets).mean()
        row["conditional +"] = run.conditional_right(after, subsets).mean()
        row["relative gain"] = row["accuracy +"] / row["accuracy"] - 1
        row["relative gain, conditional"] = row["conditional +"] / row["conditional"] - 1
        rows.append(row)
    return pd.DataFrame(rows).set_index("seed")


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


def claim_table3(run: SpecialistExperiment, committees: Sequence[Committee], found: pd.DataFrame) -> None:
    """Record both claims of Table 3, one value a seed."""
    nets = [net for committee in committees for net in (committee.generalist, *committee.specialists)]
    run.claim(
        "specialists.table3",
        nets,
        accuracy=found["accuracy +"],
        accuracy_of_generalist=found["accuracy"],
        relative_gain=found["relative gain"],
    )
    run.claim(
        "specialists.table3.conditional",
        nets,
        conditional_accuracy=found["conditional +"],
        conditional_accuracy_of_generalist=found["conditional"],
        relative_gain=found["relative gain, conditional"],
    )


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
                "over seeds": _interval(each),
                "paper": "–" if paper is None else f"{100 * paper[2]:+.1f} %",
            }
        )
    return pd.DataFrame(lines).set_index("specialists covering")


def rank_correlation(table: pd.DataFrame, least: int = 1) -> float:
    """Spearman's correlation between the number of covering specialists and the relative change, one seed.

    least: rows with fewer cases are left out. 0 where fewer than three rows, or no differences, are left.
    """
    kept = table[table["cases"] >= least]
    if len(kept) < 3 or kept["relative"].nunique() == 1:
        return 0.0
    return float(spearmanr(kept.index, kept["relative"]).statistic)


def within_over_between(subsets: Sequence[torch.Tensor], families: Sequence[str]) -> float:
    """How much more often two classes of a subset are of one family than any two classes are.

    families: of each class. Raises ValueError when no two classes share a family.
    """
    numbers = {family: i for i, family in enumerate(dict.fromkeys(families))}
    family = np.array([numbers[f] for f in families])
    anywhere = _same(family)
    if anywhere == 0:
        raise ValueError("No two classes share a family: there is nothing to compare with.")
    return float(np.mean([_same(family[subset.numpy()]) for subset in subsets]) / anywhere)


def _same(family: np.ndarray) -> float:
    """Share of the pairs that are of one family; 0 where there is no pair."""
    pairs = len(family) * (len(family) - 1)
    counts = np.bincount(family)
    return float((counts * (counts - 1)).sum() / pairs) if pairs else 0.0


def paired_tests(pairs: Mapping[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]) -> pd.DataFrame:
    """Two systems at a time, on the same test cases: the difference over seeds, and McNemar's counts of each seed.

    pairs: name -> (which cases the first gets right, one bool array [N] a seed; the same for the second).
    """
    lines = []
    for name, (first, second) in pairs.items():
        mean, ends, p = stats.paired([r.mean() for r in first], [r.mean() for r in second])
        counts = [stats.mcnemar(~a, ~b) for a, b in zip(first, second, strict=True)]
        lines.append(
            {
                "systems": name,
                "points": f"{100 * mean:+.2f}",
                "95 % over seeds": "–" if ends is None else "{:+.2f} to {:+.2f}".format(*(100 * np.array(ends))),
                "p, seeds": "–" if p is None else f"{p:.1e}",
                "p of each seed, over cases": ", ".join(f"{p:.0e}" for *_, p in counts),
            }
        )
    return pd.DataFrame(lines).set_index("systems")


def cost(run: SpecialistExperiment, committee: Committee, top_n: int) -> dict[str, float]:
    """What the specialists cost beside their generalist: training images and seconds, parameters, nets a test case."""
    generalist = committee.generalist
    active = specialists.active(run.logits(generalist).softmax(1), committee.subsets, top_n)
    seen = [specialists.HalfSpecial(run.data.train_labels, s) for s in committee.subsets]
    images = sum(len(s) * t.plan.recipe.epochs for s, t in zip(seen, committee.specialists, strict=True))
    return {
        "images seen": images / (len(run.data.train_images) * generalist.plan.recipe.epochs),
        "seconds": committee.seconds / generalist.seconds,
        "parameters": sum(t.parameters for t in committee.specialists) / generalist.parameters,
        "nets a case": 1 + active.float().sum(1).mean().item(),
    }


def heard(run: SpecialistExperiment, committee: Committee, top_n: int) -> float:
    """Share of the special test cases, over all specialists, in which their specialist is active (step 1 of 5.2)."""
    active = specialists.active(run.logits(committee.generalist).softmax(1), committee.subsets, top_n)
    labels = run.data.test_labels
    own = torch.stack([torch.isin(labels, subset.to(labels.device)) for subset in committee.subsets], dim=1)
    return ((active & own).sum() / own.sum()).item()


def work_of(run: SpecialistExperiment, trained: Trained) -> int:
    """Operations of a network's convolutions and matrix products for one image; a multiplication and addition are two.

    Not for `SpecialistExperiment.as_teacher`, whose work depends on the image.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trained.network(as_inputs(run.data.test_images[:1]))
    return counter.get_total_flops()


def gate_shares(run: SpecialistExperiment, mixture: Trained) -> np.ndarray:
    """The mean weight of each expert over the test images, [experts]."""
    with torch.no_grad():
        parts = [mixture.network.shares(as_inputs(images)) for images in run.data.test_images.split(1024)]
    return torch.cat(parts).mean(0).cpu().numpy()


def ensemble_right(run: SpecialistExperiment, members: Sequence[Trained]) -> np.ndarray:
    """Which test cases the arithmetic mean of full networks gets right: bool [N]."""
    return run.right(torch.stack([run.logits(member).softmax(1) for member in members]).mean(0))


def _percent(values: Sequence[float], sign: bool = False) -> str:
    mean, ends = stats.mean_ci(values)
    form = "{:+.1f}" if sign else "{:.1f}"
    interval = "" if ends is None else f" [{form.format(100 * ends[0])}, {form.format(100 * ends[1])}]"
    return f"{form.format(100 * mean)} %{interval}"


def _interval(values: Sequence[float]) -> str:
    _, ends = stats.mean_ci(values)
    return "–" if ends is None else "{:+.1f} to {:+.1f} %".format(*(100 * np.array(ends)))
