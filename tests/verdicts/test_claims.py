"""The claims file, the verdict that a rule gives, and the table."""

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

# The ids of the paper's claims.
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


CLAIM = claim(
    reproduced=[{"metric": "errors", "at_most": 85}, {"metric": "recovered", "stat": "ci_low", "at_least": 0.5}],
    partly=[{"metric": "errors", "at_most": 100}],
)


@pytest.mark.parametrize(
    ("errors", "low", "data", "verdict"),
    [
        (80, 0.6, "mnist", "reproduced"),
        (85, 0.5, "mnist", "reproduced"),
        (86, 0.6, "mnist", "partly"),
        (80, 0.4, "mnist", "partly"),
        (101, 0.9, "mnist", "not reproduced"),
        (80, 0.6, "digits", "not run"),
    ],
)
def test_verdicts(errors, low, data, verdict):
    assert CLAIM.verdict({"errors": errors, "recovered": 0.8}, {"recovered": (low, 1.0)}, data) == verdict


def test_a_single_seed_cannot_meet_a_rule_on_an_interval():
    assert CLAIM.verdict({"errors": 80, "recovered": 0.8}, {"recovered": None}, "mnist") == "not run"


@given(st.floats(0, 200), st.floats(0, 200))
def test_fewer_errors_never_give_a_worse_verdict(a, b):
    order = ["not reproduced", "partly", "reproduced"]
    worse, better = (
        CLAIM.verdict({"errors": e, "recovered": 1}, {"recovered": (0.9, 1)}, "mnist") for e in (max(a, b), min(a, b))
    )
    assert order.index(better) >= order.index(worse)


def test_every_claim_of_the_paper_has_a_rule():
    loaded = claims.load()
    assert list(loaded) == [i for i in loaded if i in IDS]
    assert set(loaded) == set(IDS)
    for c in loaded.values():
        assert c.rule.reproduced
        assert all(x.at_least is not None or x.at_most is not None for x in c.rule.reproduced + c.rule.partly)


def test_every_claim_has_a_chapter():
    chapters = {c.chapter for c in claims.load().values()}
    assert set(presets.CHAPTERS) == chapters


def test_every_claim_is_decided_on_data_that_there_is():
    """By the name that the data set gives itself: a record of another name decides nothing."""
    assert {c.data for c in claims.load().values()} == {"mnist", "synthetic", TINY_IMAGENET}


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


def test_entry_and_table():
    entry = records.claim_entry("mnist.distilled", "mnist", 60.0, {"errors": [70, 76], "recovered": [0.9, 0.95]})
    assert entry["mean"]["errors"] == 73
    assert entry["verdict"] == "reproduced"
    record = {"preset": "full", "data": {"name": "mnist"}, "claims": {"mnist.distilled": entry}}
    smoke = {**entry, "verdict": "not run"}
    other = {"preset": "smoke", "data": {"name": "digits"}, "claims": {"mnist.distilled": smoke}}
    rows = {r["claim"]: r for r in claims.verdict_rows(claims.load().values(), [record, other])}
    assert rows["mnist.distilled"]["verdict"] == "reproduced"
    assert rows["mnist.distilled"]["paper"] == "74"
    assert rows["mnist.distilled"]["ours"].startswith("73 [")
    assert rows["mnist.distilled"]["ours"].endswith("n = 2")
    assert rows["speech.baseline"]["verdict"] == "not run"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("errors", 74, "74"),
        ("errors", 74.25, "74.2"),
        ("recovered", 0.911, "91.1 %"),
        ("exponent", -1.9876, "-1.99"),
        ("gain_over_dustbin", -0.0081, "-0.8"),
        ("errors", None, "–"),
    ],
)
def test_written(metric, value, text):
    assert wording.written(metric, value) == text


def test_a_difference_of_shares_is_labelled_as_points():
    assert wording.label("gain_over_dustbin") == "gain over dustbin, points"
    assert wording.label("gain_over_lower") == "gain over lower"  # test errors
    assert wording.label("relative_gain") == "relative gain"


def shown(claim_id: str, data: str, metrics: dict[str, list[float]]) -> SimpleNamespace:
    """As much of an experiment as a page shows of a claim."""
    record = {
        "claims": {claim_id: records.claim_entry(claim_id, data, 60.0, metrics)},
        "provenance": {"device": "cpu"},
    }
    return SimpleNamespace(record=record, data=SimpleNamespace(name=data), preset=SimpleNamespace(name="full"))


def test_pages_say_what_was_changed_after_a_result():
    back = "beyond.distil_back"
    run = shown(back, TINY_IMAGENET, {"recovered": [0.9, 1.0], "gain_over_labels": [0.001, 0.002]})
    assert claims.get(back).amended in display.claim(run, back).data
    teacher = shown("mnist.plain", "mnist", {"errors": [146, 147]})
    assert "set before the run: " in display.claim(teacher, "mnist.plain").data


def test_another_data_set_gets_the_verdict_of_the_same_rule():
    claim = "speech.recovered"
    deciding, other = (shown(claim, data, {"recovered": [0.3, 0.32]}) for data in ("synthetic", "timit-sample"))
    assert other.record["claims"][claim]["verdict"] == "not run"
    text = display.elsewhere([deciding, other], claim).data
    assert text == (
        "On timit-sample, which does not decide, recovered 31.0 % [18.3 %, 43.7 %], n = 2: "
        "by the same rule, **not reproduced**."
    )
    assert display.elsewhere([deciding], claim) is None


def test_a_metric_that_is_not_finite_is_left_out_and_decides_nothing(tmp_path):
    """The share of a gap that is 0, say, as a tiny run may have it."""
    metrics = {"errors": [70, 76], "recovered": [0.9, float("inf")]}
    entry = records.claim_entry("mnist.distilled", "mnist", 60.0, metrics, {"p": float("nan")})
    assert list(entry["mean"]) == ["errors"]
    assert entry["verdict"] == "not run"


def test_a_pooled_metric_is_one_value_for_all_seeds():
    """It counts for the rule, and is not shown as a run of one seed."""
    pooled = {"spread": 0.05, "friedman_p": 0.3}
    entry = records.claim_entry("mnist.temperature.wide", "mnist", 1.0, {}, pooled)
    assert entry["verdict"] == "reproduced"
    assert wording.written_mean("spread", entry) == "5.0 %, all seeds together"
    worse = records.claim_entry("mnist.temperature.wide", "mnist", 1.0, {}, pooled | {"friedman_p": 0.01})
    assert worse["verdict"] == "partly"
