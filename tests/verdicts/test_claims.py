"""The claims file, the verdict that a rule gives, and the table."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import paths
from kdrepro.chapters import display, presets
from kdrepro.data.tiny_imagenet import NAME as TINY_IMAGENET
from kdrepro.errors import InputError
from kdrepro.verdicts import claims, records, wording
from kdrepro.verdicts.claims import Claim

# The ids of the paper's claims, and of those beyond it.
IDS = [
    "theory.t2_law",
    "theory.logit_limit",
    "theory.small_student",
    "theory.learning_rate",
    "theory.less_data",
    "theory.means",
    "mnist.teacher",
    "mnist.plain",
    "mnist.distilled",
    "mnist.temperature.wide",
    "mnist.temperature.narrow",
    "mnist.omit3",
    "mnist.omit3.bias",
    "mnist.only78",
    "mnist.only78.bias",
    "speech.baseline",
    "speech.ensemble",
    "speech.distilled",
    "speech.recovered",
    "speech.words",
    "speech.temperature",
    "speech.aligned",
    "specialists.table2",
    "specialists.table3",
    "specialists.table3.conditional",
    "specialists.table4",
    "soft.full",
    "soft.hard3",
    "soft.soft3",
    "soft.specialists",
    "moe.parallel",
    "beyond.distil_back",
    "pitfalls.scale",
    "pitfalls.pairing",
    "pitfalls.choice",
    "after.patient",
    "after.fidelity",
    "after.smoothing",
    "after.ensemble",
    "after.dkd",
    "after.standardised",
]


def claim(**rule) -> Claim:
    return Claim(
        id="a.b",
        section="3",
        chapter="02-mnist",
        statement="s",
        metric="errors",
        data="mnist",
        paper={"errors": 74},
        rule=rule,
    )


CLAIM = claim(reproduced=[{"metric": "errors", "at_most": 85}], partly=[{"metric": "errors", "at_most": 100}])


def entry_of(monkeypatch, described, *of, **also):
    """A record's entry of a claim that is not in the book."""
    monkeypatch.setattr(records, "get", lambda claim_id: described)
    return records.claim_entry(described.id, *of, **also)


@pytest.mark.parametrize(("data", "verdict"), [("mnist", "partly"), ("digits", "not run")])
def test_a_run_on_other_data_decides_nothing(monkeypatch, data, verdict):
    assert entry_of(monkeypatch, CLAIM, data, 1.0, {"errors": [90, 92]})["verdict"] == verdict


@given(st.floats(0, 200), st.floats(0, 200))
def test_fewer_errors_never_give_a_worse_verdict(a, b):
    order = ["not reproduced", "partly", "reproduced"]
    of = [{"mean": {"errors": e}, "ci95": {}, "metrics": {}} for e in (max(a, b), min(a, b))]
    worse, better = (CLAIM.verdict(entry, "mnist") for entry in of)
    assert order.index(better) >= order.index(worse)


def test_a_claim_shows_a_figure_that_its_rule_reads():
    with pytest.raises(ValueError, match=r"a\.b shows errors, which its rule does not read"):
        claim(reproduced=[{"metric": "recovered", "at_least": 0.8}])


def test_every_claim_of_the_paper_has_a_rule():
    loaded = claims.load()
    assert list(loaded) == [i for i in loaded if i in IDS]
    assert set(loaded) == set(IDS)


def test_every_claim_has_a_chapter():
    chapters = {c.chapter for c in claims.load().values()}
    assert set(presets.CHAPTERS) == chapters


def test_every_claim_is_decided_on_data_that_there_is():
    """By the name that the data set gives itself: a record of another name decides nothing."""
    assert {c.data for c in claims.load().values()} == {"mnist", "synthetic", "timit-sample", TINY_IMAGENET}


def test_unknown_claim_names_the_nearest():
    with pytest.raises(InputError, match=r"did you mean 'mnist\.distilled'"):
        claims.get("mnist.distiled")


