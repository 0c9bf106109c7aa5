"""Intervals and tests: the spread over seeds, and the sampling of the test set, kept apart."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_ci(values: Sequence[float], level: float = 0.95) -> tuple[float, tuple[float, float] | None]:
    """Mean over seeds and its Student t interval; the interval is None for a single seed."""
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError("values is empty: there is nothing to average.")
    mean = float(x.mean())
    if x.size == 1:
        return mean, None
    half = float(stats.t.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return mean, (mean - half, mean + half)


def sampling_ci(errors: float, cases: int, level: float = 0.95) -> tuple[float, float]:
    """How far a count of errors could lie from its expectation because the test set is finite (Wilson).

    errors: observed in `cases` test cases. Returns the interval as counts.
    """
    z = stats.norm.ppf(0.5 + level / 2)
    p = errors / cases
    centre = (p + z**2 / (2 * cases)) / (1 + z**2 / cases)
    half = z / (1 + z**2 / cases) * np.sqrt(p * (1 - p) / cases + z**2 / (4 * cases**2))
    return float(cases * (centre - half)), float(cases * (centre + half))


def paired(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> tuple[float, tuple[float, float] | None, float | None]:
    """Mean of first - second over seeds, its interval, and the p-value of the paired t test.

    first, second: one value a seed, the same seeds. Interval and p-value are None for a single seed.
    """
    if len(first) != len(second):
        raise ValueError(f"first has {len(first)} seeds but second has {len(second)}.")
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    mean, interval = mean_ci(difference, level)
    if interval is None:
        return mean, None, None
    # Without any spread the test's statistic is 0 / 0 or infinite: the answer is plain.
    constant = np.ptp(difference) == 0
    p = float(mean == 0) if constant else float(stats.ttest_1samp(difference, 0.0).pvalue)
    return mean, interval, p


RESAMPLES = 5000  # of a bootstrap
DRAWN_AT_A_TIME = 2**22  # numbers


def bootstrap(parts: np.ndarray, of: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """The interval of sum(parts) / sum(of) by resampling the speakers (or whatever has a part), always the same ones.

    parts: what each of them adds, a difference of two systems' errors say, [speakers]. of: what that is a share of.
    The percentiles of `RESAMPLES` draws; None for a single speaker. Raises ValueError where the shapes differ.
    """
    parts, of = np.asarray(parts, dtype=float), np.asarray(of, dtype=float)
    if parts.shape != of.shape or parts.ndim != 1:
        raise ValueError(f"parts are {list(parts.shape)} and of is {list(of.shape)}: both have one value a speaker.")
    if len(parts) < 2:
        return None
    # Of uniform numbers, which NumPy's generators give alike from version to version.
    random, sums, totals = np.random.default_rng(0), np.empty(RESAMPLES), np.empty(RESAMPLES)
    each = max(1, DRAWN_AT_A_TIME // len(parts))  # of thousands of images, all draws at once would be a gigabyte
    for first in range(0, RESAMPLES, each):
        now = slice(first, min(first + each, RESAMPLES))
        drawn = (random.random((now.stop - first, len(parts))) * len(parts)).astype(int)
        sums[now], totals[now] = parts[drawn].sum(1), of[drawn].sum(1)
    there = totals > 0  # not of draws of nobody who has said anything
    low, high = np.quantile(sums[there] / totals[there], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def largest_p(differences: Sequence[np.ndarray]) -> float | None:
    """The largest p-value, by Holm, of one-sided paired tests that each of these is above 0; None for one seed."""
    p_values = [one_sided_p(one) for one in differences]
    return None if None in p_values else max(holm(p_values))


def pooled_half_width(differences: np.ndarray, level: float = 0.95) -> float | None:
    """Half the width of the interval of each row's mean, where all rows have one spread.

    differences: [conditions, seeds], each condition less the same first one. Returns None for a single seed or no row.
    """
    conditions, seeds = differences.shape
    if seeds < 2 or not conditions:
        return None
    spread = np.sqrt(differences.var(axis=1, ddof=1).mean())
    return float(stats.t.ppf(0.5 + level / 2, conditions * (seeds - 1)) * spread / np.sqrt(seeds))


def friedman(table: np.ndarray) -> float | None:
    """The p-value of Friedman's test that all conditions do equally well.

    table: [seeds, conditions]; only the order of the conditions within a seed counts. None for fewer than
    three conditions or two seeds, where there is no such test.
    """
    seeds, conditions = table.shape
    if seeds < 2 or conditions < 3:
        return None
    if (table == table[:, :1]).all():  # nothing to order
        return 1.0
    return float(stats.friedmanchisquare(*table.T).pvalue)


def mcnemar(first_wrong: np.ndarray, second_wrong: np.ndarray) -> tuple[int, int, float]:
    """Exact McNemar test of two networks on the same test cases.

    first_wrong, second_wrong: boolean, one per test case. Returns the cases that only the first gets
    wrong, those that only the second does, and the two-sided p-value.
    """
    if first_wrong.shape != second_wrong.shape:
        raise ValueError(f"The two networks saw {first_wrong.shape} and {second_wrong.shape} cases.")
    only_first = int((first_wrong & ~second_wrong).sum())
    only_second = int((~first_wrong & second_wrong).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    return only_first, only_second, float(stats.binomtest(only_first, only_first + only_second).pvalue)


def equivalence_p(table: np.ndarray, margin: float) -> float | None:
    """The p-value that all conditions are alike: each pair's means differ by less than `margin`, by paired TOST.

    table: [seeds, conditions]. The largest of the pairs' p-values, since all of them must be alike. None for a single
    seed or condition.
    """
    seeds, conditions = table.shape
    if seeds < 2 or conditions < 2:
        return None
    p_values = []
    for i in range(conditions):
        for j in range(i):
            difference = table[:, i] - table[:, j]
            p_values += [one_sided_p(margin - difference), one_sided_p(margin + difference)]
    return max(p_values)


def one_sided_p(values: Sequence[float]) -> float | None:
    """The p-value of the t test that the mean is above 0; None for a single value."""
    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return None
    if np.ptp(x) == 0:  # without any spread the test's statistic is 0 / 0 or infinite: the answer is plain
        return 0.0 if x[0] > 0 else 1.0
    return float(stats.ttest_1samp(x, 0.0, alternative="greater").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests: each p-value as it counts beside the others, in the same order."""
    order = np.argsort(p_values)
    found, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = highest
    return found
