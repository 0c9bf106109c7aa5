"""Which run's record stays: that of more seeds, and of as many the first."""

import importlib.metadata
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kdrepro
from kdrepro import paths
from kdrepro.verdicts import records

CHAPTER = "02-mnist"


def write(run, seeds, name=CHAPTER) -> None:
    """A record of these seeds in a run's folder."""
    record = json.loads((paths.RESULTS / "02-mnist.json").read_text(encoding="utf-8"))
    record["provenance"]["config"]["seeds"] = list(seeds)
    records.write(run / "results" / f"{name}.json", record)


@pytest.mark.parametrize(
    ("there", "seeds", "folder"),
    [
        ([], [3], "."),
        ([0, 1, 2], [0], "seeds-0"),
        ([0, 1, 2], [1, 2], "seeds-1-2"),
        ([0, 1, 2], [5, 6, 7], "seeds-5-7"),
        ([0, 1, 2], [0, 1, 2], "."),
        ([0], [0, 1, 2], "."),
        ([5, 6, 7], [0, 1, 2], "."),
    ],
)
def test_fewer_seeds_are_kept_beside_more(tmp_path, there, seeds, folder):
    if there:
        write(tmp_path, there)
    assert records.place(tmp_path, CHAPTER, seeds) == tmp_path / folder


def test_a_run_of_several_data_sets_goes_to_one_place(tmp_path):
    for name in (f"{CHAPTER}.a", f"{CHAPTER}.b"):
        write(tmp_path, [0, 1], name)
    write(tmp_path, [0], f"{CHAPTER}.a")
    assert records.place(tmp_path, CHAPTER, [3]) == tmp_path / "seeds-3"


def test_a_record_that_cannot_be_read_is_replaced(tmp_path):
    (tmp_path / "results").mkdir()
    for content in ("{", "[]", json.dumps({"provenance": {"config": {"seeds": "many"}}})):
        (tmp_path / "results" / f"{CHAPTER}.json").write_text(content)
        assert records.place(tmp_path, CHAPTER, [0]) == tmp_path


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=6))
def test_whatever_the_order_of_runs_the_most_seeds_are_read(tmp_path_factory, runs):
    """By `publish` and `claims`, which look into the plain folder; and no run is without a record."""
    folder = tmp_path_factory.mktemp("runs")
    for first, count in runs:
        seeds = range(first, first + count)
        write(records.place(folder, CHAPTER, seeds), seeds)
        assert list(seeds) in [records.seeds_of(records.read(path)) for path in folder.rglob(f"results/{CHAPTER}.json")]
    (kept,) = records.read_all(folder / "results")
    most = max(runs, key=lambda run: (run[1], -run[0]))
    assert records.seeds_of(kept) == list(range(most[0], sum(most)))


def test_a_record_names_the_version_that_is_installed():
    assert importlib.metadata.version("kdrepro") == kdrepro.__version__
