"""A training's state on disk: all of it comes back, or nothing; `test_fuzz` damages it in every way."""

import os

import pytest
import torch

from kdrepro.training.checkpoint import Checkpoint

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.arange(4, dtype=torch.uint8), "c": torch.tensor(3)}
STATE = {"epoch": 2, "history": [{"loss": 0.1}]}


@pytest.fixture
def saved(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors", warn=pytest.fail)
    checkpoint.save(TENSORS, STATE)
    return checkpoint


def test_checkpoint_round_trip(saved):
    tensors, state = saved.load()
    assert state == STATE
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[k], TENSORS[k]) and tensors[k].dtype == TENSORS[k].dtype for k in TENSORS)


def test_no_file_is_no_state(tmp_path):
    assert Checkpoint(tmp_path / "c.safetensors", warn=pytest.fail).load() is None


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Checkpoint("~/c.safetensors").path == tmp_path / "c.safetensors"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'\\"epoch\\": 2', b'\\"epoch\\": 1'),
        (b'"I64"', b'"F64"'),
        (b'"shape":[3,2]', b'"shape":[2,3]'),
        (bytes([0, 1, 2, 3]), bytes([0, 1, 2, 2])),
    ],
)
def test_a_checkpoint_with_one_thing_changed_is_named_and_set_aside(saved, old, new):
    """A number of its state, a type, a shape, a value."""
    content, warnings = saved.path.read_bytes(), []
    assert content.count(old) == 1
    saved.path.write_bytes(content.replace(old, new))
    saved.warn = warnings.append
    assert saved.load() is None
    assert "c.safetensors" in warnings[0]
    assert "its checksum is wrong" in warnings[0]
    assert not saved.path.exists()
    assert list(saved.path.parent.glob("c.safetensors.damaged-*"))


def test_removed_with_what_killed_processes_left(saved):
    part = saved.path.parent / f".{saved.path.name}.1.part"
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    saved.remove()
    assert list(saved.path.parent.iterdir()) == []
