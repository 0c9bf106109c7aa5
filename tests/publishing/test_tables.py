"""Which verdicts hang on little, as the page on the making of verdicts lists them."""

import pytest

from kdrepro.publishing import tables
from kdrepro.verdicts import claims, records
from kdrepro.verdicts.claims import Claim

RULE = {
    "reproduced": [{"metric": "gain", "stat": "ci_low", "at_least": 0}],
    "partly": [{"metric": "gain", "at_least": 0}],
}
HEAD = 2  # lines of a table above its rows


@pytest.fixture
def judged(monkeypatch):
    """A function from a claim's gains, of first and of fresh seeds, to a record of it."""
    one = Claim(id="a", section="3", chapter="02-mnist", statement="s", metric="gain", data="mnist", rule=RULE)
    monkeypatch.setattr(claims, "load", lambda: {"a": one})
    monkeypatch.setattr(records, "get", lambda claim_id: one)

    def made(gains, fresh=None):
        entry = records.claim_entry("a", "mnist", 1.0, {"gain": gains})
        if fresh:
            entry["confirm"] = records.claim_entry("a", "mnist", 1.0, {"gain": fresh}) | {"seeds": [10, 11, 12]}
        return {"preset": "full", "data": {"name": "mnist"}, "claims": {"a": entry}}

    return made


def test_a_close_call_is_one_that_a_figure_past_its_bound_would_turn(judged):
    """The interval of three gains around m, each .1 apart, is m ± .248: its lower end is near 0 for m = .25."""
    assert tables.close_calls([judged([0.15, 0.25, 0.35])])[HEAD:] == [
        "| `a` | lower end of gain ≥ 0 | 0.00159 | **reproduced** | partly |"
    ]
    assert tables.close_calls([judged([0.9, 1.0, 1.1])])[HEAD:] == []
    assert tables.close_calls([judged([0.14, 0.24, 0.34])])[HEAD:] == [
        "| `a` | lower end of gain ≥ 0 | -0.00841 | **partly** | reproduced |"
    ]


def test_seeds_that_decide_are_the_ones_whose_call_is_close(judged):
    assert tables.close_calls([judged([0.15, 0.25, 0.35], [0.9, 1.0, 1.1])])[HEAD:] == []


def test_first_and_fresh_seeds_stand_beside_each_other_where_they_differ(judged):
    assert tables.first_and_fresh([judged([0.1, 0.2, 0.3], [0.9, 1.0, 1.1])])[HEAD:] == [
        "| `a` | partly | **reproduced** | lower end of gain ≥ 0: -0.0484, 0.752 |"
    ]
    assert tables.first_and_fresh([judged([0.9, 1.0, 1.1], [1.9, 2.0, 2.1])])[HEAD:] == []
    assert tables.first_and_fresh([judged([0.1, 0.2, 0.3])])[HEAD:] == []
