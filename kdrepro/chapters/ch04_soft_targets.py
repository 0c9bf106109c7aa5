"""Chapter 4: Table 5 and its claims."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdrepro.chapters.sizes import SpeechTraining
from kdrepro.chapters.speech import Folded, Scores, SpeechExperiment, mean_percent, percent

# Its Table 5: frame accuracy in training and on the test set.
PAPER_SOFT = {"all, hard": (0.634, 0.589), "little, hard": (0.673, 0.445), "little, soft": (0.654, 0.570)}


def regulariser_plans(run: SpeechExperiment, fraction: float | None = None) -> dict[str, SpeechTraining]:
    """Chapter 4's two plans, "hard" and "soft", for a share of the utterances; None for the chapter's own share.

    For another share than the chapter's the epochs are changed: with soft targets so that about as many steps are
    taken, one pass at the least; with hard targets, which overfit, by the root of that. On all of the data there is
    "hard" only, chapter 3's member: the net whose soft targets the others get.
    """
    plans = {"hard": run.sizes.hard, "soft": run.sizes.soft}
    if not run.is_synthetic:
        plans = {"hard": run.sizes.timit_hard, "soft": run.sizes.timit_soft}
    if fraction is None or fraction == plans["hard"].fraction:
        return plans
    if fraction == 1:
        return {"hard": run.plans.member}
    changed = {}
    for kind, plan in plans.items():
        epochs = max(1, round(plan.recipe.epochs * plan.fraction / fraction))
        if kind == "hard":
            # Fewer passes do on more data, but not in proportion: it overfits less.
            epochs = max(1, round(plan.recipe.epochs * (plan.fraction / fraction) ** 0.5))
        changed[kind] = plan.but(fraction=fraction, epochs=epochs, curve=max(1, epochs // 10))
    return changed


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


def train_accuracy(net: Folded) -> float:
    """Frame accuracy on what a net was trained on, the mean over folds, at the epoch whose weights it has."""
    found = []
    for trained in net:
        rows = [row for row in trained.history if "train_frame_accuracy" in row]
        best = max(rows, key=lambda row: row["validation_frame_accuracy"]) if trained.plan.early_stopping else rows[-1]
        found.append(best["train_frame_accuracy"])
    return float(np.mean(found))


def claim_table5(run: SpeechExperiment, nets: Mapping[str, Sequence[Folded]], scores: Scores) -> None:
    """Record the claims of Table 5, one value a seed."""
    test = {system: np.array([score.frame_accuracy for score in found]) for system, found in scores.items()}
    train = {system: np.array([train_accuracy(net) for net in found]) for system, found in nets.items()}
    errors = {system: {run.error_metric: [score.error_rate for score in found]} for system, found in scores.items()}
    trained = {system: [one for net in found for one in net] for system, found in nets.items()}
    full, hard, soft = "all, hard", "little, hard", "little, soft"

    def common(system: str) -> dict[str, Any]:
        return {"frame_accuracy": test[system], "train_frame_accuracy": train[system], **errors[system]}

    run.claim("soft.full", trained[full], **common(full), gain_over_hard3=test[full] - test[hard])
    run.claim("soft.hard3", trained[hard], **common(hard), overfit=train[hard] - test[hard])
    recovered = (test[soft] - test[hard]) / (test[full] - test[hard])
    run.claim("soft.soft3", trained[full] + trained[hard] + trained[soft], recovered=recovered, **common(soft))
