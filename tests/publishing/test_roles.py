"""Figures in sentences are those of the records."""

import json
import re

import pytest

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.publishing import roles
from kdrepro.publishing.standing import standings
from kdrepro.verdicts import claims, records
from kdrepro.verdicts.wording import written, written_mean


def record(**metrics):
    """A run of mnist.distilled on MNIST."""
    entry = records.claim_entry("mnist.distilled", "mnist", 1.0, {name: list(v) for name, v in metrics.items()})
    about = {"config": {"seeds": [0, 1, 2]}}
    return {
        "chapter": "02-mnist",
        "preset": "full",
        "data": {"name": "mnist"},
        "claims": {"mnist.distilled": entry},
        "provenance": about,
    }


def test_figures_intervals_and_the_papers_own():
    found = [record(errors=[80, 84, 88], recovered=[0.8, 0.9, 0.7])]
    entry = found[0]["claims"]["mnist.distilled"]
    assert roles.said("mnist.distilled", found) == written("errors", 84.0) == "84"
    assert roles.said("mnist.distilled interval", found) == written_mean("errors", entry)
    assert roles.said("mnist.distilled recovered", found) == "80.0 %"
    assert roles.said("mnist.distilled paper", found) == "74"
    assert roles.said("mnist.distilled paper recovered", found) == "91.1 %"
    assert roles.said("mnist.distilled verdict", found) == claims.get("mnist.distilled").marked(entry["verdict"])
    assert roles.said("tally", found) == claims.tally(claims.load().values(), found)


def test_what_is_not_measured_yet_says_so():
    assert roles.said("mnist.plain", []) == roles.said("mnist.plain interval", []) == roles.MISSING
    assert roles.said("mnist.plain verdict", []) == "not run"
    assert roles.said("mnist.distilled recovered", [record(errors=[80, 84])]) == roles.MISSING


@pytest.mark.parametrize("asked", ["mnist.distiled", "mnist.distilled errrors", "mnist.distilled paper shift", ""])
def test_what_is_no_claim_and_no_figure_of_one_is_refused(asked):
    with pytest.raises(InputError):
        roles.said(asked, [record(errors=[80, 84], recovered=[0.8, 0.9])])


@pytest.fixture
def published_searches(tmp_path):
    """The folder of the records, with a search of two teachers and one on speech that is not at its end."""
    (tmp_path / "searches").mkdir()
    rows = [{"teacher": t, "student": s, "seed": 0, "errors": e, "seconds": 60} for t, s, e in
            (("a", "", 60), ("a", "plain", 100), ("b", "", 70), ("b", "plain", 90))]  # fmt: skip
    images = {"chapter": "02-mnist", "rows": rows}
    heard = [
        rows[0] | {"teacher": "mean of 3"},
        rows[1] | {"teacher": ""},
        rows[3] | {"teacher": "", "student": "soft"},
    ]
    plans = {"students": {"plain": {}, "soft": {}, "softer": {}}}
    speech = {"chapter": "03-acoustic-ensemble", "rows": heard, "plans": plans}
    for name, record in (("02-mnist.two-teachers", images), ("03-acoustic-ensemble.taught", speech)):
        (tmp_path / "searches" / f"{name}.json").write_text(json.dumps(record))
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "cell"),
    [
        ("02-mnist: two teachers: b: plain: errors", "90"),
        ("02-mnist: two teachers: b: plain: saved", "+10.0"),
        ("03-acoustic-ensemble: taught: soft: kept", "25.0%"),
        ("03-acoustic-ensemble: taught: softer: kept", roles.MISSING),
    ],
)
def test_cells_of_searches(asked, cell, published_searches):
    assert roles.searched(asked, published_searches) == cell


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("02-mnist: two teacher: a: plain: errors", "did you mean '02-mnist.two-teachers'"),
        ("02-mnist: two teachers: plain: errors", "2 rows"),
        ("02-mnist: two teachers: a: plane: errors", "0 rows"),
        ("02-mnist: two teachers: a: plain: error", "columns teacher, student"),
        ("two teachers", "No published search"),
        ("", "No published search"),
    ],
)
def test_what_is_no_cell_of_a_search_is_refused(asked, why, published_searches):
    with pytest.raises(InputError, match=why):
        roles.searched(asked, published_searches)


def test_lists_hold_each_claim_once_under_its_verdict(tmp_path):
    found = standings(paths.RESULTS)
    lists = {
        verdict: roles.listed(verdict, found)
        for verdict in ("reproduced", "partly", "not reproduced", "not decided", "not run")
    }
    listed = [
        re.match(r"- (?:\{ref\})?`([\w.]+)", line)[1] for lines in lists.values() for line in lines if line != "None."
    ]
    assert sorted(listed) == sorted(claims.load())
    assert roles.listed("reproduced", standings(tmp_path)) == ["None."]
    with pytest.raises(InputError, match="no verdict"):
        roles.listed("refuted", found)


def test_every_figure_that_pages_ask_for_is_one():
    found = records.read_all()
    pages = [*paths.BOOK.glob("*.md"), *paths.NOTEBOOKS.glob("*.ipynb")]
    asked = [what for page in pages for what in re.findall(r"\{claim\}`([^`]+)`", page.read_text())]
    assert asked
    for what in asked:
        assert roles.said(what, found)
    for page in pages:
        for what in re.findall(r"\{search\}`([^`]+)`", page.read_text()):
            assert roles.searched(what, paths.RESULTS)
