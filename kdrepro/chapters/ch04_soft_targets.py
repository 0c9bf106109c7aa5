"""Chapter 4: Table 5, what its text quotes, early stopping, teachers compared, and its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdrepro.chapters import figures
from kdrepro.chapters.figures import COLOURS
from kdrepro.chapters.speech import Folded, Score, Scores, SpeechExperiment, mean_percent, percent
from kdrepro.verdicts import recompute, wording

# Its Table 5: frame accuracy in training and on the test set.
PAPER_SOFT = {"all, hard": (0.634, 0.589), "little, hard": (0.673, 0.445), "little, soft": (0.654, 0.570)}


def table5(found: Sequence[tuple[SpeechExperiment, Mapping[str, Sequence[Folded]], Scores]]) -> pd.DataFrame:
    """The paper's Table 5 with ours beside it, for every data set: means over seeds with their 95 % intervals."""
    lines = []
    for system, (train, test) in PAPER_SOFT.items():
        line: dict[Any, Any] = {
            "system": system,
            ("paper", "train"): percent(train),
            ("paper", "test"): percent(test),
        }
        for run, nets, scores in found:
            name, kind = run.data.name, "WER" if run.is_synthetic else "PER"
            line[name, "train"] = mean_percent([train_accuracy(net) for net in nets[system]])
            line[name, "test"] = mean_percent([score.frame_accuracy for score in scores[system]])
            line[name, kind] = mean_percent([score.error_rate for score in scores[system]])
        lines.append(line)
    table = pd.DataFrame(lines).set_index("system")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def learning_curves(net: Folded) -> tuple[np.ndarray, np.ndarray]:
    """What a net's history notes of frames right, and which of these epochs has the weights that it was left with.

    Shares of some training, validation and test frames, [folds, epochs, 3]; indices [folds].
    """
    splits = [f"{split}_frame_accuracy" for split in ("train", "validation", "test")]
    curves = np.array([[[row[s] for s in splits] for row in fold.history if splits[0] in row] for fold in net])
    best, last = curves[:, :, 1].argmax(1), curves.shape[1] - 1
    return curves, np.where([fold.plan.early_stopping for fold in net], best, last)


def train_accuracy(net: Folded) -> float:
    """Frame accuracy on what a net was trained on, the mean over folds, at the epoch whose weights it has."""
    return float(_kept_and_last(net)[0, 0])


def gain_of_stopping(net: Folded) -> float:
    """Test frames that early stopping gained over the last epoch's weights, a share, the mean over folds."""
    kept, last = _kept_and_last(net)[:, 2]
    return float(kept - last)


def _kept_and_last(net: Folded) -> np.ndarray:
    """`recompute.kept_and_last` of one net, [2, 3]."""
    curves, kept = learning_curves(net)
    return recompute.kept_and_last(curves[None], kept[None])[:, 0]


def publish_curves(run: SpeechExperiment, name: str, nets: Sequence[Folded]) -> None:
    """Keep the `learning_curves` of a system beside the record, [seeds, folds, epochs, 3] and [seeds, folds]."""
    curves, kept = zip(*map(learning_curves, nets), strict=True)
    run.predictions |= {f"{name}.curve": np.stack(curves), f"{name}.kept": np.stack(kept)}


def measured(run: SpeechExperiment, nets: Sequence[Folded], scores: Sequence[Score]) -> dict[str, Any]:
    """The metrics of a row of Table 5, one value a seed: frame accuracy on test speakers and in training, error rate.

    nets, scores: of the same seeds in the same order; scored after decoding.
    """
    return {
        "frame_accuracy": np.array([score.frame_accuracy for score in scores]),
        "train_frame_accuracy": np.array([train_accuracy(net) for net in nets]),
        run.error_metric: [score.error_rate for score in scores],
    }