@pytest.mark.parametrize("text", ["- {id: x}", "a: b", "[1, 2]", "- {id: x", ""])
def test_malformed_file_is_named(tmp_path, monkeypatch, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    monkeypatch.setattr(paths, "CLAIMS", path)
    with pytest.raises(InputError, match=r"claims\.yaml"):
        claims.load()


def recorded(claim_id, data, preset="full", **metrics):
    entry = records.claim_entry(claim_id, data, 60.0, metrics)
    return {"preset": preset, "data": {"name": data}, "claims": {claim_id: entry}}


def rows_of(*found):
    return {row["claim"]: row for row in claims.verdict_rows(claims.load().values(), found)}


def test_the_table_shows_what_decides():
    row = rows_of(
        recorded("mnist.plain", "mnist", errors=[146, 147, 145]),
        recorded("mnist.plain", "digits", "smoke", errors=[9, 8]),
    )["mnist.plain"]
    assert row["verdict"] == "reproduced"
    assert (row["paper"], row["ours"]) == ("146", "146 [143.5, 148.5], n = 3")
    assert rows_of()["mnist.plain"]["verdict"] == "not run"
    assert rows_of(recorded("mnist.plain", "digits", "smoke", errors=[9, 8]))["mnist.plain"]["verdict"] == "not run"


def test_a_record_is_judged_by_the_present_rule():
    """Whatever the verdict that it was written with."""
    record = recorded("mnist.plain", "mnist", errors=[146, 147, 145])
    record["claims"]["mnist.plain"]["verdict"] = "partly"
    assert rows_of(record)["mnist.plain"]["verdict"] == "reproduced"


def test_seeds_that_confirm_decide_where_there_are_some():
    record = recorded("mnist.plain", "mnist", errors=[146, 147, 145])
    worse = records.claim_entry("mnist.plain", "mnist", 1.0, {"errors": [246, 247, 245]})
    record["claims"]["mnist.plain"]["confirm"] = worse | {"seeds": [10, 11, 12]}
    row = rows_of(record)["mnist.plain"]
    assert row["verdict"] == "not reproduced"
    assert row["ours"].startswith("246 [")
    assert row["data"] == "mnist, full, fresh seeds 10 to 12, the same test cases"


def described(claim_id, by_construction="", **more):
    update = {"id": claim_id, "by_construction": by_construction, **more}
    return claim(reproduced=[{"metric": "errors", "at_most": 85}]).model_copy(update=update)


AMENDED = claims.Amendment(when="2026-11-21", changed="recipe", tried="40 epochs, 99 errors", then="30 epochs")


def test_the_tally_leaves_out_what_holds_by_construction_or_repeats_and_counts_fresh_seeds(monkeypatch):
    several = [
        described("a"),
        described("b", amended=[AMENDED]),
        described("c", "algebra"),
        described("d"),
        described("e"),
        described("f", repeats="a"),
    ]
    figures = {"a": [80, 81], "b": [80, 81], "c": [80, 81], "d": [90, 91], "f": [80, 81]}
    monkeypatch.setattr(claims, "load", lambda: {one.id: one for one in several})
    monkeypatch.setattr(records, "get", lambda claim_id: claims.load()[claim_id])
    found = [recorded(claim_id, "mnist", errors=values) for claim_id, values in figures.items()]
    fresh = records.claim_entry("b", "mnist", 1.0, {"errors": [80, 81]}) | {"seeds": [10, 11]}
    found[1]["claims"]["b"]["confirm"] = fresh
    assert claims.tally(several, found) == (
        "Of 4 claims, 2 reproduced (1 by fresh seeds), 1 not reproduced, 1 not run; "
        "not counted: by construction, 1 reproduced; in other units of another claim, 1 reproduced."
    )
    assert [row["marked"] for row in claims.verdict_rows(several, found)] == [
        "reproduced",
        "reproduced †",
        "reproduced, by construction",
        "not reproduced",
        "not run",
        "reproduced, in other units",
    ]


def test_what_is_not_the_papers_is_counted_apart_whether_by_construction_or_not():
    beyond = {"section": claims.BEYOND}
    several = [
        described("a"),
        described("b", "algebra"),
        described("c", "algebra"),
        described("d").model_copy(update=beyond),
        described("e", "its sign").model_copy(update=beyond),
    ]
    assert claims.tally(several, []) == (
        "Of 1 claim, 1 not run; not counted: by construction, 2 not run. "
        "Of 1 claim beyond the paper, 1 not run; not counted: by construction, 1 not run."
    )


def test_several_controls_stand_in_one_row():
    controls = [claims.Control(metric="errors_of_labels", name="labels"), claims.Control(metric="x", name="more")]
    (row,) = claims.verdict_rows([described("a", control=controls)], [])
    assert row["control"] == "labels: not measured yet; more: not measured yet"


def test_a_controls_figure_stands_in_the_verdicts_row(monkeypatch):
    control = claims.Control(metric="errors_of_labels", name="labels alone")
    one = described("a", control=[control])
    monkeypatch.setattr(claims, "load", lambda: {"a": one})
    monkeypatch.setattr(records, "get", lambda claim_id: one)
    row = claims.verdict_rows([one], [recorded("a", "mnist", errors=[80, 81], errors_of_labels=[99, 98])])[0]
    assert row["control"].startswith("labels alone: 98.5 [")
    assert (
        claims.verdict_rows([one], [recorded("a", "mnist", errors=[80, 81])])[0]["control"]
        == "labels alone: not measured yet"
    )


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("errors", 74, "74"),
        ("errors", 74.25, "74.2"),
        ("recovered", 0.911, "91.1 %"),
        ("exponent", -1.9876, "-1.99"),
        ("gain_over_dustbin", -0.0081, "-0.8"),
        ("gain_over_dustbin", -0.0001, "0.0"),
        ("errors", None, "–"),
    ],
)
def test_written(metric, value, text):
    assert wording.written(metric, value) == text


