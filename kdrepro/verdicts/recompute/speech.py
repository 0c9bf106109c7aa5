"""Sections 4 and 6: frames that acoustic models get right, and errors after decoding."""

import re
from collections.abc import Callable

import numpy as np

from kdrepro.verdicts import stats
from kdrepro.verdicts.recompute.arrays import Arrays, Errors, Metrics, right, share

# Baselines of as many passes as all nets make, and of half as many again.
AS_LONG, LONGER = "baseline, as long", "baseline, half as long again"
CANDIDATE = "candidate of {} passes, T = {}"  # a student of a teacher that may be chosen


def _frames(arrays: Arrays, system: str) -> np.ndarray:
    """Share of the test frames that each net gets right: [seeds, ensembles], or [1, ensembles] for an ensemble.

    The first published arrays have a bit a frame, and one ensemble; later ones count by test speaker.
    """
    if f"{system}.correct" in arrays:
        return (right(arrays, system, "correct", int(arrays["frames"])) / int(arrays["frames"]))[:, None]
    found = arrays[f"{system}.right"].astype(int).sum(-1) / arrays["frames of speaker"].astype(int).sum()
    return found if found.ndim == 2 else found[:, None]


def _errors(arrays: Arrays, system: str) -> np.ndarray:
    """Substitutions, insertions, deletions and length of the reference, [seeds, ensembles, speakers, 4].

    In the first published arrays it is utterances and not speakers.
    """
    found = arrays.get(f"{system}.errors by speaker")
    found = (arrays[f"{system}.errors"] if found is None else found).astype(int)
    return found if found.ndim == 4 else found[:, None]


def _error_rate(arrays: Arrays, system: str) -> np.ndarray:
    """Errors after decoding over the reference's length, [seeds, ensembles]."""
    *wrong, length = np.moveaxis(_errors(arrays, system), 3, 0).sum(-1)
    return sum(wrong) / length


def _error_rates(rate: np.ndarray) -> Metrics:
    """Of words on synthetic speech, of phones on TIMIT: a record has the one that was counted."""
    return {"word_error_rate": rate, "phone_error_rate": rate}


def _baseline(arrays: Arrays) -> Metrics:
    one, ten = _frames(arrays, "baseline"), _frames(arrays, "ensemble")
    found = {"frame_accuracy": one.mean(1), "gain_of_ensemble": (ten - one).mean(1)}
    return found | _error_rates(_error_rate(arrays, "baseline").mean(1)) | half_again(arrays)


def _ensemble(arrays: Arrays) -> Metrics:
    one, ten = _frames(arrays, "baseline"), _frames(arrays, "ensemble")
    rate = _error_rate(arrays, "ensemble").mean()
    found = {"frame_accuracy": ten.mean(), "relative_gain": (ten - one).mean(1) / one.mean(1)}
    return found | _error_rates(rate) | half_again(arrays)


def _student(arrays: Arrays) -> Metrics:
    one, student = _frames(arrays, "baseline"), _frames(arrays, "distilled")
    rate, gain = _error_rate(arrays, "distilled").mean(1), (student - one).mean(1)
    found = {"frame_accuracy": student.mean(1), "relative_gain": gain / one.mean(1)}
    return found | _error_rates(rate) | half_again(arrays)


def half_again(arrays: Arrays) -> Metrics:
    """What half as many passes again gain baselines on validation speakers, a share of the frames: one number a metric.

    gain_of_half_again is the mean over seeds, gain_of_half_again_high the upper end of its interval by a bootstrap over
    voices. arrays: `validation right` [seeds, speakers] of the same seeds' nets; nothing of arrays without it.
    """
    names = [f"{length}.validation right" for length in (AS_LONG, LONGER)]
    if not set(names) <= set(arrays):
        return {}
    one, longer = (arrays[name].astype(int).mean(0) for name in names)
    of = arrays["frames of validation speaker"].astype(int)
    ends = _over_voices(arrays, longer - one, of, "validation ")
    found = {"gain_of_half_again": float((longer - one).sum() / of.sum())}
    return found | ({"gain_of_half_again_high": ends[1]} if ends else {})


