"""The picture of all claims: on every row, what passes lies in the zone, and better lies to the right."""

import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdrepro.publishing import picture, standing
from kdrepro.verdicts.rules import Condition

figures = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


def entry(value):
    return {"mean": {"m": value}, "ci95": {}, "metrics": {"m": [value]}}


@given(bound=figures, paper=st.none() | figures, mean=figures, value=figures, least=st.booleans())
def test_one_sided_rules_pass_right_of_the_mark(bound, paper, mean, value, least):
    condition = Condition(metric="m", **{"at_least" if least else "at_most": bound})
    scale = picture.scale_of(condition, paper, mean)
    assert (scale(value) >= 0) == condition.holds(entry(value))
    assert (scale(value + 1) > scale(value)) == least
    if paper is not None and condition.holds(entry(paper)) and paper != bound:
        assert scale(paper) == pytest.approx(1)


@given(low=figures, width=st.floats(0.01, 100), share=st.floats(-1, 3))
def test_two_sided_rules_pass_from_0_to_2(low, width, share):
    scale = picture.scale_of(Condition(metric="m", at_least=low, at_most=low + width), None, low)
    assert scale(low + share * width) == pytest.approx(2 * share, abs=1e-6)
    assert scale.zone == (0, 2)


def test_equivalence_is_two_sided():
    scale = picture.scale_of(Condition(metric="m", stat="equivalence", margin=0.1), None, 0.02)
    assert [scale(x) for x in (-0.1, 0, 0.1)] == pytest.approx([0, 1, 2])


@pytest.mark.parametrize("layout", [picture.WIDE, picture.NARROW], ids=lambda layout: layout.name)
def test_every_claim_with_a_number_is_a_row_that_says_it(these, layout):
    svg = ElementTree.fromstring(picture.draw(these, layout))
    rows = list(svg.iter("a"))
    grouped = standing.by_section(picture.with_number(these)).values()  # a chapter's claims may be of two sections
    assert [row.get("data-claim") for row in rows] == [one.claim.id for members in grouped for one in members]
    found = {one.claim.id: one for one in these}
    for row in rows:
        one = found[row.get("data-claim")]
        assert row.get("href") == f"claims.html#{one.anchor}"
        assert row.get("data-verdict") == one.verdict
        assert one.seeds() in row.get("aria-label")
        assert one.row["ours"] in row.get("aria-label")
        assert (row.find("path[@class='paper']") is None) == (one.claim.metric not in one.claim.paper)
        for mark in row.iter("circle"):
            assert layout.left <= float(mark.get("cx")) <= layout.right


def test_claims_that_are_not_run_have_no_row():
    elsewhere, nowhere = SimpleNamespace(decided=False, mean=1.0), SimpleNamespace(decided=True, mean=None)
    assert picture.with_number([elsewhere, nowhere]) == []


def test_verdicts_are_told_without_colour(these):
    shapes = {
        picture._mark(verdict, 0, 0).replace("open ", "")
        for verdict in ("reproduced", "partly", "not reproduced", "not decided")
    }
    assert len(shapes) == 4


def test_an_interval_beyond_the_axis_ends_in_arrows():
    inside, beyond = (picture._interval(picture.WIDE, ends) for ends in ((0, 1), (-9, 9)))
    assert inside.count("v8") == 2
    assert beyond.count("v8") == 0