def test_a_difference_of_shares_is_labelled_as_points():
    assert wording.label("gain_over_dustbin") == "gain over dustbin, points"
    assert wording.label("gain_over_lower") == "gain over lower T"  # test errors
    assert wording.label("relative_gain") == "relative gain"


def test_each_metric_with_a_name_of_its_own_is_one_that_is_measured():
    sources = [paths.BOOK / "claims.yaml", *(paths.ROOT / "kdrepro/verdicts/recompute").glob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert [metric for metric in wording.NAMES if not re.search(rf"\b{metric}\b", text)] == []


def shown(claim_id: str, data: str, metrics: dict[str, list[float]], **pooled: float) -> SimpleNamespace:
    """As much of an experiment as a page shows of a claim."""
    record = {
        "claims": {claim_id: records.claim_entry(claim_id, data, 60.0, metrics, pooled)},
        "provenance": {"device": "cpu"},
    }
    preset = SimpleNamespace(name="full", own_data=None, is_own=False)
    return SimpleNamespace(record=record, data=SimpleNamespace(name=data), preset=preset, left_out={})


def test_pages_say_what_decides_and_what_was_changed_after_a_result(monkeypatch):
    one = described("a", amended=[AMENDED])
    monkeypatch.setattr(claims, "get", lambda claim_id: one)
    monkeypatch.setattr(records, "get", lambda claim_id: one)
    text = display.claim(shown("a", "mnist", {"errors": [80, 81]}), "a").data
    assert "Verdict: **reproduced †**. What decides:\n\n- for *reproduced*, errors ≤ 85: holds\n" in text
    assert "† `claims.yaml` says what was changed when a result was known." in text


def test_another_data_set_gets_the_verdict_of_the_same_rule():
    claim, found = "soft.soft3", {"recovered": [0.3, 0.32]}
    deciding, other = (
        shown(claim, data, found, gain_of_half_again=0.0005, gain_of_half_again_high=0.001)
        for data in ("synthetic", "timit-sample")
    )
    assert other.record["claims"][claim]["verdict"] == "not run"
    text = display.elsewhere([deciding, other], claim).data
    assert text == (
        "On timit-sample, which does not decide, recovered 31.0 % [18.3 %, 43.7 %], n = 2: "
        "by the same rule, **not reproduced**."
    )
    assert display.elsewhere([deciding], claim) is None


def test_a_metric_that_is_not_finite_is_left_out_and_decides_nothing(monkeypatch):
    """The share of a gap that is 0, say, as a tiny run may have it."""
    one = claim(reproduced=[{"metric": "errors", "at_most": 85}, {"metric": "recovered", "at_least": 0.5}])
    metrics = {"errors": [70, 76], "recovered": [0.9, float("inf")]}
    entry = entry_of(monkeypatch, one, "mnist", 60.0, metrics, pooled={"p": float("nan")})
    assert list(entry["mean"]) == ["errors"]
    assert entry["verdict"] == "not decided"


def test_a_pooled_metric_is_one_value_for_all_seeds(monkeypatch):
    """It counts for the rule, and is not shown as a run of one seed."""
    conditions = [{"metric": "errors", "at_most": 0.1}, {"metric": "spread", "at_most": 0.1}]
    entry = entry_of(monkeypatch, claim(reproduced=conditions), "mnist", 1.0, {}, {"spread": 0.05, "errors": 0})
    assert entry["verdict"] == "reproduced"
    assert wording.written_mean("spread", entry) == "5.0 %, all seeds together"