def recovered(one: np.ndarray, ten: np.ndarray, student: np.ndarray) -> Metrics:
    """What a student keeps of what an ensemble gains, of frame accuracies [seeds, ensembles], [1, ensembles] of `ten`.

    A seed's figure is the mean gain of its students, one an ensemble, over what the ensembles gain over its baselines.
    recovered_of_worse_ensemble is that of the ensemble whose students keep least, all its seeds together.
    """
    kept = share((student - one).mean(1), (ten - one).mean(1))
    of_each = share((student - one).mean(0), (ten - one).mean(0))
    return {"recovered": kept, "recovered_of_worse_ensemble": float(of_each.min())}


def _recovered(arrays: Arrays) -> Metrics:
    return recovered(*(_frames(arrays, name) for name in ("baseline", "ensemble", "distilled"))) | half_again(arrays)


def words(arrays: Arrays) -> Metrics:
    """Word errors saved, as shares of the words, a value a seed, with a bootstrap over voices of all seeds together.

    word_errors_saved_past_half is what the distilled nets save beyond half of what the ensemble does.
    word_errors_saved_by_half_again is what half as many passes again save baselines, the mean over the first seeds,
    which have them; word_errors_saved_over_half_again what their distilled nets save beyond that, a value a seed.
    arrays: `name.errors by speaker` of baseline, ensemble and distilled, see `_errors`, and of the longer baselines.
    """
    one, ten, student = (_error_rate(arrays, name) for name in ("baseline", "ensemble", "distilled"))
    by_student, by_ensemble = (one - student).mean(1), (one - ten).mean(1)
    found: Metrics = {
        "word_error_rate": student.mean(1),
        "word_errors_saved": by_student,
        "word_errors_saved_by_ensemble": by_ensemble,
        "word_errors_saved_past_half": by_student - by_ensemble / 2,
        "word_errors_above_ensemble": (student - ten).mean(1),
    }
    if ends := saved_by_voices(arrays, "distilled", "baseline"):
        found |= dict(zip(("word_errors_saved_low", "word_errors_saved_high"), ends, strict=True))
    if f"{AS_LONG}.errors by speaker" in arrays:
        saved = (_error_rate(arrays, AS_LONG) - _error_rate(arrays, LONGER)).mean(1)
        found["word_errors_saved_by_half_again"] = float(saved.mean())
        found["word_errors_saved_over_half_again"] = by_student[: len(saved)] - saved
    return found | half_again(arrays)


def saved_by_voices(arrays: Arrays, system: str, other: str) -> tuple[float, float] | None:
    """The interval, by a bootstrap over test voices, of the errors that a system saves against another.

    Shares of the reference; seeds and ensembles averaged. None for a single voice.
    """
    each = [_errors(arrays, name).mean((0, 1)) for name in (other, system)]  # [speakers, 4]
    wrong = [one[:, :3].sum(1) for one in each]
    return _over_voices(arrays, wrong[0] - wrong[1], each[0][:, 3])


def gained_by_voices(arrays: Arrays, system: str, other: str) -> tuple[float, float] | None:
    """The same of the frames that a system gets right and the other does not, shares of all frames."""
    of = arrays["frames of speaker"].astype(int)
    each = [arrays[f"{name}.right"].astype(int).reshape(-1, len(of)).mean(0) for name in (system, other)]
    return _over_voices(arrays, each[0] - each[1], of)


def _over_voices(arrays: Arrays, parts: np.ndarray, of: np.ndarray, split: str = "") -> tuple[float, float] | None:
    """`stats.bootstrap` over voices, of figures of speakers, [speakers]: those who share a voice are drawn together.

    split: "validation " for those speakers. The first published arrays do not say whose voice a speaker has.
    """
    voice = arrays.get(f"voice of {split}speaker", np.arange(len(of)))
    return stats.bootstrap(*(np.bincount(voice, weights=figures) for figures in (parts, of)))


def temperature(table: Errors, of: float = 2.0) -> Metrics:
    """What a temperature gains over the best of the others, by their means over seeds; and the best of all.

    table: frame accuracies [seeds] by temperature.
    """
    means = {t: values.mean() for t, values in table.items()}
    other = max((t for t in means if t != of), key=lambda t: means[t])
    return {"gain_of_t2": table[of] - table[other], "best_temperature": max(means, key=lambda t: means[t])}


