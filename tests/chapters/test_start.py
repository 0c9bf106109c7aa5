"""Where a chapter on speech begins: a data root that is not there, and a `timit` in it that is none."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kdrepro import chapters, data
from kdrepro.chapters import presets
from kdrepro.data import ImageData
from kdrepro.data.tiny_imagenet import NoFreshError
from kdrepro.errors import InputError
from kdrepro.speech import shards, timit

start = importlib.import_module("kdrepro.chapters.start")  # its function has the module's name

CHAPTER = ("03-acoustic-ensemble", "smoke", 1, 0, "cpu")


def test_a_data_root_that_is_not_there_is_noticed_at_smoke_too(tmp_path, monkeypatch):
    gone = tmp_path / "nonexistent"
    said = "There is no folder .*nonexistent, which data_root .--data-root. or KDREPRO_DATA names: correct it"
    with pytest.raises(InputError, match=said):
        start.check(*CHAPTER, str(gone))
    monkeypatch.setenv("KDREPRO_DATA", str(gone))
    with pytest.raises(InputError, match=said):
        start.check(*CHAPTER, None)


def test_no_data_root_at_all_is_no_fault(monkeypatch):
    monkeypatch.delenv("KDREPRO_DATA", raising=False)
    *_, found = start.check(*CHAPTER, None)
    assert list(found) == ["synthetic"]


@pytest.mark.parametrize("name", ["timit", "TIMIT"])
def test_a_timit_in_an_unknown_layout_is_refused_by_its_name(tmp_path, name):
    sizes = SimpleNamespace(timit=object(), synthetic=presets.load("smoke").chapters[CHAPTER[0]].synthetic)
    assert list(start._corpora(sizes, tmp_path, named=True)) == ["synthetic"]
    (tmp_path / name / "wavs").mkdir(parents=True)
    with pytest.raises(InputError, match=r"(?i)timit is there, but not in a layout of TIMIT: .*move it away"):
        start._corpora(sizes, tmp_path, named=True)
    assert timit.find(tmp_path) is None


# --- a second data set, and images that confirm -----------------------------------------------------


def test_a_second_data_set_has_an_experiment_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    run = chapters.start("05-specialists", seeds=1, first_seed=3)
    second = chapters.beside(run)
    assert (second.data.name, second.record_name) == ("glyphs-90", "05-specialists.glyphs-90")
    assert second.sizes.generalist == run.sizes.second.generalist
    assert second.seeds == [3]
    assert run.sizes.generalist != second.sizes.generalist
    assert second.store is run.store
    assert chapters.beside(second) is None  # a chapter without a second one


def test_a_second_record_lies_beside_the_first_in_later_runs_too(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    run = chapters.start("05-specialists", seeds=2)
    for _ in range(2):
        second = chapters.beside(run)  # with fewer seeds
        assert second.seeds == [0]
        assert second.finish().parent == run.finish().parent == tmp_path / "smoke" / "results"


def images(test: int) -> ImageData:
    some = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 3])
    given = {"validation_images": some[0], "validation_labels": some[1]}
    return ImageData.of("tiny-imagenet-200", *some, some[0] + test, some[1], 4, **given)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("into", ["", "claims/x", "confirm", "confirm/specialists.table3"])
def test_only_a_confirmation_sees_fresh_images(tmp_path, monkeypatch, there, into):
    def load(root, *, fresh=False, **_):
        if fresh and not there:
            raise NoFreshError("no such images")
        return images(7 if fresh else 0)

    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    monkeypatch.setattr(start.data, "tiny_imagenet", load)
    run = start.start("05-specialists", preset="full", seeds=1, into=into)
    confirms = into.startswith("confirm")
    assert run.data.test_images.max() == (7 if confirms and there else 0)
    said = "training images numbered from 400 on" if there else "the usual test images, for want of unused ones"
    assert run.record["data"].get("test") == (said if confirms else None)
    assert run.record["data"]["fingerprint"] == images(0).fingerprint  # the record's that it confirms


@pytest.mark.parametrize(
    ("into", "fresh"), [("", False), ("claims/speech.words", False), ("confirm/speech.words", True)]
)
def test_what_confirms_is_tested_on_fresh_speech(into, fresh, monkeypatch, tmp_path):
    """Of a seed that the preset keeps for it; training speech is the same."""
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    made, sizes = {}, presets.load("smoke").chapters["03-acoustic-ensemble"]
    chapter = SimpleNamespace(sets={"synthetic": 0}, sizes=sizes, decides=SimpleNamespace(record={"data": {}}))
    monkeypatch.setattr(start.SpeechChapter, "of", lambda corpora, **_: made.update(corpora) or chapter)
    start.start("03-acoustic-ensemble", seeds=1, first_seed=10 if fresh else 0, into=into)
    (corpus,), sizes = made["synthetic"], sizes.synthetic.corpus
    assert ("seed 20" in chapter.decides.record["data"].get("test", "")) == fresh
    assert corpus.test_seed == (sizes.fresh_seed if fresh else None)
    usual = data.synthetic_speech(**sizes.arguments())
    if fresh:  # so that it is taken for a confirmation of the record of the same training speech
        assert chapter.decides.record["data"]["fingerprint"] == shards.fingerprint(usual) != shards.fingerprint(corpus)
    assert replace(corpus, test_seed=None) == data.synthetic_speech(**sizes.arguments())


@pytest.mark.parametrize(("count", "told"), [(40, [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]), (3, [1, 2, 3])])
def test_hours_of_speech_are_not_made_without_a_word(count, told):
    lines = []
    for done in range(1, count + 1):
        start._told(lines.append, "synthetic")(done, count)
    assert lines == [f"synthetic: {done} of {count} parts of the speech are there" for done in told]
