"""Shared fixtures: every test's runs go to a folder of its own, and real data is used only where it is there."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from kdrepro import data, paths

# No deadline: a busy machine is not a bug. The same examples every time: a red run can be run again.
settings.register_profile("kdrepro", deadline=None, derandomize=True)
settings.load_profile("kdrepro")


@pytest.fixture(autouse=True)
def _own_runs(tmp_path, monkeypatch):
    """No test writes into the project's runs/, or finds a network there."""
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> data.ImageData:
    return data.digits()


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    root = Path(os.environ.get("KDREPRO_DATA", paths.ROOT / "data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip("MNIST is not here: set KDREPRO_DATA or run `kdrepro data fetch mnist`")
    return root