def _temperature(arrays: Arrays) -> Metrics:
    names = [name.removesuffix(".right") for name in arrays if name.startswith("T = ") and name.endswith(".right")]
    if not names:
        raise KeyError("T = ")
    return temperature({float(name.removeprefix("T = ")): _frames(arrays, name)[:, 0] for name in names})


def _aligned(arrays: Arrays) -> Metrics:
    by_hand, aligned = (_frames(arrays, f"labels {how}")[:, 0] for how in ("by hand", "aligned"))
    lost = by_hand - aligned
    return {"frame_accuracy": aligned, "lost_by_alignment": lost, "relative_loss": lost / by_hand}


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
    found = {"frame_accuracy": _frames(arrays, system)[:, 0]}
    found |= _error_rates(_error_rate(arrays, system)[:, 0])
    if f"{system}.curve" in arrays:
        found["train_frame_accuracy"] = _of_curve(arrays, system)[0, :, 0]
    return found


def _full(arrays: Arrays) -> Metrics:
    full, found = _frames(arrays, "all, hard")[:, 0], _row(arrays, "all, hard")
    gains = {metric: full - hard for metric, hard in _hard_arms(arrays, "gain_over_hard3", "gain_over_annealed")}
    return found | gains | half_again(arrays)


def _hard_arms(arrays: Arrays, constant: str, annealed: str) -> list[tuple[str, np.ndarray]]:
    """Frame accuracies [seeds] of hard targets on little data, by the names of the metrics against them.

    At a constant rate, and at one that falls to zero, which the first published arrays have not.
    """
    there = (("little, hard", constant), ("little, hard, annealed", annealed))
    return [
        (metric, _frames(arrays, name)[:, 0])
        for name, metric in there
        if name == "little, hard" or f"{name}.right" in arrays
    ]


def _hard3(arrays: Arrays) -> Metrics:
    found = _row(arrays, "little, hard")
    if "little, hard.curve" in arrays:
        found["overfit"] = found["train_frame_accuracy"] - found["frame_accuracy"]
        kept, last = _of_curve(arrays, "little, hard")
        found["gain_of_stopping"] = (kept - last)[:, 2]
    return found


def lost_at_the_end(curve: np.ndarray) -> np.ndarray:
    """Test frames that a net lost from the epoch that was best on validation speakers to its last, shares [seeds].

    curve: see `kept_and_last`.
    """
    best, last = kept_and_last(curve, curve[..., 1].argmax(2))
    return (best - last)[:, 2]


def _soft3(arrays: Arrays) -> Metrics:
    full, found = _frames(arrays, "all, hard")[:, 0], _row(arrays, "little, soft")
    for metric, hard in _hard_arms(arrays, "recovered", "recovered_over_annealed"):
        # The soft targets' net at the same schedule.
        soft = _frames(arrays, "little, soft" if metric == "recovered" else "little, soft, annealed")[:, 0]
        found[metric] = share(soft - hard, full - hard)
    if "little, soft.curve" in arrays:
        found["lost_without_stopping"] = lost_at_the_end(arrays["little, soft.curve"])
    return found | half_again(arrays) | teacher(arrays)


def teacher(arrays: Arrays) -> Metrics:
    """Passes and temperature of the candidate whose student gets most of the validation frames right.

    arrays: `candidate of N passes, T = X.validation right`, int [1, speakers], in the order in which equals go; nothing
    of arrays without them.
    """
    found = {}
    for name in arrays:
        if match := re.fullmatch(CANDIDATE.format(r"(\d+)", r"([\d.]+)") + r"\.validation right", name):
            found[int(match[1]), float(match[2])] = int(arrays[name].astype(int).sum())
    if not found:
        return {}
    passes, t = max(found, key=lambda one: found[one])
    return {"teacher_passes": float(passes), "teacher_temperature": t}


WAYS: dict[str, Callable[[Arrays], Metrics]] = {
    "speech.baseline": _baseline,
    "speech.ensemble": _ensemble,
    "speech.distilled": _student,
    "speech.recovered": _recovered,
    "speech.words": words,
    "speech.temperature": _temperature,
    "speech.aligned": _aligned,
    "soft.full": _full,
    "soft.hard3": _hard3,
    "soft.soft3": _soft3,
}
