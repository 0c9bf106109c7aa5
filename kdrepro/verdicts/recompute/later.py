"""Beyond the paper: what mistakes cost, and what was proposed after 2015."""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import spearmanr

from kdrepro.verdicts.recompute.arrays import Arrays, Metrics, errors
from kdrepro.verdicts.recompute.digits import best_shift, by_teacher

SHIFTED = "without a class"
# Students whose loss asks for their teacher's logits, scale and all, which is what a divergence at T = 1 measures.
PAPERS_LOSS = (
    "hinton",
    "hinton, published",
    "hinton, as standardised",
    "hinton, as dkd",
    "stored, long",
    "patient",
    "patient, long",
)


def of_students(arrays: Arrays, name: str) -> np.ndarray:
    """Errors [seeds] of the students of each teacher, their mean. Raises KeyError for none."""
    turns = [net.removesuffix(".right") for net in arrays if net.startswith(f"{name}, student ")]
    if not turns:
        raise KeyError(name)
    return np.mean([errors(arrays, net) for net in turns], axis=0)


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The test images of even and of odd number."""
    return np.arange(0, count, 2), np.arange(1, count, 2)


def hidden_by_epoch(table: np.ndarray) -> np.ndarray:
    """Errors that the best epoch of one half hides on the other, both ways added up: [students].

    table: errors on each half by epoch, [students, 2, epochs]. Of equally good epochs the first is taken.
    """
    best = table.argmin(2)  # [students, 2]
    each = np.arange(len(table))
    return sum(table[each, half, best[:, 1 - half]] - table[each, half, best[:, half]] for half in (0, 1))


def hidden_by_shift(arrays: Arrays, net: str = SHIFTED) -> np.ndarray:
    """Errors that the best shift of one half hides on the other, both ways added up: [students]. See `best_shift`."""
    needed = arrays[f"{net}.needed"]
    sides = [np.unpackbits(arrays[f"{net}.{kind} right"], axis=1, count=needed.shape[1]) for kind in ("seen", "unseen")]
    parts = halves(needed.shape[1])
    shifts = []
    for part in parts:
        of_part = {f"{net}.needed": needed[:, part]}
        for kind, right in zip(("seen", "unseen"), sides, strict=True):
            of_part[f"{net}.{kind} right"] = np.packbits(right[:, part], axis=1)
        shifts.append(best_shift(of_part, net)[0])

    def wrong(part: np.ndarray, shift: np.ndarray) -> np.ndarray:
        right = np.where(needed[:, part] <= shift[:, None], sides[1][:, part], sides[0][:, part])
        return (1 - right.astype(int)).sum(1)

    return sum(wrong(parts[half], shifts[1 - half]) - wrong(parts[half], shifts[half]) for half in (0, 1))


def _by_teacher(values: np.ndarray, arrays: Arrays) -> np.ndarray:
    """`by_teacher`, of chapter 8's students."""
    return by_teacher(values, len(arrays["no fault, student 1.right"]))


def _scale(arrays: Arrays) -> Metrics:
    right = of_students(arrays, "no fault")
    return {
        "errors_added_without_t2": of_students(arrays, "T² left out") - right,
        "errors_added_by_class_mean": of_students(arrays, "KL averaged over the classes") - right,
    }


def _pairing(arrays: Arrays) -> Metrics:
    shuffled = of_students(arrays, "cached logits in another order") - of_students(arrays, "no fault")
    moved = of_students(arrays, "cached logits of other images") - of_students(arrays, "no fault, moved images")
    return {"errors_added_by_shuffling": shuffled, "errors_added_by_moving": moved}


def _choice(arrays: Arrays) -> Metrics:
    return {
        "errors_hidden_by_epoch": _by_teacher(hidden_by_epoch(arrays["no fault.errors of halves"]), arrays),
        "errors_hidden_by_shift": _by_teacher(hidden_by_shift(arrays), arrays),
    }


def divergence(arrays: Arrays, net: str, split: str = "") -> np.ndarray:
    """Mean KL(teacher || student), [seeds], of a net's kept cases; split: "" for test images, or " in training"."""
    return arrays[f"{net}.divergence{split}"].mean(1)


def agreeing(arrays: Arrays, net: str, split: str = "") -> np.ndarray:
    """Share of a net's kept cases on which it answers as its teacher, [seeds]; split as above."""
    count = arrays[f"{net}.divergence"].shape[1]
    return np.unpackbits(arrays[f"{net}.agrees{split}"], axis=1, count=count).mean(1)