def table5_texts(claims: Mapping[str, Any]) -> dict[str, str]:
    """What the text quotes of Table 5's claims in a record; a dash for a share of a gain that is 0."""
    full, hard, soft = (claims[f"soft.{name}"]["mean"] for name in ("full", "hard3", "soft3"))
    return {
        "hard_test": percent(hard["frame_accuracy"]),
        "hard_train": percent(hard["train_frame_accuracy"]),
        "soft_test": percent(soft["frame_accuracy"]),
        "soft_train": percent(soft["train_frame_accuracy"]),
        "full_test": percent(full["frame_accuracy"]),
        "recovered": wording.written("recovered", soft.get("recovered")),
        "verdict": claims["soft.soft3"]["verdict"],
    }


def passes(epochs: int) -> str:
    """So many passes over the data, in words."""
    return "one pass" if epochs == 1 else f"{epochs} passes"


def stopping(nets: Sequence[Folded]) -> pd.DataFrame:
    """Early stopping, a row a net: the epoch that was best on validation speakers, the last, what was lost between.

    Of fold 0, among the epochs that a curve looked at.
    """
    lines = []
    for net in nets:
        seen = [row for row in net[0].history if "validation_frame_accuracy" in row]
        best = max(seen, key=lambda row: row["validation_frame_accuracy"])
        lost = best["validation_frame_accuracy"] - seen[-1]["validation_frame_accuracy"]
        line = {"seed": net[0].seed, "best epoch": best["epoch"], "last epoch": seen[-1]["epoch"]}
        lines.append({**line, "validation points lost": round(100 * lost, 2)})
    return pd.DataFrame(lines).set_index("seed")


def by_teacher(accuracies: Mapping[str, Mapping[str, Sequence[float]]], low: float) -> pd.DataFrame:
    """Means over seeds in per cent, a row a kind of teacher, and how much of its gain its students recover.

    accuracies: by teacher, shares of 1 of "teacher, training frames", "teacher, test frames" and "student, test
    frames". low: what hard targets reach on the students' data; nothing is recovered of a gain of 0.
    """
    rows = {name: {key: 100 * np.mean(values) for key, values in row.items()} for name, row in accuracies.items()}
    table = pd.DataFrame(rows).T
    above = table[["teacher, test frames", "student, test frames"]] - 100 * low
    gain = above["teacher, test frames"].where(above["teacher, test frames"] != 0)
    return table.assign(recovered=100 * above["student, test frames"] / gain).add_suffix(", %")


def whole_percent(value: float) -> str:
    """A percentage for the text; a dash for one that is not finite."""
    return f"{value:.0f} %" if np.isfinite(value) else "–"


def training_curves(nets: Mapping[str, Sequence[Folded]]) -> Figure:
    """Accuracy while nets train, a panel a kind of targets, a line a seed: training frames dashed, validation solid."""
    figure, axes = plt.subplots(1, len(nets), figsize=(7.6, 3.3), sharey=True, squeeze=False)
    for ax, (kind, found) in zip(axes.flat, nets.items(), strict=True):
        for i, net in enumerate(found):
            rows = [row for row in net[0].history if "train_frame_accuracy" in row]
            for split, style, colour in (("train", "--", COLOURS[0]), ("validation", "-", COLOURS[1])):
                values = [100 * row[f"{split}_frame_accuracy"] for row in rows]
                label = split if i == 0 else None
                ax.plot([row["epoch"] for row in rows], values, style, color=colour, lw=1.2, label=label)
        ax.set(xlabel="epoch", title=f"{kind} targets")
    axes[0, 0].set_ylabel("frames right, %")
    axes[0, -1].legend()
    return figure


def shares_figure(curve: pd.DataFrame) -> Figure:
    """Test frames right over the share of the utterances, by targets; see `speech.rows`."""
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    figures.sweep(ax, curve, "share", "frame accuracy, %", by="targets")
    ax.set(xlabel="share of the training utterances, %", ylabel="test frames right, %")
    at = sorted(set(curve["share"]))
    ax.set_xticks(at, [f"{share:g}" for share in at])
    ax.minorticks_off()
    return figure
