"""The benchmark of acoustic models: both arms do the same work, and are measured."""

import frames
import pytest
import torch

from kdrepro import acoustic, data

TINY = frames.QUICK | {"hours": 0.005, "hidden": (8,), "repeats": 1}


def test_both_arms_compute_the_same_and_are_timed(tmp_path, monkeypatch):
    found = frames.measure(TINY, tmp_path)
    assert list(found["frames_per_second"]) == ["plain PyTorch loop", "kdrepro, one net", "kdrepro, 2 nets"]
    assert all(rate > 0 for rate in found["frames_per_second"].values())
    monkeypatch.setattr(
        frames, "sequential", lambda net: torch.nn.Linear(frames.INPUTS, net(torch.zeros(1, frames.INPUTS)).shape[1])
    )
    with pytest.raises(ValueError, match="do not do the same work"):
        frames.measure(TINY, tmp_path)


def test_windows_are_those_of_the_package(tmp_path):
    corpus = data.synthetic_speech(0.005, validation_hours=0.01, test_hours=0.01, minutes_per_speaker=0.5)
    train = acoustic.load_speech(corpus, tmp_path, 160).train
    windows = torch.cat(list(train.windows())).float()
    found = frames.Windows(train).__getitems__([0, 5, len(train) - 1])
    assert torch.equal(torch.stack([inputs for inputs, _ in found]), windows[[0, 5, -1]])
    assert [int(target) for _, target in found] == train.targets[[0, 5, -1]].tolist()
