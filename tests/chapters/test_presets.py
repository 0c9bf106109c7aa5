"""Presets: what is in the files is valid, and what is not valid is named."""

import contextlib

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kdrepro import paths
from kdrepro.chapters import presets
from kdrepro.errors import InputError
from kdrepro.store import build


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a preset file `mine` beside copies of the real ones."""
    for path in paths.PRESETS.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(paths, "PRESETS", tmp_path)

    def write(content):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / "mine.yaml").write_text(text)

    return write


@pytest.mark.parametrize("name", ["smoke", "full", "paper"])
def test_the_three_presets_are_valid(name):
    preset = presets.load(name)
    assert list(preset.chapters) == list(presets.CHAPTERS)
    assert preset.chapters["02-mnist"].distilled.temperature == 20


def test_full_is_the_papers_architecture_with_five_seeds():
    sizes = presets.load("full").chapters["02-mnist"]
    assert sizes.teacher.network.hidden == [1200, 1200]
    assert sizes.plain.network.hidden == sizes.distilled.network.hidden == [800, 800]
    assert sizes.plain.jitter == sizes.distilled.jitter == 0
    assert sizes.seeds >= 5
    assert sizes.sweep_seeds >= 3


def test_base_is_overlaid(written):
    written({"base": "smoke", "chapters": {"02-mnist": {"plain": {"recipe": {"epochs": 99}}}}})
    mine, smoke = presets.load("mine").chapters["02-mnist"], presets.load("smoke").chapters["02-mnist"]
    assert mine.plain.recipe.epochs == 99
    assert mine.plain.network == smoke.plain.network
    assert mine.teacher == smoke.teacher


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plane": {}}, "plane.*did you mean 'plain'"),
        ({"plain": {"recipe": {"epoch": 3}}}, "epoch.*did you mean 'epochs'"),
        ({"plain": {"recipe": {"epochs": "many"}}}, "epochs.*'many'"),
        ({"plain": {"recipe": {"epochs": 0}}}, "epochs"),
        ({"plain": {"network": {"hidden": [0]}}}, "hidden"),
        ({"teacher": {"network": {"hidden_drop": 0.5}}}, "did you mean 'hidden_dropout'"),
        ({"seeds": -1}, "seeds"),
        ({"distilled": {"temperature": 0}}, "temperature"),
    ],
)
def test_bad_values_are_named(written, change, said):
    written({"base": "smoke", "chapters": {"02-mnist": change}})
    with pytest.raises(InputError, match=said):
        presets.load("mine")


@pytest.mark.parametrize(
    ("chapter", "change", "said"),
    [
        ("03", {"synthetic": {"corpus": {"hour": 1}}}, r"synthetic\.corpus\.hour .*did you mean 'hours'"),
        ("04", {"synthetic": {"corpus": {"words_per_clas": 1}}}, "did you mean 'words_per_class'"),
        ("03", {"synthetic": {"corpus": {"hours": 0}}}, "hours"),
        ("03", {"synthetic": {"corpus": {"snr": [1]}}}, "snr"),
        ("03", {"synthetic": {"state": 200}}, "did you mean 'states'"),
        ("03", {"synthetic": {"states": 2}}, "states"),
        ("03", {"synthetic": {"training": {"samplin": "frames"}}}, "did you mean 'sampling'"),
        ("03", {"synthetic": {"training": {"sampling": "speakers"}}}, "sampling.*'speakers'"),
        ("03", {"synthetic": {"soft": {"epochs": 9}}}, r"soft\.epochs"),  # budgets cannot be unequal
        ("03", {"searches": {"x": {"seeds": 1, "students": {"y": {"epoch": 3}}}}}, "epoch"),
        ("03", {"members": 1}, "members"),
        ("03", {"top_k": 0}, "top_k"),
        ("03", {"tok_p": 3}, "did you mean 'top_k'"),
        ("04", {"little": {"training": {"curve": 0}}}, "early_stopping needs curve"),
        ("04", {"little": {"training": {"fraction": 1.5}}}, "fraction"),
        ("04", {"little": {"training": {"temperature": 3}}}, "temperature and soft_weight mean nothing"),
        ("04", {"little": {"training": {"network": {"hiden": [3]}}}}, "did you mean 'hidden'"),
        ("04", {"teacher_shares": [0.5]}, "teacher_shares must have 1"),
        ("04", {"teacher_temperatures": [5]}, "little.soft.temperature among them"),
    ],
)
def test_bad_values_of_speech_are_named(written, chapter, change, said):
    written({"base": "smoke", "chapters": {presets.check_chapter(chapter): change}})
    with pytest.raises(InputError, match=said) as caught:
        presets.load("mine")
    assert "\n" not in str(caught.value)


def test_early_stopping_with_a_curve_is_fine():
    hard = presets.load("smoke").chapters["04-soft-targets"].little.training
    assert hard.early_stopping
    assert hard.but(curve=1).curve == 1
    with pytest.raises(ValueError, match="early_stopping needs curve"):
        hard.but(curve=0)


def test_which_chapters_are_about_speech():
    assert [name for name in presets.CHAPTERS if presets.is_speech(name)] == ["03-acoustic-ensemble", "04-soft-targets"]


def test_unknown_names(written):
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        presets.load("smok")
    written({"base": "smoke", "chapters": {"02-minst": {}}})
    with pytest.raises(InputError, match="did you mean '02-mnist'"):
        presets.load("mine")
    written({"base": "smoke", "dat": "mnist"})
    with pytest.raises(InputError, match="did you mean 'data'"):
        presets.load("mine")
    written({"base": "mine"})
    with pytest.raises(InputError, match="its own base"):
        presets.load("mine")


KEYS = ["base", "data", "chapters", "02-mnist", "x"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_input_errors_come_out(written, content):
    written(content)
    with contextlib.suppress(InputError):
        presets.load("mine")


@given(st.text(max_size=40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_input_errors_come_out_of_any_text(written, text):
    written(text)
    with pytest.raises(InputError):
        presets.load("mine")


def test_chapters_by_number():
    assert presets.check_chapter("02") == "02-mnist"
    assert presets.check_chapter("01-dark-knowledge") == "01-dark-knowledge"
    assert presets.check_chapter("2") == presets.check_chapter("mnist") == "02-mnist"
    for bad in ("99", "0", "", "mnist2", "s"):
        with pytest.raises(InputError, match="choose from"):
            presets.check_chapter(bad)


def test_no_sweep_has_more_seeds_than_the_run():
    whole = presets.load("full")
    fewer = presets.with_seeds(whole, "05-specialists", 1).chapters["05-specialists"]
    assert (fewer.sweep_seeds, fewer.control_seeds) == (1, 1)
    assert presets.with_seeds(whole, "05-specialists", 9) == whole


def test_but_reaches_the_network_and_the_recipe():
    plan = presets.load("smoke").chapters["02-mnist"].distilled
    changed = plan.but(hidden=[7], epochs=3, temperature=2)
    assert (changed.network.hidden, changed.recipe.epochs, changed.temperature) == ([7], 3, 2)
    assert changed.recipe.learning_rate == plan.recipe.learning_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stopping": True}, "early_stopping needs curve"),
        ({"soft": "class"}, "output must be full"),
        ({"temperature": 2.0}, "temperature means nothing without soft targets"),
    ],
)
def test_specialists_whose_options_contradict_each_other(changes, message):
    plan = presets.load("smoke").chapters["05-specialists"].specialist
    with pytest.raises(ValidationError, match=message):
        plan.but(**changes)


def test_a_convolutional_net_has_no_weight_constraint():
    plan = presets.load("smoke").chapters["05-specialists"].generalist
    with pytest.raises(ValidationError, match="max_norm is for fully connected networks"):
        plan.but(max_norm=2.0)


def test_students_of_chapter_7_need_soft_targets():
    sizes = presets.load("smoke").chapters["07-distil-back"]
    with pytest.raises(ValidationError, match="its loss must be soft"):
        sizes.but(student=sizes.generalist.model_dump())


# --- presets and changes of one's own -----------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path):
    """A preset file away from the book."""

    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_file_anywhere_lists_only_what_differs(mine):
    path = mine("base: smoke\nchapters:\n  02-mnist:\n    distilled: {temperature: 7, recipe: {epochs: 3}}\n")
    found, smoke = presets.load(path), presets.load("smoke")
    assert found.chapters["02-mnist"].distilled.temperature == 7
    assert found.chapters["02-mnist"].teacher == smoke.chapters["02-mnist"].teacher
    assert found.chapters["05-specialists"] == smoke.chapters["05-specialists"]
    assert found.changed == {
        "02-mnist.distilled.recipe.epochs": (20, 3),
        "02-mnist.distilled.temperature": (20, 7),
    }
    assert (found.origin, found.is_own, found.name.startswith("mine-")) == ("smoke", True, True)


def test_a_file_may_start_from_another_file(mine):
    mine("base: smoke\nchapters:\n  02-mnist: {seeds: 1, sweep_seeds: 1}\n", "other.yaml")
    found = presets.load(mine("base: ./other.yaml\nchapters:\n  02-mnist: {seeds: 3}\n"))
    assert found.changed == {"02-mnist.seeds": (2, 3), "02-mnist.sweep_seeds": (2, 1)}
    assert found.origin == "smoke"


def test_changes_by_name_number_and_place():
    texts = ["2.distilled.temperature=10", "02-mnist.widths.1.hidden=[4, 4]", "data=mnist"]
    found = presets.load("smoke", texts)
    assert found == presets.load("smoke", "; ".join(texts))
    assert found.data == "mnist"
    assert found.chapters["02-mnist"].widths[1].hidden == [4, 4]
    assert found.chapters["02-mnist"].widths[0] == presets.load("smoke").chapters["02-mnist"].widths[0]
    assert list(found.changed) == ["data", "02-mnist.distilled.temperature", "02-mnist.widths"]


def test_runs_of_other_sizes_or_data_have_other_folders(mine):
    text = "base: smoke\nchapters:\n  02-mnist: {{seeds: {}}}\n"
    found = [
        presets.load("smoke"),
        presets.load("smoke", ["02-mnist.seeds=1"]),
        presets.load("smoke", ["02-mnist.seeds=3"]),
        presets.load("full", ["02-mnist.seeds=1"]),
        presets.load(mine(text.format(1))),
        presets.load(mine(text.format(3))),
        presets.load("smoke", own_data="idx:/somewhere/letters"),
        presets.load("smoke", own_data="idx:/elsewhere/letters"),
    ]
    assert len({preset.name for preset in found}) == len(found)
    assert not any(set("/: ") & set(preset.name) for preset in found)
    assert presets.load("smoke", ["02-mnist.seeds=2"]) == found[0]  # what it has already


def test_images_of_another_kind_have_none_of_the_old_sizes(mine):
    found = presets.load(mine("base: smoke\nchapters:\n  05-specialists: {images: {kind: tiny-imagenet, size: 64}}\n"))
    assert found.chapters["05-specialists"].images.model_dump() == {
        "kind": "tiny-imagenet",
        "size": 64,
        "per_class": None,
        "numbered_below": None,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("02-mnist.distilled.temprature=10", "did you mean 'temperature'"),
        ("02-mnist.distilled.epochs=10", "did you mean 'recipe.epochs'"),
        ("02-mnist.widths.0.hiden=[1]", "did you mean 'hidden'"),
        ("02-mnist.widths.9.hidden=[1]", "widths"),
        ("02-mnist.distilled.temperature=hot", "'hot'"),
        ("02-mnist.seeds.x=1", "seeds"),
        ("02-minst.seeds=1", "did you mean '02-mnist'"),
        ("seeds=1", "write CHAPTER.KEY=VALUE"),
        ("02-mnist=1", "write CHAPTER.KEY=VALUE"),
        ("02-mnist.seeds", "write CHAPTER.KEY=VALUE"),
        ("02-mnist.temperatures=[1,", "not valid YAML"),
        ("02-mnist.distilled.recipe.epochs=0", "recipe.epochs"),
    ],
)
def test_bad_changes_are_named(change, said):
    with pytest.raises(InputError, match=said):
        presets.load("smoke", [change])


def test_bad_files_are_named(mine, tmp_path):
    for text, said in (
        ("chapters: {}\n", "add a line `base: smoke`"),
        ("base: smok\n", "did you mean 'smoke'"),
        (f"base: {tmp_path}/mine.yaml\n", "its own base"),
        ("base: ./nothing.yaml\n", "There is no preset file"),
        ("base: smoke\norigin: full\n", "unknown key origin"),
        ("base: smoke\nchapters: {02-mnist: {sedes: 1}}\n", "did you mean 'seeds'"),
    ):
        with pytest.raises(InputError, match=said):
            presets.load(mine(text))
    with pytest.raises(InputError, match="There is no preset file"):
        presets.load("nothing.yaml")


@given(st.text(max_size=30), st.text(max_size=8))
@settings(max_examples=60)
def test_only_input_errors_come_out_of_any_change(keys, value):
    with contextlib.suppress(InputError):
        presets.load("smoke", [f"02-mnist.{keys}={value}"])


@pytest.mark.parametrize("name", ["smoke", "full", "paper"])
@pytest.mark.parametrize("chapter", ["05-specialists", "06-mixtures", "07-distil-back"])
def test_the_networks_of_the_presets_can_be_built(name, chapter):
    preset = presets.load(name)
    sizes = preset.chapters[chapter]
    parts = [getattr(sizes, part, None) for part in ("generalist", "mixture", "student", "second")]
    searched = []
    for one, search in sizes.searches.items():
        own = presets.for_search(preset, chapter, one).chapters[chapter]
        tuned = own.student if search.of == "student" else own.generalist  # a specialist is its generalist, cut down
        searched += [tuned.but(**change) for change in search.students.values()]
    for part in filter(None, (*parts, *searched)):
        plan = getattr(part, "generalist", part)  # of a second data set
        with torch.device("meta"):
            assert build({"network": plan.network.of(3, 20)}) is not None
