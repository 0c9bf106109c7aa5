"""Shared fixtures: every test's runs go to a folder of its own, and real data is used only where it is there."""

import importlib
import os
from pathlib import Path

import pytest
import torch
import training_cases
from hypothesis import settings

from kdrepro import data, paths
from kdrepro.acoustic import frames
from kdrepro.speech import shards

# No deadline: a busy machine is not a bug. The same examples every time: a red run can be run again.
settings.register_profile("kdrepro", deadline=None, derandomize=True)
settings.load_profile("kdrepro")


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="what chapters and the tests of training train on: cpu, cuda, cuda:1"
    )


def pytest_configure(config):
    training_cases.DEVICE = torch.device(config.getoption("--device"))


def pytest_collection_modifyitems(config, items):
    """Bits are promised on a processor alone."""
    if config.getoption("--device") != "cpu":
        for item in items:
            if item.get_closest_marker("on_cpu"):
                item.add_marker(pytest.mark.skip(reason="promised, or possible, on a processor alone"))


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """Where tests train; skips what asks for it where it is not there."""
    found = torch.device(request.config.getoption("--device"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU here")
    return found


@pytest.fixture(autouse=True, scope="session")
def _chapters_on_that_device(request):
    """What a test starts of a chapter without naming a device is on the one of `--device`."""
    name = request.config.getoption("--device")
    if name != "cpu":
        start = importlib.import_module("kdrepro.chapters.start")  # the package has a function of that name
        start.start.__kwdefaults__["device"] = start.start_search.__kwdefaults__["device"] = name


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


@pytest.fixture(scope="session")
def tiny_imagenet_root() -> Path:
    root = Path(os.environ.get("KDREPRO_DATA", paths.ROOT / "data"))
    if not (root / "tiny-imagenet-200.zip").is_file() and not (root / "tiny-imagenet-200").is_dir():
        pytest.skip("Tiny ImageNet is not here: set KDREPRO_DATA to the folder of tiny-imagenet-200.zip")
    return root


@pytest.fixture(scope="session")
def tiny_corpus():
    """A minute and a quarter of training speech by five speakers, a quarter each for validation and test."""
    return data.synthetic_speech(
        0.02,
        validation_hours=0.004,
        test_hours=0.004,
        minutes_per_speaker=0.25,
        words_per_class=3,
        snr=(10, 25),
        name="tiny",
    )


@pytest.fixture(scope="session")
def tiny(tiny_corpus, tmp_path_factory) -> frames.Speech:
    """The tiny corpus prepared, its training speakers in three shards, with 200 tied states."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_SPEAKERS", 2)
        return frames.load_speech(tiny_corpus, tmp_path_factory.mktemp("corpora"), 200)
