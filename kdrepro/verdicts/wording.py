"""How a metric's name and values are written for a reader."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# How a metric is written, by how its name begins: a count, a share of 1, a difference of shares in points (hundredths),
# or a plain figure.
COUNTS = ("errors", "parameters", "synchronisations", "bytes")
PERCENT = ("error_rate", "recovered", "accuracy", "frame_accuracy", "train_frame_accuracy", "relative_gain",
           "relative_loss", "conditional_accuracy", "phone_error_rate", "word_error_rate", "share", "spread",
           "relative_difference", "right_on_3")  # fmt: skip
POINTS = (
    "gain_over_dustbin",
    "gain_over_unstopped",
    "gain_over_labels",
    "gain_over_longer_generalist",
    "gain_over_random_subsets",
    "gain_over_self_distillation",
    "gain_over_two_generalists",
    "gain_of_ensemble",
    "gain_over_hard3",
    "gain_of_stopping",
    "gain_of_t2",
    "gain_over_annealed",
    "gain_of_half_again",
    "gain_of_committee",
    "gain_of_longer",
    "word_errors_saved",
    "word_errors_above_ensemble",
    "lost_without_stopping",
    "lost_by_alignment",
    "overfit",
)
NAMES = {  # of metrics whose own words say too little
    "class_p": "p over classes",
    "coverages": "different numbers of specialists of a class",
    "equivalence_p": "p of two one-sided tests, the largest",
    "errors_added_by_closest": "errors added by taking the closest copy",
    "errors_added_without_t2": "errors added without T²",
    "errors_of_hinton": "errors of Hinton's loss",
    "errors_of_stored": "errors of stored soft targets",
    "errors_saved_30": "errors saved with 30 units",
    "errors_saved_by_self": "errors saved by self-distillation",
    "errors_saved_equal": "errors saved at equal weight and T",
    "errors_saved_over_labels": "errors saved over labels alone",
    "errors_saved_published": "errors saved at published weights and T",
    "gain_of_half_again": "gain of half as many passes again",
    "gain_of_half_again_high": "gain of half as many passes again, upper end over validation voices",
    "gain_of_longer": "gain of going on",
    "gain_of_longer_high": "gain of going on, upper end over images",
    "gain_of_t2": "gain of T = 2 over the best other",
    "gain_over_annealed": "gain over hard targets on 3 % at a falling rate",
    "gain_over_hard3": "gain over hard targets on 3 %",
    "gain_over_higher": "gain over higher T",
    "gain_over_logit_matching_16": "gain over logit matching with 16 units",
    "gain_over_longer_generalist": "gain over the generalist that went on",
    "gain_over_lower": "gain over lower T",
    "gain_over_self_distillation": "gain over self-distillation",
    "gain_over_t1": "gain over T = 1",
    "gain_over_t1_16": "gain over T = 1 with 16 units",
    "neighbours_p": "p of the neighbours, one-sided, by Holm",
    "overfit_of_dustbin": "overfit with a dustbin",
    "overfit_of_soft": "overfit with soft targets by class",
    "overfit_saved": "overfit saved",
    "recovered_of_labels": "recovered from labels alone, same recipe",
    "recovered_over_annealed": "recovered where both have a falling rate",
    "seeds_each": "students of each temperature",
    "share_agreeing": "share of test images with the teacher's answer",
    "share_agreeing_in_training": "share of training images with the teacher's answer",
    "word_errors_saved_by_half_again": "word errors saved by half as many passes again",
    "word_errors_saved_high": "word errors saved, upper end over voices",
    "word_errors_saved_low": "word errors saved, lower end over voices",
    "word_errors_saved_over_half_again": "word errors saved beyond half as many passes again on labels",
    "word_errors_saved_past_half": "word errors saved beyond half of what the ensemble saves",
}


def name(metric: str) -> str:
    """A metric's name for a reader."""
    return NAMES.get(metric, metric.replace("_", " "))


def label(metric: str) -> str:
    """A metric's name for a reader, with its unit where its values do not show it."""
    return name(metric) + unit(metric)


def unit(metric: str) -> str:
    """A metric's unit, to follow its name, where its values do not show it."""
    return ", points" if metric.startswith(POINTS) else ""


def written(metric: str, value: float | None, digits: int | None = None, more: int = 0) -> str:
    """A metric's value for a reader. digits: of a count, after the point. more: digits than such a figure has."""
    if value is None:
        return "–"
    if metric.startswith(COUNTS):
        return f"{value:z,.{(digits if digits is not None else 0 if value == int(value) else 1) + more}f}"
    if metric.startswith(PERCENT):
        return f"{100 * value:z.{1 + more}f} %"
    if metric.startswith(POINTS):
        return f"{100 * value:z.{1 + more}f}"
    return f"{value:z.{3 + more}g}"


def look_alike(metric: str, value: float, bound: float | None) -> bool:
    """Whether a value and a bound that it does not equal are written alike."""
    if bound is None or math.isclose(value, bound, abs_tol=1e-9):
        return False
    return written(metric, value, 1) == written(metric, bound, 1)


def apart(metric: str, value: float, bound: float) -> str:
    """A value in as many digits as tell it from a bound."""
    more = next((m for m in range(8) if written(metric, value, 1, m) != written(metric, bound, 1, m)), 8)
    return written(metric, value, 1, more)


def written_mean(metric: str, entry: Mapping[str, Any]) -> str:
    """Mean, 95 % interval and number of seeds of a metric in a record's claim entry."""
    if metric in entry.get("pooled", {}):
        return f"{written(metric, entry['mean'][metric])}, all seeds together"
    values = entry["metrics"].get(metric)
    if not values:
        return "–"
    text = written(metric, entry["mean"][metric])
    interval = entry["ci95"].get(metric)
    if interval:
        text += f" [{written(metric, interval[0], 1)}, {written(metric, interval[1], 1)}]"
    return f"{text}, n = {len(values)}"


def written_seeds(metric: str, entry: Mapping[str, Any]) -> str:
    """A metric's value for each seed: what a handful of seeds that decide nothing can be told by."""
    if metric in entry.get("pooled", {}):
        return written_mean(metric, entry)
    return ", ".join(written(metric, value) for value in entry["metrics"][metric])


def interval(ends: Sequence[float] | None, form: str = "{:.1f}", times: float = 1) -> str:
    """An interval, for a reader, of so many times its values; a dash where there is none, as of a single seed."""
    return "–" if ends is None else " to ".join(form.format(times * end) for end in ends)


def threads(provenance: Mapping[str, Any]) -> str:
    """The threads of a run's process, for a reader."""
    return f"{provenance['threads']} thread" + ("s" if provenance["threads"] != 1 else "")


def trained_elsewhere(provenance: Mapping[str, Any]) -> str:
    """Which of a run's networks another device than its own has trained, after a semicolon; "" for none."""
    there = {device: n for device, n in provenance.get("trained_on", {}).items() if device != provenance["device"]}
    counts = " and ".join(f"{count} on {device}" for device, count in there.items())
    return f"; of its {provenance['networks']} networks {counts}" if there else ""


def duration(seconds: float) -> str:
    """Seconds or minutes, for a reader."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
