"""Searches for recipes see training images alone, and their record is enough for their table."""

import json

import numpy as np
import pytest
import scipy.stats
import torch

from kdrepro import data, paths
from kdrepro.chapters import committees, presets, searches
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
    assert table["saved"].tolist()[1] == "compared with"
    errors = [
        row["errors"] for row in rows if (row["teacher"], row["student"]) == ("as published", "lower temperature")
    ]
    assert table["errors"].tolist()[2] == round(sum(errors) / 2, 1)
    assert 0 < table["agrees"].str.rstrip("%").replace("", "100").astype(float).min() <= 100
    assert [ax.get_xlabel() for ax in searches.figure(record).axes] == ["errors saved on held-out images"]
    again = searches.search(run, "teachers")  # from the store
    assert [row["errors"] for row in again] == [row["errors"] for row in rows]


def test_searches_that_are_not_there():
    with pytest.raises(InputError, match=r"no search 'teacher' \(did you mean 'teachers'\?\): it has teachers"):
        start_search("02-mnist", "teacher", preset="smoke")
    with pytest.raises(InputError, match="08-pitfalls at smoke has no search 'x': it has none"):
        start_search("08-pitfalls", "x", preset="smoke")


def test_a_search_that_names_no_field_of_a_plan_is_refused_with_the_preset(tmp_path, monkeypatch):
    text = (paths.PRESETS / "smoke.yaml").read_text()
    (tmp_path / "smoke.yaml").write_text(text.replace("more dropout: {hidden_dropout: 0.4}", "x: {hiden_dropout: 0.4}"))
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    with pytest.raises(InputError, match="hiden_dropout"):
        presets.load("smoke")


def test_a_search_of_generalists_has_no_teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    run = start_search("05-specialists", "generalist", preset="smoke")
    assert len(run.data.test_images) == 240
    assert run.data.validation_images is None
    students = list(run.sizes.searches["generalist"].students)
    rows = searches.search(run, "generalist")
    assert [(row["teacher"], row["student"]) for row in rows] == [("", name) for name in students]
    (ax,) = searches.figure(json.loads(searches.place(run, "generalist").read_bytes())).axes
    lines = {line.get_label(): list(line.get_xdata()) for line in ax.lines if not line.get_label().startswith("_")}
    assert lines == {"8-16": [1, 2, 3], "8-16, averaged": [1, 2, 3]}
    taught = run.sizes.searches["generalist"].model_dump() | {"teachers": {"t": {}}}
    with pytest.raises(ValueError, match="a search of a generalist has no teachers"):
        run.sizes.but(searches={"x": taught})


