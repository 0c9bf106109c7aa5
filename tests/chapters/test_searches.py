"""Searches for recipes see training images alone, and their record is enough for their table."""

import json

import pytest
import torch

from kdrepro import data, paths
from kdrepro.chapters import presets, searches
from kdrepro.chapters.start import start_search
from kdrepro.errors import InputError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    return start_search("02-mnist", "teachers", preset="smoke")


def rows_of(images):
    return {tuple(row) for row in images.flatten(1).tolist()}


def test_a_search_is_never_handed_a_test_image(run):
    whole = data.digits()
    held_out = run.data.test_images
    assert len(held_out) == run.sizes.searches["teachers"].held_out
    assert len(run.data.train_images) + len(held_out) == len(whole.train_images)
    assert rows_of(run.data.train_images) | rows_of(held_out) == rows_of(whole.train_images)
    assert run.data.validation_images is None
    tests = rows_of(whole.test_images) - rows_of(whole.train_images)
    seen = rows_of(torch.cat([tensor for name, tensor in run.data.tensors().items() if "images" in name]))
    assert not seen & tests


def test_every_student_of_every_teacher_has_the_same_seeds(run):
    rows = searches.search(run, "teachers")
    plans = run.sizes.searches["teachers"]
    students = [(row["teacher"], row["student"], row["seed"]) for row in rows if row["student"]]
    assert students == [(t, s, seed) for t in plans.teachers for s in plans.students for seed in (0, 1)]
    record = json.loads(searches.write(run, "teachers", rows).read_bytes())
    assert record["rows"] == rows
    assert record["plans"] == plans.model_dump()
    assert set(record["provenance"]) >= {"git", "dirty", "torch"}
    table = searches.table(record)
    assert table["student"].tolist() == ["(the teacher itself)", *plans.students] * 2
    assert table["saved"].tolist()[1] == "+0.0"
    errors = [
        row["errors"] for row in rows if (row["teacher"], row["student"]) == ("as published", "lower temperature")
    ]
    assert table["errors"].tolist()[2] == round(sum(errors) / 2, 1)
    again = searches.search(run, "teachers")  # from the store
    assert [row["errors"] for row in again] == [row["errors"] for row in rows]


def test_searches_that_are_not_there():
    with pytest.raises(InputError, match=r"no search 'teacher' \(did you mean 'teachers'\?\): it has teachers"):
        start_search("02-mnist", "teacher", preset="smoke")
    with pytest.raises(InputError, match="05-specialists at smoke has no search 'x': it has none"):
        start_search("05-specialists", "x", preset="smoke")


def test_a_search_that_names_no_field_of_a_plan_is_refused_with_the_preset(tmp_path, monkeypatch):
    text = (paths.PRESETS / "smoke.yaml").read_text()
    (tmp_path / "smoke.yaml").write_text(text.replace("more dropout: {hidden_dropout: 0.4}", "x: {hiden_dropout: 0.4}"))
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    with pytest.raises(InputError, match="hiden_dropout"):
        presets.load("smoke")
