"""Intervals and tests against known values."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdrepro import stats


def test_mean_ci_is_students():
    mean, (low, high) = stats.mean_ci([70, 74, 78])
    assert mean == 74
    expected = scipy_stats.t.interval(0.95, 2, loc=74, scale=scipy_stats.sem([70, 74, 78]))
    assert (low, high) == pytest.approx(expected)


def test_one_seed_has_no_interval():
    assert stats.mean_ci([3]) == (3.0, None)
    with pytest.raises(ValueError, match="empty"):
        stats.mean_ci([])


def test_mean_ci_covers_its_mean():
    """95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    samples = rng.normal(5, 2, (2000, 5))
    covered = np.mean([low <= 5 <= high for _, (low, high) in map(stats.mean_ci, samples)])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_sampling_of_67_errors_in_10000():
    """The ±16 that the paper's own figure carries."""
    low, high = stats.sampling_ci(67, 10_000)
    assert (high - low) / 2 == pytest.approx(16, abs=0.5)
    wilson = scipy_stats.binomtest(67, 10_000).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low * 1e4, wilson.high * 1e4))


def test_mcnemar():
    first = np.array([True] * 10 + [False] * 10)
    second = np.array([True] * 2 + [False] * 8 + [True] + [False] * 9)
    only_first, only_second, p = stats.mcnemar(first, second)
    assert (only_first, only_second) == (8, 1)
    assert p == pytest.approx(2 * sum(scipy_stats.binom.pmf(k, 9, 0.5) for k in (0, 1)))
    assert stats.mcnemar(first, first) == (0, 0, 1.0)
    with pytest.raises(ValueError, match="cases"):
        stats.mcnemar(first, second[:5])