def fidelity_correlation(divergences: Mapping[str, np.ndarray], errors_of: Mapping[str, np.ndarray]) -> np.ndarray:
    """Spearman's correlation over kinds of students, [seeds]: how far from the teacher, and how many test errors.

    divergences, errors_of: by kind, [seeds]. Positive where the closer copy makes fewer errors; 0 for fewer than three
    kinds, or where nothing differs. Kinds that are the same students count once.
    """
    found = []
    for apart, wrong in zip(*_by_kind(divergences, errors_of), strict=True):
        varied = len(apart) > 2 and np.ptp(apart) > 0 and np.ptp(wrong) > 0
        found.append(float(spearmanr(apart, wrong).statistic) if varied else 0.0)
    return np.array(found)


def added_by_closest(divergences: Mapping[str, np.ndarray], errors_of: Mapping[str, np.ndarray]) -> np.ndarray:
    """Errors of the closest kind of student less those of the best kind, [seeds].

    Both kinds are chosen by the other seeds' means, so that no seed's own luck makes its difference: it may be
    negative. 0 for a single seed, which has no others.
    """
    apart, wrong = _by_kind(divergences, errors_of)
    if len(wrong) < 2:
        return np.zeros(len(wrong))
    closest, best = ((of.sum(0) - of).argmin(1) for of in (apart, wrong))
    seeds = np.arange(len(wrong))
    return (wrong[seeds, closest] - wrong[seeds, best]).astype(float)


def _by_kind(*several: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Each by kind as a table [seeds, kinds], without kinds whose figures are all those of an earlier one."""
    columns = {kind: tuple(np.concatenate([of[kind] for of in several]).tolist()) for kind in several[0]}
    kinds = {column: kind for kind, column in reversed(columns.items())}.values()  # the first of equals
    return [np.stack([of[kind] for kind in columns if kind in kinds], 1) for of in several]


def _saved(arrays: Arrays, before: str, after: str) -> np.ndarray:
    return errors(arrays, before) - errors(arrays, after)


def _patient(arrays: Arrays) -> Metrics:
    return {
        "errors_saved": _saved(arrays, "stored, long", "patient, long"),
        "errors_saved_over_labels": _saved(arrays, "labels, moved images, long", "patient, long"),
        "errors_saved_by_length": _saved(arrays, "patient", "patient, long"),
        "errors_of_stored": errors(arrays, "stored, long"),
    }


def _fidelity(arrays: Arrays) -> Metrics:
    on_test = {kind: divergence(arrays, kind) for kind in PAPERS_LOSS}
    wrong = {kind: errors(arrays, kind) for kind in PAPERS_LOSS}
    return {
        "divergence_ratio": on_test["hinton"] / divergence(arrays, "hinton", " in training"),
        "errors_added_by_closest": added_by_closest(on_test, wrong),
        "fidelity_correlation": fidelity_correlation(on_test, wrong),
        "share_agreeing": agreeing(arrays, "hinton"),
        "share_agreeing_in_training": agreeing(arrays, "hinton", " in training"),
    }


def _smoothing(arrays: Arrays) -> Metrics:
    return {
        "errors_added_to_student": -_saved(arrays, "of short teachers", "of smoothed teachers"),
        "errors_added_to_teacher": -_saved(arrays, "short teacher", "smoothed teacher"),
    }


def _ensemble(arrays: Arrays) -> Metrics:
    return {
        "errors_saved_by_ensemble": _saved(arrays, "hinton", "of several"),
        "errors_saved_by_self": _saved(arrays, "labels alone", "of its like"),
    }


def _dkd(arrays: Arrays) -> Metrics:
    return {
        "errors_saved": _saved(arrays, "hinton", "dkd"),
        "errors_saved_30": _saved(arrays, "hinton, narrow", "dkd, narrow"),
        "errors_saved_equal": _saved(arrays, "hinton, as dkd", "dkd"),
        "errors_of_hinton": errors(arrays, "hinton"),
    }


def _standardised(arrays: Arrays) -> Metrics:
    """Of photographs, on which nothing was tuned, the settings that were published alone."""
    tuned = {"errors_saved": ("hinton", "standardised"), "errors_saved_30": ("hinton, narrow", "standardised, narrow")}
    there = {name: pair for name, pair in tuned.items() if all(f"{net}.right" in arrays for net in pair)}
    return {
        "errors_saved_equal": _saved(arrays, "hinton, as standardised", "standardised, published"),
        "errors_saved_published": _saved(arrays, "hinton, published", "standardised, published"),
    } | {name: _saved(arrays, *pair) for name, pair in there.items()}


WAYS: dict[str, Callable[[Arrays], Metrics]] = {
    "pitfalls.scale": _scale,
    "pitfalls.pairing": _pairing,
    "pitfalls.choice": _choice,
    "after.patient": _patient,
    "after.fidelity": _fidelity,
    "after.smoothing": _smoothing,
    "after.ensemble": _ensemble,
    "after.dkd": _dkd,
    "after.standardised": _standardised,
}
