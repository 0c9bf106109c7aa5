"""A claim's box has all that a reader needs to check the claim."""

import json
import re

import pytest
import yaml

from kdrepro import paths
from kdrepro.publishing import boxes, standing
from kdrepro.verdicts.rules import Condition, Rule


@pytest.fixture(scope="module")
def text(these):
    return boxes.boxes(these, paths.WEIGHTS, "")


def box_of(text, claim_id):
    return text.split(f"### {claim_id}\n")[1].split("\n### ")[0]


def test_every_claim_has_one_with_its_parts(these, text):
    for one in these:
        box = box_of(text, one.claim.id)
        assert one.claim.statement in box
        assert one.claim.marked(one.verdict) in box
        assert f"kdrepro reproduce {one.claim.id} --preset full" in box
        assert all(str(change) in box for change in one.claim.amended)
        assert one.row["control"] in box
        if one.record is None:
            continue
        assert f'"../files/results/{one.record.name}"' in box
        assert one.about["provenance"]["git"] in box
        for name, values in one.first["metrics"].items():
            assert all(boxes.wording.written(name, value) in box for value in values)


def test_rules_are_those_of_the_claims_file(these, text):
    for one in these:
        code = box_of(text, one.claim.id).split("```yaml\n")[1].split("```")[0]
        assert Rule.model_validate(yaml.safe_load(code)["rule"]) == one.claim.rule


def test_weights_are_linked_where_they_are_published(these, text):
    published = json.loads((paths.WEIGHTS / "index.json").read_bytes())["claims"]
    for claim_id, keys in published.items():
        assert all(f"weights/{key}.0.safetensors" in box_of(text, claim_id) for key in keys)
        names = re.findall(r">(weights[^<]*)</a>", box_of(text, claim_id))
        assert len(set(names)) == len(names) >= len(keys)
    for claim_id in {one.claim.id for one in these} - published.keys():
        assert "safetensors" not in box_of(text, claim_id)


def test_commits_are_linked_where_the_repository_is_known(these):
    one = next(one for one in these if one.record)
    git = one.about["provenance"]["git"]
    assert f"https://example.org/book/commit/{git}" in boxes.boxes([one], paths.WEIGHTS, "https://example.org/book")


def test_a_claim_without_a_run_has_one_too(tmp_path):
    text = boxes.boxes(standing.standings(tmp_path), tmp_path, "")
    assert "No published run measures it yet." in box_of(text, "mnist.plain")
    assert "not measured yet" in box_of(text, "mnist.plain")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"metric": "errors", "at_most": 80}, "the mean of errors is at most 80"),
        ({"metric": "recovered", "stat": "ci_low", "at_least": 0.5},
         "the whole 95 % interval of recovered is at least 50.0 %"),
        ({"metric": "errors_saved", "stat": "ci_low", "at_least": 0, "level": 0.992},
         "the whole 99.2 % interval of errors saved is at least 0"),
        ({"metric": "slope", "at_least": -2.1, "at_most": -1.9}, "the mean of slope is at least -2.1 and at most -1.9"),
        ({"metric": "friedman_p", "stat": "p", "at_most": 0.05}, "friedman p is at most 0.05"),
        ({"metric": "ratio", "stat": "equivalence", "margin": 0.1},
         "ratio lies within ±0.1 of 0 by two one-sided tests at 5 %"),
    ],
)  # fmt: skip
def test_conditions_in_words(condition, expected):
    assert boxes.in_words(Condition(**condition)) == expected