def test_a_search_of_specialists_judges_them_with_their_generalist(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    run = start_search("05-specialists", "specialist", preset="smoke")
    rows = searches.search(run, "specialist")
    students = run.sizes.searches["specialist"].students
    assert [(row["teacher"], row["student"], row["seed"]) for row in rows] == [
        *(("generalist", "", seed) for seed in (0, 1)),
        *(("", name, seed) for name in students for seed in (0, 1)),
    ]
    generalist = run.generalists()[0]
    committee = run.committee(run.sizes.specialist, generalist, run.clusters(generalist))
    assert len(run.data.test_images) == 240
    assert rows[2]["errors"] == (~run.right(run.combined(committee))).sum()
    record = json.loads(searches.place(run, "specialist").read_bytes())
    assert searches.missing(record) == []
    assert searches.table(record)["conditional"].str.endswith("%").tolist() == [False, True, True]


def test_a_search_of_students_has_a_teacher_of_two_generalists(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    run = start_search("07-distil-back", "student", preset="smoke")
    rows = searches.search(run, "student")
    assert [(row["teacher"], row["student"], row["seed"]) for row in rows] == [
        *(("generalist", "", seed) for seed in (0, 1, 2)),
        *(("two generalists", "", seed) for seed in (0, 1)),
        *(("", name, seed) for name in ("as published", "labels, rate 1e-3") for seed in (0, 1)),
    ]
    both = run.train_seeds(run.sizes.generalist, seeds=[1, 2], name="generalist")
    assert rows[4]["errors"] == (~committees.ensemble_right(run, both)).sum()
    student = run.train_seeds(run.sizes.student, [run.average_as_teacher(both)], [1], "student", both)[0]
    assert rows[6]["errors"] == run.errors(student)
    assert 0 < rows[6]["gap"] < rows[8]["gap"], "nearer to its teacher than a net that never saw it"
    with pytest.raises(ValueError, match="a search of a student needs one, and this chapter has none"):
        presets.load("smoke").chapters["05-specialists"].but(searches={"x": run.sizes.searches["student"].model_dump()})


def test_a_search_of_students_may_have_several_teachers_and_sizes_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    run = start_search("07-distil-back", "specialists", preset="smoke")
    assert run.sizes.special_classes == 4 != presets.load("smoke").chapters["07-distil-back"].special_classes
    rows = searches.search(run, "specialists")
    teachers, students = ("generalist", "generalist + specialists"), ("as published", "labels")
    assert [(row["teacher"], row["student"], row["seed"]) for row in rows] == [
        *((teacher, "", seed) for teacher in teachers for seed in (0, 1)),
        *((teacher, student, seed) for teacher in teachers for student in students for seed in (0, 1)),
    ]
    generalists = run.generalists()
    committees = [run.committee(run.sizes.specialist, net, run.clusters(net)) for net in generalists]
    assert {len(subset) for committee in committees for subset in committee.subsets} == {4}
    assert rows[2]["errors"] == (~run.right(run.combined(committees[0]))).sum()
    itself, both = (
        run.train_seeds(run.sizes.student, taught_by, starts=generalists)
        for taught_by in (generalists, [run.as_teacher(committee) for committee in committees])
    )
    assert [row["errors"] for row in (*rows[4:6], *rows[8:10])] == [run.errors(net) for net in (*itself, *both)]
    assert [row["errors"] for row in rows[6:8]] == [row["errors"] for row in rows[10:12]], "labels have no teacher"
    record = json.loads(searches.place(run, "specialists").read_bytes())
    assert searches.missing(record) == []
    assert searches.table(record)["saved"].tolist().count("compared with") == 1
    whole = presets.load("smoke").chapters["07-distil-back"]
    wrong = whole.searches["specialists"].model_dump() | {"teachers": {"specialists": {}}}
    with pytest.raises(ValueError, match=r"a student has one of the teachers generalist, .*, not 'specialists'"):
        whole.but(searches={"x": wrong})


@pytest.mark.parametrize("rows", [[], [("as published", "first", None), ("as published", "second", None)]])
def test_a_search_without_a_student_that_learned_has_a_table_and_a_picture(rows, tmp_path):
    """It was ended before the first, or all of them diverged."""
    teacher = {"teacher": "as published", "student": "", "seed": 0, "errors": 7, "seconds": 1.0}
    students = {"first": {}, "second": {}}
    found = [{"teacher": t, "student": s, "seed": 0, "errors": e, "seconds": 1.0} for t, s, e in rows]
    record = {"rows": [teacher, *found], "plans": {"teachers": {"as published": {}}, "students": students}}
    assert searches.table(record)["errors"].tolist() == [7.0, *["diverges" if rows else "not run"] * 2]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    searches.draw(path, tmp_path / "drawn.svg")


def test_a_search_that_was_ended_is_told():
    record = {"plans": {"teachers": {"a": {}, "b": {}}, "students": {"x": {}, "y": {}}}, "rows": []}
    of = {"seed": 0, "errors": 3, "seconds": 60.0}
    record["rows"] = [
        {"teacher": t, "student": s} | of for t, s in (("a", ""), ("a", "x"), ("a", "y"), ("b", ""), ("b", "x"))
    ]
    assert searches.missing(record) == [("b", "y")]
    assert searches.table(record).iloc[-1][["teacher", "student", "errors"]].tolist() == ["b", "y", "not run"]
    record["rows"].append({"teacher": "b", "student": "y"} | of)
    assert searches.missing(record) == []
    assert "not run" not in searches.table(record)["errors"].tolist()


def test_a_student_without_a_teacher_has_no_gap_to_one():
    rows = [{"teacher": "t", "student": name, "seed": 0, "errors": 3, "seconds": 60.0} for name in ("hard", "soft")]
    rows[1] |= {"gap": 0.125, "agrees": 0.5}
    table = searches.table({"rows": rows})
    assert table["gap"].tolist() == ["", "0.125"]
    assert table["agrees"].tolist() == ["", "50.00%"]


def test_what_students_save_has_one_spread():
    errors = {"a": [10, 12], "b": [8, 11], "c": [13, 14]}
    rows = [
        {"teacher": "t", "student": name, "seed": seed, "errors": e, "seconds": 60.0}
        for name, each in errors.items()
        for seed, e in enumerate(each)
    ]
    saved = searches.savings({"rows": rows}).loc["t"]
    assert saved["saved"].to_dict() == {"a": 0, "b": 1.5, "c": -2.5}
    assert saved["compared with"].tolist() == [True, False, False]
    spread = np.sqrt(((2 - 1) ** 2 / 2 + (-2 + 3) ** 2 / 2) / 2)  # variances of [2, 1] and [-3, -2], their mean
    half = scipy.stats.t.ppf(0.975, 2) * spread / np.sqrt(2)
    assert saved["half"].tolist() == pytest.approx([np.nan, half, half], nan_ok=True)
    assert searches.savings({"rows": rows[::2]})["half"].isna().all()
    assert searches.table({"rows": rows[::2]})["95 % of it"].tolist() == ["", "–", "–"]


def test_students_of_labels_alone_count_once_whatever_teachers_they_stand_beside():
    errors = {("a", "soft"): [10, 12], ("a", "labels"): [8, 11], ("b", "soft"): [13, 14]}
    rows = [
        {"teacher": teacher, "student": student, "seed": seed, "errors": e, "seconds": 60.0}
        for (teacher, student), each in errors.items()
        for seed, e in enumerate(each)
    ]
    again = [row | {"teacher": "b"} for row in rows if row["student"] == "labels"]
    once, twice = (searches.savings({"rows": each}) for each in (rows, rows + again))
    assert twice.loc[once.index].equals(once)
    assert twice.loc[("b", "labels")].equals(once.loc[("a", "labels")])


def test_students_of_more_cases_are_not_compared_with_those_of_fewer():
    students = {"few": {"fraction": 0.1}, "all": {}, "few, better": {"fraction": 0.1}, "all, better": {}}
    rows = [
        {"teacher": "", "student": name, "seed": 0, "errors": errors, "seconds": 60.0}
        for name, errors in zip(students, (90, 20, 80, 19), strict=True)
    ]
    table = searches.table({"rows": rows, "plans": {"students": students}}).set_index("student")
    assert table["saved"].to_dict() == {
        "few": "compared with",
        "all": "compared with",
        "few, better": "+10.0",
        "all, better": "+1.0",
    }


def test_a_teacher_that_diverges_ends_no_search(run, monkeypatch):
    plans = run.sizes.searches["teachers"]
    wild = plans.model_copy(update={"teachers": {"wild": {"learning_rate": 1e30}, "tame": {}}})
    monkeypatch.setitem(run.sizes.searches, "teachers", wild)
    record = json.loads(searches.write(run, "teachers", searches.search(run, "teachers")).read_bytes())
    assert searches.missing(record) == []
    of = {name: [row["errors"] for row in record["rows"] if row["teacher"] == name] for name in wild.teachers}
    assert of["wild"] == [None] * (1 + 2 * len(plans.students))
    assert len(of["tame"]) == len(of["wild"])
    assert None not in of["tame"]
    table = searches.table(record)
    assert table["errors"].tolist()[:3] == ["diverges"] * 3
    assert len(searches.figure(record).axes) == 1


def test_a_recipe_that_diverges_ends_no_search(run, monkeypatch):
    plan = run.sizes.distilled.but(learning_rate=1e30, curve=0)
    teacher = run.train(run.sizes.teacher.but(epochs=1, curve=0), 0)
    about, rows = {"teacher": "t", "student": "wild"}, []
    monkeypatch.setattr(searches, "write", lambda run, name, rows: None)
    searches._try_all(run, "search", [(about, lambda: run.train_seeds(plan, [teacher, teacher]), None)], rows)
    assert rows == [about | {"seed": seed, "errors": None, "seconds": 0.0} for seed in run.seeds]
    tame = [about | {"student": "tame", "seed": seed, "errors": 9, "seconds": 1.0} for seed in run.seeds]
    record = {"rows": tame + rows, "plans": {"teachers": {"t": {}}, "students": {"tame": {}, "wild": {}}}}
    assert searches.table(record)["errors"].tolist() == [9.0, "diverges"]
    assert searches.savings(record)["saved"].to_dict() == {("t", "tame"): 0}
    assert len(searches.figure(record).axes) == 1


def test_lengths_of_several_kinds_are_curves(tmp_path):
    students = {f"{kind}, {n} epochs": {"epochs": n, "loss": kind} for kind in ("hard", "soft") for n in (3, 9, 27)}
    rows = [
        {"teacher": "t", "student": name, "seed": seed, "errors": 100 - plan["epochs"] + seed, "seconds": 1.0}
        for name, plan in students.items()
        for seed in (0, 1)
    ]
    rows.append({"teacher": "t", "student": "", "seed": 0, "errors": 50, "seconds": 1.0})
    record = {"rows": rows, "plans": {"students": students}}
    (ax,) = searches.figure(record).axes
    curves = {line.get_label(): line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 3}
    assert curves == {"hard": [97.5, 91.5, 73.5], "soft": [97.5, 91.5, 73.5]}
    (tmp_path / "record.json").write_text(json.dumps(record))
    searches.draw(tmp_path / "record.json", tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").read_text().startswith("<?xml")


@pytest.fixture
def speech_search(speech_runs, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(speech_runs))
    return start_search("03-acoustic-ensemble", "passes", preset="smoke")


def test_a_search_on_speech_sees_no_test_speaker(speech_search, speech_run):
    (part,), (whole,) = speech_search.data.parts, speech_run.data.parts
    assert part.test is part.validation
    assert part.test.fingerprint == whole.validation.fingerprint
    assert part.fingerprint != whole.fingerprint  # nothing of a search is taken for the chapter's


def test_labels_and_soft_targets_are_searched_alike(speech_search):
    teacher, *rows = searches.search(speech_search, "passes")
    assert [row["student"] for row in rows] == ["labels, 2 epochs", "soft targets, 2 epochs"]
    assert (teacher["teacher"], teacher["student"]) == ("mean of 2", "")
    wrong = [row["errors"] for row in rows]
    assert all(0 < count < len(speech_search.data.parts[0].validation) for count in wrong)
    record = json.loads(searches.place(speech_search, "passes").read_bytes())
    assert record["held_out"] == len(speech_search.data.parts[0].validation)
    assert [ax.get_xlabel() for ax in searches.figure(record).axes] == ["errors saved on frames of validation speakers"]
    table = searches.table(record)
    assert table["saved"].tolist() == ["", "compared with", f"{wrong[0] - wrong[1]:+.1f}"]
    assert table["kept"].tolist() == ["", "", f"{(wrong[0] - wrong[1]) / (wrong[0] - teacher['errors']):.1%}"]


def test_what_a_student_keeps_is_told_of_speech_with_a_teacher_alone():
    rows = [{"teacher": t, "student": s, "seed": 0, "errors": e, "seconds": 1} for t, s, e in
            (("mean of 3", "", 60), ("", "labels", 100), ("", "soft", 80))]  # fmt: skip
    assert searches.table({"chapter": "03-acoustic-ensemble", "rows": rows})["kept"].tolist() == ["", "", "50.0%"]
    assert "kept" not in searches.table({"chapter": "02-mnist", "rows": rows})
    assert "kept" not in searches.table({"chapter": "03-acoustic-ensemble", "rows": rows[1:]})
    rows[0]["errors"] = None  # the teacher diverged
    assert "kept" not in searches.table({"chapter": "03-acoustic-ensemble", "rows": rows})


def test_what_a_student_that_begins_as_a_generalist_keeps_of_what_its_own_teacher_saves():
    seeds = {
        ("generalist", ""): [100, 110, 500],  # the last has no students
        ("both", ""): [80, 90],
        ("generalist", "soft"): [99, 112],
        ("both", "soft"): [95, 100],
        ("both", "labels"): [20, 30],
    }
    rows = [
        {"teacher": teacher, "student": student, "seed": seed, "errors": errors, "seconds": 1}
        for (teacher, student), each in seeds.items()
        for seed, errors in enumerate(each)
    ]
    plans = {"of": "student", "students": {"soft": {}, "labels": {"loss": "hard"}}}
    record = {"chapter": "07-distil-back", "rows": rows, "plans": plans | {"teachers": {"generalist": {}, "both": {}}}}
    table = searches.table(record).set_index(["teacher", "student"])
    assert table["kept"][table["kept"] != ""].to_dict() == {("both", "soft"): f"{(5 + 10) / (20 + 20):.1%}"}
    names = {"": "two generalists", "soft": "", "labels": ""}  # where the search names no teachers
    of_two = [row | {"teacher": names[row["student"]]} for row in rows if row["teacher"] == "both"]
    assert "37.5%" in searches.table({"rows": rows[:3] + of_two, "plans": plans | {"teachers": {}}})["kept"].tolist()
