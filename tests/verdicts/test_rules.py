"""Conditions hold, are refuted or stay open, and rules make verdicts of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import ttest_1samp

from kdrepro.verdicts import stats
from kdrepro.verdicts.rules import Condition, Rule

VALUES = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


def entry(**metrics):
    """A claim entry as records have it; single numbers are pooled."""
    series = {name: values for name, values in metrics.items() if isinstance(values, list)}
    summary = {name: stats.mean_ci(values) for name, values in series.items()}
    mean = {name: value for name, value in metrics.items() if name not in series}
    mean |= {name: m for name, (m, _) in summary.items()}
    return {"metrics": series, "mean": mean, "ci95": {name: interval for name, (_, interval) in summary.items()}}


CONDITIONS = [
    ({"at_least": 5}, [5, 7], True),
    ({"at_least": 7}, [5, 7], False),
    ({"at_least": 5, "at_most": 7}, [6, 7], True),
    ({"stat": "ci_low", "at_least": 5}, [9.9, 10, 10.1], True),
    ({"stat": "ci_low", "at_least": 10}, [9.9, 10, 10.1], None),
    ({"stat": "ci_low", "at_least": 12}, [9.9, 10, 10.1], False),
    ({"stat": "ci_high", "at_most": 12}, [9.9, 10, 10.1], True),
    ({"stat": "ci_high", "at_most": 10}, [9.9, 10, 10.1], None),
    ({"stat": "ci_high", "at_most": 9}, [9.9, 10, 10.1], False),
    ({"stat": "equivalence", "margin": 1}, [-0.1, 0, 0.1], True),
    ({"stat": "equivalence", "margin": 1}, [-1, 0, 1], None),
    ({"stat": "equivalence", "margin": 1}, [9.9, 10, 10.1], False),
    ({"stat": "p", "at_most": 0.05}, 0.04, True),
    ({"stat": "p", "at_most": 0.05}, 0.6, None),  # a test that finds nothing shows nothing
    ({"stat": "ci_low", "at_least": 5}, [10], None),  # one seed has no interval
    ({"stat": "equivalence", "margin": 1}, [0], None),
]


@pytest.mark.parametrize(("condition", "values", "holds"), CONDITIONS)
def test_a_condition_holds_is_refuted_or_stays_open(condition, values, holds):
    assert Condition(metric="x", **condition).holds(entry(x=values)) is holds
    assert Condition(metric="y", **condition).holds(entry(x=values)) is None


@given(VALUES, st.floats(0.1, 10))
@settings(max_examples=200)
def test_equivalence_is_two_one_sided_tests(values, margin):
    if np.ptp(values) < 1e-6:
        return
    found = Condition(metric="x", stat="equivalence", margin=margin).holds(entry(x=values))
    above = ttest_1samp(values, -margin, alternative="greater").pvalue
    below = ttest_1samp(values, margin, alternative="less").pvalue
    if abs(max(above, below) - 0.05) > 1e-9:
        assert (found is True) == (max(above, below) < 0.05)


@given(VALUES, st.floats(-10, 10))
def test_an_end_of_an_interval_decides_less_often_than_the_mean_and_never_against_it(values, bound):
    mean = Condition(metric="x", at_least=bound).holds(entry(x=values))
    low = Condition(metric="x", stat="ci_low", at_least=bound).holds(entry(x=values))
    assert low is None or low is mean


END = {"stat": "end", "at_least": 5, "other": "high"}


@pytest.mark.parametrize(
    ("low", "high", "holds"), [(6, 8, True), (4, 8, None), (2, 4, False), (5, 5, True), (6, None, None)]
)
def test_an_end_that_a_run_computed_itself_is_refuted_where_the_other_end_is_wrong_too(low, high, holds):
    """Of a bootstrap over voices, say. The same of an upper end, with all signs turned."""
    ends = {"low": low} | ({} if high is None else {"high": high})
    assert Condition(metric="low", **END).holds(entry(**ends)) is holds
    turned = Condition(metric="low", stat="end", at_most=-5, other="high")
    assert turned.holds(entry(**{name: -value for name, value in ends.items()})) is holds


@given(VALUES, st.floats(-10, 10), st.sampled_from(["mean", "ci_low"]))
def test_across_its_bound_a_condition_decides_otherwise(values, bound, stat):
    """Of a rule of one condition: what holds no longer does, and what does not hold would."""
    condition = Condition(metric="x", stat=stat, at_least=bound)
    rule, found = Rule(reproduced=[condition]), entry(x=values)
    here, across = rule.verdict(found), rule.verdict(found, condition)
    assert (here == "reproduced") != (across == "reproduced")
    assert rule.verdict(found, Condition(metric="y", at_least=0)) == here


def test_how_close_a_figure_lies_to_its_bound_is_a_share_of_half_its_interval():
    low, high = stats.mean_ci([1, 2, 3])[1]
    half = (high - low) / 2
    found = entry(x=[1, 2, 3], of_all=7.0) | {"pooled": {"of_all": 7.0}}
    assert Condition(metric="x", at_least=2 - half / 4).margin_of(found) == pytest.approx(0.25)
    assert Condition(metric="x", stat="ci_low", at_least=low - half / 10).margin_of(found) == pytest.approx(0.1)
    assert Condition(metric="x", at_least=0, at_most=2.5).margin_of(found) == pytest.approx(0.5 / half)
    assert Condition(metric="of_all", at_least=7).margin_of(found) is None
    assert Condition(metric="y", at_least=0).margin_of(found) is None


def test_a_figure_that_looks_like_its_bound_is_given_more_digits():
    ratio = {
        "mean": {"rate_ratio": 1.5034},
        "ci95": {"rate_ratio": None},
        "metrics": {},
        "pooled": {"rate_ratio": 1.5034},
    }
    assert str(Rule(reproduced=[Condition(metric="rate_ratio", at_least=1.5)]).why(ratio)[0]) == (
        "rate ratio ≥ 1.5: 1.503, holds"
    )
    assert str(Rule(reproduced=[Condition(metric="rate_ratio", at_least=1.6)]).why(ratio)[0]) == (
        "rate ratio ≥ 1.6: missed"
    )


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"stat": "end", "at_least": 1},
        {"at_least": 1, "other": "y"},
        {"stat": "ci_low"},
        {"stat": "ci_low", "at_most": 1},
        {"stat": "ci_high", "at_least": 1},
        {"stat": "p", "at_least": 0.05},
        {"stat": "equivalence", "at_most": 1},
        {"margin": 1},
        {"at_least": 0, "margin": 1},
        {"stat": "equivalence", "margin": -1},
        {"stat": "ci_low", "at_least": 0, "level": 0},
        {"stat": "ci_low", "at_least": 0, "level": 1},
        {"stat": "equivalence", "margin": 1, "level": 0.9},
        {"stat": "p", "at_most": 0.05, "level": 0.9},
        {"at_least": 0, "level": 0.99},
    ],
)
def test_a_condition_that_could_not_be_read_in_one_way_is_refused(condition):
    with pytest.raises(ValidationError):
        Condition(metric="x", **condition)


LEVELS = [
    # Of 1, 2, 3 the 95 % interval is 2 ± 2.48, the 99.2 % one 2 ± 6.43.
    ({"stat": "ci_low", "at_least": -1}, None, True),
    ({"stat": "ci_low", "at_least": -1}, 0.992, None),
    ({"stat": "ci_low", "at_least": -5}, 0.992, True),
    ({"stat": "ci_low", "at_least": 5}, None, False),
    ({"stat": "ci_low", "at_least": 5}, 0.992, None),
    ({"stat": "ci_low", "at_least": 9}, 0.992, False),
    ({"stat": "ci_high", "at_most": 5}, None, True),
    ({"stat": "ci_high", "at_most": 5}, 0.992, None),
    ({"stat": "ci_high", "at_most": 9}, 0.992, True),
    ({"stat": "ci_high", "at_most": -5}, 0.992, False),
]


@pytest.mark.parametrize(("condition", "level", "holds"), LEVELS)
def test_a_condition_may_ask_for_an_interval_of_another_level(condition, level, holds):
    asked = Condition(metric="x", **condition, level=level)
    assert asked.holds(entry(x=[1, 2, 3])) is holds
    assert asked.holds(entry(x=[2])) is None
    pooled = entry(x=20.0) | {"ci95": {"x": (19.0, 21.0)}}  # whose seeds have no values to compute an interval from
    assert level is None or asked.holds(pooled) is None


@given(VALUES, st.floats(-10, 10))
def test_the_level_of_records_is_what_a_condition_without_one_reads(values, bound):
    found = [Condition(metric="x", stat="ci_low", at_least=bound, level=level) for level in (None, 0.95)]
    assert found[0].holds(entry(x=values)) is found[1].holds(entry(x=values))


def test_a_level_is_said_and_no_level_changes_no_digest():
    with_level = Condition(metric="x", stat="ci_low", at_least=0, level=0.992)
    without = Condition(metric="x", stat="ci_low", at_least=0)
    assert str(with_level) == "lower end (99.2 %) of x ≥ 0"
    assert with_level.model_dump()["level"] == 0.992
    assert without.model_dump() == {"metric": "x", "stat": "ci_low", "at_least": 0, "at_most": None, "margin": None}
    assert Condition(metric="x", stat="ci_high", at_most=1, level=0.9).model_dump(exclude_none=True)["level"] == 0.9


LOW = {"metric": "gain", "stat": "ci_low", "at_least": 1}
RULE = Rule(reproduced=[LOW, {"metric": "over_control", "stat": "ci_low", "at_least": 0}], partly=[LOW])
BARE = Rule(reproduced=[LOW])


@pytest.mark.parametrize(
    ("rule", "figures", "verdict"),
    [
        (RULE, {"gain": [5, 5.1], "over_control": [2, 2.1]}, "reproduced"),
        (RULE, {"gain": [5, 5.1], "over_control": [-2, -2.1]}, "partly"),  # the control beats it
        (RULE, {"gain": [5, 5.1]}, "partly"),  # the control is not measured
        (RULE, {"gain": [0.2, 0.1], "over_control": [2, 2.1]}, "not reproduced"),
        (RULE, {"gain": [0, 5], "over_control": [2, 2.1]}, "not decided"),
        (BARE, {"gain": [5, 5.1]}, "reproduced"),
        (BARE, {"gain": [0, 0.1]}, "not reproduced"),
        (BARE, {"gain": [0, 5]}, "not decided"),
        (BARE, {"gain": [5]}, "not decided"),
        (BARE, {}, "not decided"),
    ],
)
def test_verdicts(rule, figures, verdict):
    assert rule.verdict(entry(**figures)) == verdict


def test_a_premise_that_does_not_hold_leaves_a_claim_open():
    """A remedy is no failure where there is nothing to remedy."""
    rule = Rule(reproduced=[LOW], premise=[{"metric": "overfit", "stat": "ci_low", "at_least": 0}])
    assert rule.verdict(entry(gain=[0, 0.1], overfit=[0.5, 0.51])) == "not reproduced"
    assert rule.verdict(entry(gain=[0, 0.1], overfit=[-0.5, -0.51])) == "not decided"
    assert rule.verdict(entry(gain=[5, 5.1])) == "not decided"


def test_reasons_say_what_decides():
    found = [str(reason) for reason in RULE.why(entry(gain=[0, 5]))]
    assert found == [
        "lower end of gain ≥ 1: open",
        "lower end of over control ≥ 0: not measured yet",
        "lower end of gain ≥ 1: open",
    ]
    assert str(RULE.why(entry(gain=[5, 5.1]))[0]) == "lower end of gain ≥ 1: holds"
    assert str(RULE.why(entry(gain=[0, 0.1]))[0]) == "lower end of gain ≥ 1: refuted"
    wide = Rule(reproduced=[LOW | {"level": 0.99}])
    end = stats.mean_ci([5, 5.4], 0.99)[1][0]
    assert str(wide.why(entry(gain=[5, 5.4]))[0]) == f"lower end (99 %) of gain ≥ 1: {end:.3g}, open"
    mean = Rule(reproduced=[{"metric": "gain", "at_least": 1}])
    assert str(mean.why(entry(gain=[0, 1.9]))[0]) == "gain ≥ 1: missed by the mean"  # whose interval is across it
