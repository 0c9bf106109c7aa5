"""What is published follows from what lies beside it, and a single changed digit, prediction or rule is noticed."""

import io
import json
import re
import shutil

import numpy as np
import pytest

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.publishing import book
from kdrepro.verdicts import claims, recompute, records
from kdrepro.verdicts.verify import SUMS, judge_again, rules_digest, sums, verify


@pytest.fixture
def folder(tmp_path):
    """A copy of what is published."""
    return shutil.copytree(paths.RESULTS, tmp_path / "results")


def wrong(folder, resigned=False):
    """What is said of a folder; resigned: the checksums are those of what is there now."""
    if resigned:
        (folder / SUMS).write_text(sums(folder))
    return verify(folder).wrong


def test_the_published_book_follows_from_its_records():
    report = book.verify()
    assert report.wrong == []
    assert report.checked > 50


def test_one_digit_of_a_record_is_noticed(folder):
    errors = records.read(folder / "02-mnist.json")["claims"]["mnist.plain"]["metrics"]["errors"]
    text = (folder / "02-mnist.json").read_text()
    start = text.index('"mnist.plain"')
    (folder / "02-mnist.json").write_text(text[:start] + text[start:].replace(str(errors[0]), str(errors[0] + 1), 1))
    assert wrong(folder)[0] == f"02-mnist.json has changed since {SUMS} was made."
    found = wrong(folder, resigned=True)
    assert any("mnist.plain: the mean of errors is" in sentence for sentence in found)
    assert any("mnist.plain: errors is" in sentence and "the predictions give" in sentence for sentence in found)


def test_a_search_that_was_changed_or_taken_away_is_noticed(folder):
    first, second = sorted((folder / "searches").glob("*.json"))[:2]
    first.write_text(first.read_text().replace('"errors": ', '"errors": 1', 1))
    second.unlink()
    assert f"searches/{first.name} has changed since {SUMS} was made." in wrong(folder)
    assert f"searches/{second.name} is gone since {SUMS} was made." in wrong(folder)


@pytest.mark.parametrize("what", ["mean", "ci95", "verdict", "rules"])
def test_each_part_of_a_record_is_computed_again(folder, what):
    path = folder / "01-dark-knowledge.json"
    record = records.read(path)
    entry = record["claims"]["theory.means"]
    if what == "mean":
        entry["mean"]["gain_over_hard"] += 0.001
    elif what == "ci95":
        entry["ci95"]["gain_over_hard"][1] += 0.001
    elif what == "verdict":
        entry["verdict"] = "not reproduced"
    else:
        record["rules"] = "0" * 12
    path.write_text(json.dumps(record))
    found = wrong(folder, resigned=True)
    assert len(found) == 1
    assert {"mean": "the mean of", "ci95": "the interval of", "verdict": "the verdict is", "rules": "other rules"}[
        what
    ] in found[0]


def test_one_prediction_is_noticed(folder):
    path = folder / "02-mnist.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["distilled.right"] = changed["distilled.right"].copy()
    changed["distilled.right"][0, 0] ^= 1
    content = io.BytesIO()
    np.savez_compressed(content, **changed)
    path.write_bytes(content.getvalue())
    assert f"02-mnist.npz has changed since {SUMS} was made." in wrong(folder)
    found = wrong(folder, resigned=True)
    assert any("mnist.distilled: errors is" in sentence for sentence in found)


def test_one_rule_is_noticed_and_judging_again_settles_it(folder, tmp_path, monkeypatch):
    text = paths.CLAIMS.read_text()
    changed = tmp_path / "claims.yaml"
    changed.write_text(
        re.sub(r"metric: errors, stat: ci_high, at_most: 75", "metric: errors, stat: ci_high, at_most: 70", text)
    )
    before = rules_digest()
    monkeypatch.setattr(paths, "CLAIMS", changed)
    assert rules_digest() != before
    found = wrong(folder)
    assert sum("judged by other rules" in sentence for sentence in found) == len(list(folder.glob("*.json")))
    assert any("mnist.teacher: the verdict is 'reproduced', but the rule gives 'partly'" in s for s in found)
    judge_again(folder)
    assert wrong(folder) == []
    assert records.read(folder / "02-mnist.json")["claims"]["mnist.teacher"]["verdict"] == "partly"


def test_a_metric_that_a_rule_came_to_read_is_computed_from_the_predictions(folder):
    """Of the first seeds and of those that confirm; what the record has already stays as it is."""
    path = folder / "03-acoustic-ensemble.synthetic.json"
    whole = records.read(path)
    less = json.loads(json.dumps(whole))
    entry = less["claims"]["speech.words"]
    for part in (entry, entry["confirm"]):
        for of in ("metrics", "mean", "ci95"):
            del part[of]["word_errors_saved_over_half_again"]
        del part["pooled"]["word_errors_saved_low"], part["mean"]["word_errors_saved_low"]
    path.write_text(json.dumps(less))
    judge_again(folder)
    assert wrong(folder) == []
    assert records.read(path)["claims"]["speech.words"] == whole["claims"]["speech.words"]


def test_what_no_prediction_supports_is_listed_by_name(folder):
    (folder / "02-mnist.npz").unlink()
    report = verify(folder)
    assert "02-mnist, mnist.plain: errors" in report.unsupported
    assert f"02-mnist.npz is gone since {SUMS} was made." in report.wrong


def test_every_chapter_with_predictions_is_computed_again():
    for path in sorted(paths.RESULTS.glob("*.json")):
        record = records.read(path)
        found = recompute.figures(record, recompute.load(path))
        assert bool(found) == path.with_suffix(".npz").exists()
        assert found.keys() <= claims.load().keys()


def test_a_run_is_verified_without_checksums(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path / "runs"))
    with pytest.raises(InputError, match="There is no run at full"):
        book.verify("full")
    made = shutil.copytree(folder, tmp_path / "runs" / "full" / "results")
    (made / SUMS).unlink()
    assert book.verify("full").wrong == []
    record = records.read(made / "01-dark-knowledge.json")
    record["claims"]["theory.means"]["mean"]["gain_over_hard"] += 1
    records.write(made / "01-dark-knowledge.json", record)
    assert len(book.verify("full").wrong) == 1
