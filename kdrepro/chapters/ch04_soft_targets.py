"""Chapter 4: the choice of the teacher, Table 5, what its text quotes, early stopping, and its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdrepro import paths
from kdrepro.chapters import figures
from kdrepro.chapters.sizes import SpeechTraining, Systems
from kdrepro.chapters.speech import Folded, Score, SpeechExperiment, mean_percent, percent
from kdrepro.errors import InputError
from kdrepro.verdicts import recompute, records, wording

# Its Table 5: frame accuracy in training and on the test set.
PAPER_SOFT = {"all, hard": (0.634, 0.589), "little, hard": (0.673, 0.445), "little, soft": (0.654, 0.570)}
Scores = Mapping[str, Sequence[Score]]  # system -> one a seed


def table5(found: Sequence[tuple[SpeechExperiment, Mapping[str, Sequence[Folded]], Scores]]) -> pd.DataFrame:
    """The paper's Table 5 with ours beside it, for every data set: means over seeds with their 95 % intervals.

    Systems that the paper has not have dashes.
    """
    lines = []
    for system in found[0][1]:
        paper = [percent(value) for value in PAPER_SOFT[system]] if system in PAPER_SOFT else ["–", "–"]
        line: dict[Any, Any] = {"system": system, ("paper", "train"): paper[0], ("paper", "test"): paper[1]}
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
    curves, kept = learning_curves(net)
    return float(recompute.kept_and_last(curves[None], kept[None])[0, 0, 0])


def publish_curves(run: SpeechExperiment, name: str, nets: Sequence[Folded]) -> None:
    """Keep the `learning_curves` of a system beside the record, [seeds, folds, epochs, 3] and [seeds, folds]."""
    curves, kept = zip(*map(learning_curves, nets), strict=True)
    run.predictions |= {f"{name}.curve": np.stack(curves), f"{name}.kept": np.stack(kept)}


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
        "recovered_over_annealed": wording.written("recovered", soft.get("recovered_over_annealed")),
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


def candidates(run: SpeechExperiment, little: Systems) -> pd.DataFrame:
    """The teachers that may be chosen, as their students find them on validation speakers, a row each, in per cent.

    A candidate is a net on all labels, of some passes, and the temperature of its soft targets: the preset's
    `teacher_shares` and `teacher_temperatures`. The one whose student on little speech gets most of the validation
    frames right is chosen, whatever its own accuracy is; of equals the first. Teacher and student are those of the
    first seed. The record keeps the table, and seeds that confirm take it from there. Raises InputError where they
    cannot.
    """
    if run.confirms:
        return pd.DataFrame(_as_chosen(run))
    rows, most = [], run.plans.training.recipe.epochs
    seed, *others = run.members_seeds
    for epochs in sorted({max(1, round(share * most)) for share in run.sizes.teacher_shares}):
        teacher = run.train(full_plan(run, epochs), [*others, seed][:1], name=f"all, hard, {passes(epochs)}")
        for t in run.sizes.teacher_temperatures:
            plan = little.distilled.but(temperature=t)
            student = run.train(plan, [seed], {seed: teacher}, name=f"candidate's student, T = {t:g}")
            scores = [run.score(net, split="validation") for net in (teacher[0], student[0])]
            run.publish_scores(recompute.CANDIDATE.format(epochs, f"{t:g}"), scores[1:], "validation")
            row: dict[str, Any] = {"passes": epochs, "T": t}
            for name, score in zip(("teacher", "student"), scores, strict=True):
                row[f"{name}, validation frames, %"] = 100 * score.frame_accuracy
            row["teacher, training frames, %"] = 100 * train_accuracy(teacher[0])
            rows.append(row)
    best = max(range(len(rows)), key=lambda i: rows[i]["student, validation frames, %"])
    run.record["teachers"] = [row | {"chosen": "←" if i == best else ""} for i, row in enumerate(rows)]
    return pd.DataFrame(run.record["teachers"])


def _as_chosen(run: SpeechExperiment) -> list[dict[str, Any]]:
    """The candidates that the run which is to be confirmed has compared."""
    for folder in (paths.runs(run.preset.name) / "results", paths.RESULTS):
        path = folder / f"{run.record_name}.json"
        record = records.read(path) if path.exists() else {}
        if record.get("preset") == run.preset.name and "teachers" in record:
            return record["teachers"]
    raise InputError(
        f"No record says which teacher {run.chapter} at {run.preset.name} has chosen, and fresh seeds take the same: "
        f"`kdrepro run {run.chapter} --preset {run.preset.name}` first."
    )


def chosen(table: pd.DataFrame) -> tuple[int, float]:
    """Passes and temperature of the teacher that `candidates` chose."""
    (row,) = table[table["chosen"] != ""].to_dict("records")
    return int(row["passes"]), float(row["T"])


def full_plan(run: SpeechExperiment, epochs: int) -> SpeechTraining:
    """A net on all labels that makes so many passes."""
    plan = run.plans.training
    return plan if epochs == plan.recipe.epochs else plan.but(epochs=epochs)


def shifted(seeds: Sequence[int], nets: Sequence[Folded]) -> dict[int, list[Folded]]:
    """A teacher for each seed that another seed began: none has its student's initial weights, where there are two."""
    return {seed: [nets[(i + 1) % len(nets)]] for i, seed in enumerate(seeds)}


def training_curves(nets: Mapping[str, Sequence[Folded]]) -> Figure:
    """Accuracy while nets train, a colour a kind of targets, a line a seed: training frames dashed, validation solid.

    A ring is the epoch whose weights a net that was stopped early was left with; on fold 0.
    """
    figure, ax = plt.subplots(figsize=(7.4, 3.8))
    for colour, (kind, found) in zip(figures.colours_of(f"{kind} targets" for kind in nets), nets.items(), strict=True):
        for i, net in enumerate(found):
            rows = [row for row in net[0].history if "train_frame_accuracy" in row]
            curves, kept = learning_curves(net)
            epochs = [row["epoch"] for row in rows]
            for split, (name, style) in enumerate((("training", "--"), ("validation", "-"))):
                label = f"{kind} targets, {name} frames" if i == 0 else None
                ax.plot(epochs, 100 * curves[0, :, split], style, color=colour, lw=1.2, label=label)
            if net[0].plan.early_stopping:
                at = int(kept[0])
                ax.plot(epochs[at], 100 * curves[0, at, 1], "o", mfc="none", color=colour)
    ax.set(xlabel="epoch", ylabel="frames right, %")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize=9)  # the curves leave no room inside
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
