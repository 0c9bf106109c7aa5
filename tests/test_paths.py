"""Where runs and data are."""

from pathlib import Path

import pytest

from kdrepro import paths
from kdrepro.errors import InputError


def test_settings_move_runs_and_data(monkeypatch, tmp_path):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDREPRO_DATA", str(tmp_path / "data"))
    assert paths.runs("full") == tmp_path / "runs" / "full"
    assert (paths.data_root(), paths.data_root("given")) == (tmp_path / "data", Path("given"))
    monkeypatch.setenv("KDREPRO_RUNS", "")
    monkeypatch.setenv("KDREPRO_DATA", "")
    assert (paths.runs("full"), paths.data_root()) == (paths.ROOT / "runs" / "full", paths.ROOT / "data")


def test_a_home_is_expanded_and_an_unknown_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.data_root("~/data") == tmp_path / "data"
    with pytest.raises(InputError, match="~nobody-of-that-name/data begins with a home folder that is not known here"):
        paths.data_root("~nobody-of-that-name/data")
    monkeypatch.setenv("KDREPRO_RUNS", "~nobody-of-that-name/runs")
    with pytest.raises(InputError, match="give the whole path"):
        paths.runs("smoke")
