"""Where a chapter on speech begins: a data root that is not there, and a `timit` in it that is none."""

import importlib
from types import SimpleNamespace

import pytest

from kdrepro.chapters import presets
from kdrepro.errors import InputError
from kdrepro.speech import timit

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
