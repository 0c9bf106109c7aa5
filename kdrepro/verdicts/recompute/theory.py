"""Section 2: gradients over the temperature, small students, means of ensembles, learning rates and fewer cases."""

from collections.abc import Callable

import numpy as np

from kdrepro.verdicts.recompute.arrays import Arrays, Errors, Metrics, errors, errors_by

LIMIT = "logit matching"  # the student at an infinite temperature


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Eq. 1 over the last axis."""
    powers = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return powers / powers.sum(-1, keepdims=True)


def gradient(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """Eq. 2: of logits [..., C] each."""
    return (softened(student, temperature) - softened(teacher, temperature)) / temperature


def t2_law(arrays: Arrays) -> Metrics:
    """The slope of the mean gradient norm over the temperature, both in logarithms, from T = 20 up."""
    temperatures = arrays["temperatures"][arrays["temperatures"] >= 20]
    norms = np.array([np.linalg.norm(gradient(*_logits(arrays), t), axis=-1).mean(-1) for t in temperatures])
    return {"exponent": np.polyfit(np.log(temperatures), np.log(norms), 1)[0]}


def logit_limit(arrays: Arrays) -> Metrics:
    """How far Eq. 2 is from Eq. 4 at the highest temperature, for zero-mean logits."""
    student, teacher = _logits(arrays)
    highest, classes = arrays["temperatures"].max(), student.shape[-1]
    found = gradient(student, teacher, highest)
    expected = (student - student.mean(-1, keepdims=True)) - (teacher - teacher.mean(-1, keepdims=True))
    norms = [np.linalg.norm(one, axis=-1) for one in (found, expected)]
    cosine = np.clip((found * expected).sum(-1) / (norms[0] * norms[1]), -1, 1)
    return {
        "angle_degrees": np.degrees(np.arccos(cosine)).mean(-1),
        "norm_ratio": (classes * highest**2 * norms[0] / norms[1]).mean(-1),
    }


def _logits(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Of the plain nets and of their teachers, [seeds, cases, C]."""
    return arrays["plain.logits"].astype(float), arrays["teacher.logits"].astype(float)


def small_student(table: Errors, matching: np.ndarray) -> Metrics:
    """What the best temperature above 1, chosen for each seed on the other seeds, saves.

    table: errors [seeds] by temperature, T = 1 among them. matching: those of matched logits [seeds].
    """
    between = [t for t in table if t > 1]
    counts = np.stack([table[t] for t in between], axis=1)
    seeds = np.arange(len(counts))
    others = [counts[seeds != i] if len(seeds) > 1 else counts for i in seeds]
    best = np.array([int(rows.mean(0).argmin()) for rows in others])
    at_best = counts[seeds, best]
    return {
        "gain_over_logit_matching": matching - at_best,
        "gain_over_t1": table[1.0] - at_best,
        "best_temperature": np.array(between)[best],
    }


def means(arithmetic: np.ndarray, geometric: np.ndarray, hard: np.ndarray) -> Metrics:
    """How alike students of the two means are, and what they save against hard targets; errors [seeds] of each."""
    average = (arithmetic + geometric) / 2
    return {"relative_difference": (arithmetic - geometric) / average, "gain_over_hard": hard - average}


def relative_variance(squares: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Variance of the cases' gradients g over the square of their mean: mean |g - mean g|^2 / |mean g|^2.

    squares: |g|^2 of each case, [..., cases]. along: g · mean g.
    """
    squared_mean = np.asarray(along, float).mean(-1)
    return (np.asarray(squares, float).mean(-1) - squared_mean) / squared_mean


def highest_rates(table: Errors, factor: float = 1.5) -> np.ndarray:
    """The highest learning rate whose errors stay within `factor` (at least 1) times the best, [seeds].

    table: errors [seeds] by rate. Between two rates by log-log interpolation; censored at the highest. No error counts
    as half of one, which has a logarithm.
    """
    rates = np.array(sorted(table))
    curves = np.stack([np.clip(table[rate], 0.5, None) for rate in rates], axis=1)
    excess = np.log(curves / (factor * curves.min(1, keepdims=True)))
    found = []
    for row in excess:
        last = np.flatnonzero(row <= 0)[-1]
        found.append(np.exp(np.interp(0, row[last : last + 2], np.log(rates[last : last + 2]))))
    return np.array(found)


def data_ratio(hard: Errors, soft: np.ndarray, share: float) -> np.ndarray:
    """How many times the cases hard targets need to do as well as soft ones on this share of the cases, [seeds].

    hard: errors [seeds] by share. soft: errors [seeds] on that share. By log-log interpolation of the hard targets'
    curve, censored at its ends; no error counts as half of one, which has a logarithm.
    """
    shares = np.array(sorted(hard))
    curves = np.stack([np.clip(hard[s], 0.5, None) for s in shares], axis=1)
    found = []
    for curve, reached in zip(curves, np.clip(soft, 0.5, None), strict=True):
        falling = np.minimum.accumulate(curve)[::-1]
        found.append(np.exp(np.interp(np.log(reached), np.log(falling), np.log(shares[::-1]))) / share)
    return np.array(found)


def _small_student(arrays: Arrays) -> Metrics:
    found, narrower = (
        small_student(errors_by(arrays, f"{net}, T "), errors(arrays, f"{net}, {LIMIT}"))
        for net in ("narrow", "narrower")
    )
    return found | {f"{gain}_16": narrower[gain] for gain in ("gain_over_logit_matching", "gain_over_t1")}


def _means(arrays: Arrays) -> Metrics:
    highest = max(errors_by(arrays, "arithmetic mean, T "))
    students = (errors(arrays, f"{how} mean, T {highest:g}") for how in ("arithmetic", "geometric"))
    found = means(*students, errors(arrays, "hard targets"))
    return found | {"ensembles": len(np.unique(arrays["ensembles"], axis=0))}


def _learning_rate(arrays: Arrays) -> Metrics:
    soft, hard = (highest_rates(errors_by(arrays, f"{kind} targets, rate ")) for kind in ("soft", "hard"))
    variances = [
        relative_variance(arrays[f"untrained, {kind} targets.squares"], arrays[f"untrained, {kind} targets.along"])
        for kind in ("soft", "hard")
    ]
    return {"rate_ratio": soft / hard, "variance_ratio": variances[0] / variances[1]}


def _less_data(arrays: Arrays) -> Metrics:
    hard, soft = (errors_by(arrays, f"{kind} targets, share ") for kind in ("hard", "soft"))
    tuned = errors_by(arrays, "hard targets, own recipe, share ")
    second = sorted(hard)[1]
    names = {"data_ratio_tuned": tuned, "data_ratio": hard}
    return {name: data_ratio(table, soft[second], second) for name, table in names.items()}


WAYS: dict[str, Callable[[Arrays], Metrics]] = {
    "theory.t2_law": t2_law,
    "theory.logit_limit": logit_limit,
    "theory.small_student": _small_student,
    "theory.means": _means,
    "theory.learning_rate": _learning_rate,
    "theory.less_data": _less_data,
}
