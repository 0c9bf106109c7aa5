"""Intervals and tests against known values."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdrepro.verdicts import stats


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


def test_paired_is_the_t_test_of_the_differences():
    first, second = [90.0, 95.0, 88.0, 97.0], [85.0, 91.0, 87.0, 90.0]
    mean, (low, high), p = stats.paired(first, second)
    assert mean == 4.25
    expected = scipy_stats.ttest_rel(first, second)
    assert p == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))


def test_paired_without_spread_or_seeds():
    assert stats.paired([3, 4], [1, 2])[2] == 0.0
    assert stats.paired([3, 4], [3, 4])[2] == 1.0
    assert stats.paired([3], [1]) == (2.0, None, None)
    with pytest.raises(ValueError, match="2 seeds but second has 1"):
        stats.paired([1, 2], [1])


def test_friedman():
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(200, 4))
    different = alike + np.arange(4)
    assert stats.friedman(alike) > 0.05 > stats.friedman(different)
    assert stats.friedman(different) == pytest.approx(scipy_stats.friedmanchisquare(*different.T).pvalue)


def test_friedman_where_there_is_no_such_test():
    assert stats.friedman(np.zeros((1, 4))) is None
    assert stats.friedman(np.zeros((3, 2))) is None
    assert stats.friedman(np.ones((3, 4))) == 1.0


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03], [0.5], [0.02, 0.02], [0.9, 0.001, 0.4, 0.01]])
def test_holm_steps_down(p_values):
    """As rejecting one after the other does: the smallest at level / n, the next at level / (n - 1), ..."""
    found = stats.holm(p_values)
    for level in np.linspace(0.001, 0.999, 200):
        rejected, left = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
        while left and p_values[left[0]] <= level / len(left):
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(found) if p <= level} == rejected


def test_equivalence_of_several_conditions_is_that_of_their_worst_pair():
    table = np.array([[1.0, 1.1, 3.0], [1.2, 1.0, 3.2], [0.9, 1.0, 3.1], [1.1, 1.2, 2.9]])
    pair = stats.equivalence_p(table[:, :2], 0.5)
    below = scipy_stats.ttest_rel(table[:, 0], table[:, 1] - 0.5, alternative="greater").pvalue
    above = scipy_stats.ttest_rel(table[:, 0], table[:, 1] + 0.5, alternative="less").pvalue
    assert pair == pytest.approx(max(below, above))
    assert stats.equivalence_p(table, 0.5) > 0.99
    assert stats.equivalence_p(table[:1], 0.5) is None
    assert stats.equivalence_p(table[:, :1], 0.5) is None


def test_one_sided_without_spread_or_seeds():
    assert stats.one_sided_p([1.0]) is None
    assert stats.one_sided_p([2.0, 2.0]) == 0
    assert stats.one_sided_p([0.0, 0.0]) == 1


def test_bootstrap_over_speakers():
    """Of ratios of sums: about as wide as theory has it, around the estimate, and the same every time."""
    rng = np.random.default_rng(1)
    parts, of = rng.normal(2, 3, 400), np.full(400, 10.0)
    low, high = stats.bootstrap(parts, of)
    assert low < parts.sum() / of.sum() < high
    half = 1.96 * parts.std() / np.sqrt(400) / 10
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert stats.bootstrap(parts, of) == (low, high)
    wide = stats.bootstrap(parts, of, level=0.99)
    assert wide[0] < low < high < wide[1]
    assert stats.bootstrap([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="one value a speaker"):
        stats.bootstrap([1.0, 2.0], [3.0])


@pytest.mark.parametrize("numbers", [1, 12345, 10**9])
def test_bootstrap_gives_the_same_however_many_numbers_are_drawn_at_a_time(numbers, monkeypatch):
    parts, of = np.arange(40.0) % 7, np.full(40, 10.0)
    expected = stats.bootstrap(parts, of)
    monkeypatch.setattr(stats, "DRAWN_AT_A_TIME", numbers)
    assert stats.bootstrap(parts, of) == expected


def test_bootstrap_weighs_speakers_by_what_they_said():
    """A speaker without words adds nothing, whatever is drawn."""
    low, high = stats.bootstrap([0, 5, 5, 5], [0, 10, 10, 10])
    assert (low, high) == (0.5, 0.5)
