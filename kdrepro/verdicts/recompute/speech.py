"""Sections 4 and 6: frames that acoustic models get right, and errors after decoding."""

from collections.abc import Callable

import numpy as np

from kdrepro.verdicts.recompute.arrays import Arrays, Metrics, right, share


def _frames(arrays: Arrays, system: str) -> np.ndarray:
    """Share of the test frames that each seed's net gets right, [seeds]."""
    return right(arrays, system, "correct", int(arrays["frames"])) / int(arrays["frames"])


def _error_rate(arrays: Arrays, system: str) -> np.ndarray:
    """Errors after decoding over the reference's length, [seeds]."""
    *wrong, length = np.moveaxis(arrays[f"{system}.errors"].astype(int), 2, 0).sum(-1)
    return sum(wrong) / length


def _error_rates(rate: np.ndarray) -> Metrics:
    """Of words on synthetic speech, of phones on TIMIT: a record has the one that was counted."""
    return {"word_error_rate": rate, "phone_error_rate": rate}


def _baseline(arrays: Arrays) -> Metrics:
    one, (ten,) = _frames(arrays, "baseline"), _frames(arrays, "ensemble")
    found = {"frame_accuracy": one, "gain_of_ensemble": ten - one}
    return found | _error_rates(_error_rate(arrays, "baseline"))


def _ensemble(arrays: Arrays) -> Metrics:
    one, (ten,) = _frames(arrays, "baseline"), _frames(arrays, "ensemble")
    rate = _error_rate(arrays, "ensemble")[0]
    return {"frame_accuracy": ten, "relative_gain": (ten - one) / one} | _error_rates(rate)


def _student(arrays: Arrays) -> Metrics:
    one, student = _frames(arrays, "baseline"), _frames(arrays, "distilled")
    rate = _error_rate(arrays, "distilled")
    return {"frame_accuracy": student, "relative_gain": (student - one) / one} | _error_rates(rate)


def _recovered(arrays: Arrays) -> Metrics:
    one, (ten,), student = (_frames(arrays, name) for name in ("baseline", "ensemble", "distilled"))
    return {"recovered": share(student - one, ten - one)}


def kept_and_last(curve: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Accuracy on some training, validation and test frames of the epoch whose weights were kept, and of the last.

    curve: [seeds, folds, epochs looked at, 3]. kept: which of these epochs, [seeds, folds]. Returns the means over
    folds, [2, seeds, 3].
    """
    at = np.take_along_axis(curve, kept[:, :, None, None], axis=2)[:, :, 0]
    return np.stack([at.mean(1), curve[:, :, -1].mean(1)])


def _of_curve(arrays: Arrays, system: str) -> np.ndarray:
    return kept_and_last(arrays[f"{system}.curve"], arrays[f"{system}.kept"])


def _row(arrays: Arrays, system: str) -> Metrics:
    """A row of Table 5."""
    found = {"frame_accuracy": _frames(arrays, system)} | _error_rates(_error_rate(arrays, system))
    if f"{system}.curve" in arrays:
        found["train_frame_accuracy"] = _of_curve(arrays, system)[0, :, 0]
    return found


def _full(arrays: Arrays) -> Metrics:
    gain = _frames(arrays, "all, hard") - _frames(arrays, "little, hard")
    return _row(arrays, "all, hard") | {"gain_over_hard3": gain}


def _hard3(arrays: Arrays) -> Metrics:
    found = _row(arrays, "little, hard")
    if "little, hard.curve" in arrays:
        found["overfit"] = found["train_frame_accuracy"] - found["frame_accuracy"]
        kept, last = _of_curve(arrays, "little, hard")
        found["gain_of_stopping"] = (kept - last)[:, 2]
    return found


def _soft3(arrays: Arrays) -> Metrics:
    full, hard, soft = (_frames(arrays, name) for name in ("all, hard", "little, hard", "little, soft"))
    return _row(arrays, "little, soft") | {"recovered": share(soft - hard, full - hard)}


WAYS: dict[str, Callable[[Arrays], Metrics]] = {
    "speech.baseline": _baseline,
    "speech.ensemble": _ensemble,
    "speech.distilled": _student,
    "speech.recovered": _recovered,
    "soft.full": _full,
    "soft.hard3": _hard3,
    "soft.soft3": _soft3,
}
