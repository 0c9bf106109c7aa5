"""What is in a store, what it takes, taking it away and copying it: by the functions and by `kdrepro store`."""

import json
import re

import pytest
from typer.testing import CliRunner

from kdrepro.cli import app
from kdrepro.errors import InputError
from kdrepro.store import Store, entries, upkeep
from kdrepro.store.leases import Leases

CONFIG = {"network": {"widths": [3, 2]}, "loss": "hard", "seed": 1, "data": {"name": "digits"}}


def trained(store, **changes):
    config = {**CONFIG, **changes}
    store.train_or_load(config, lambda network, checkpoint: checkpoint.history.append({"epoch": 1, "seconds": 2.0}))
    return store.key(config)


@pytest.fixture
def store(address):
    """Two networks, arrays, a training that was begun, and a file that was set aside."""
    store = Store(address, warn=lambda line: None, folders="x")
    trained(store)
    trained(store, seed=2)
    store.compute_or_load({"scores": 1}, lambda: {"x": [1.0]})
    store.place.write("beef000000000000/checkpoint.safetensors", bytes(100))
    store.place.write(f"{store.key(CONFIG)}/network.safetensors.damaged-1", bytes(50))
    return store


def test_items_and_what_they_take(store):
    found = {item.key: item for item in upkeep.items(store)}
    assert sorted(item.kind for item in found.values()) == ["arrays", "begun", "network", "network"]
    row = upkeep.described(found[store.key(CONFIG)])
    assert (row["layers"], row["loss"], row["seed"], row["data"], row["seconds"]) == (
        "3 - 2",
        "hard",
        "1",
        "digits",
        "2",
    )
    assert row["trained on"].startswith("cpu, ")
    usage = upkeep.usage(store)
    assert usage["checkpoints"] == (1, 100)
    assert usage["damaged files"] == (1, 50)
    assert usage["networks"][0] == 2
    assert upkeep.one(store, "beef").kind == "begun"
    for key in ("zzzz", ""):
        with pytest.raises(InputError, match="see `kdrepro store ls`"):
            upkeep.one(store, key)


def test_what_is_removed_is_gone_and_nothing_else(store):
    item = upkeep.one(store, store.key(CONFIG))
    assert upkeep.remove(store, item, damaged_only=True) == 50
    assert store.entry(CONFIG) is not None
    upkeep.remove(store, upkeep.one(store, item.key))
    assert store.entry(CONFIG) is None
    assert item.key not in list(store.place.keys())
    assert store.entry({**CONFIG, "seed": 2}) is not None


def test_what_a_run_trains_is_not_removed(store):
    with Leases(store.place, "another run") as leases:
        assert leases.take("beef000000000000")
        item = upkeep.one(store, "beef")
        assert upkeep.described(item)["what"] == "begun, trained by another run"
        with pytest.raises(InputError, match="being trained by another run"):
            upkeep.remove(store, item)


def test_what_is_exported_is_checked_and_replaces_nothing(store, tmp_path):
    target = Store(tmp_path / "copy")
    item = upkeep.one(store, store.key(CONFIG))
    assert upkeep.export(store, item, target)
    assert not upkeep.export(store, item, target)
    assert target.entry(CONFIG) == store.entry(CONFIG)
    target.train_or_load(CONFIG, pytest.fail)
    store.place.write(f"{item.key}/network.safetensors", b"damaged")
    with pytest.raises(InputError, match=r"is damaged: remove it by `kdrepro store rm"):
        upkeep.export(store, item, Store(tmp_path / "other"))


def test_what_is_exported_beside_a_run_is_not_described_by_it(store, tmp_path, monkeypatch):
    """The target holds the file of a run that was killed before its description: the pair is then the exported one."""
    monkeypatch.setattr(entries, "PATIENCE", 0.05)
    target, item = Store(tmp_path / "copy"), upkeep.one(store, store.key(CONFIG))
    target.place.write(f"{item.key}/network.safetensors", b"another run's")
    assert upkeep.export(store, item, target)
    target.train_or_load(CONFIG, pytest.fail)


def said(*arguments):
    found = CliRunner().invoke(app, ["store", *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.stdout


def test_the_command_line(tmp_path):
    root = tmp_path / "store"
    key, other = trained(Store(root)), trained(Store(root), seed=2)
    rows = [json.loads(line) for line in said("ls", "--at", root, "--json").splitlines()]
    assert {row["key"] for row in rows} == {key, other}
    assert key in said("ls", "--at", root)
    assert json.loads(said("show", key[:8], "--at", root))["config"]["seed"] == 1
    assert re.search(r"networks +│ 2 ", said("du", "--at", root))
    assert "would delete" in said("rm", key, "--at", root)
    assert "1 copied" in said("export", tmp_path / "copy", key, "--at", root)
    assert "deleted" in said("rm", key, "--yes", "--at", root)
    assert not (root / key).exists()
    assert (tmp_path / "copy" / key / "entry.json").exists()
    with pytest.raises(InputError, match="There is no store"):
        said("ls", "--at", tmp_path / "nowhere")


def test_what_is_deleted_is_what_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store("~/store")
    key, other = trained(store), trained(store, seed=2)
    store.place.write(f"{key}/network.safetensors.damaged-1", bytes(2_000_000))
    one = f"1 damaged file of {key} (network, 2,000 KB)\n2.0 MB"
    assert said("rm", "--damaged", "--at=~/store") == f"would delete {one}; give --yes to delete them.\n"
    assert said("rm", "--damaged", "--yes", "--at=~/store") == f"deleted {one}.\n"
    assert store.entry(CONFIG) is not None
    assert said("export", "~/copy", key, key[:8], "--at=~/store").startswith("1 copied")
    assert (tmp_path / "copy" / key / "entry.json").exists()
    assert said("rm", other, other[:8], "--yes", "--at=~/store").count("deleted") == 1
    with pytest.raises(InputError, match="Say what to delete"):
        said("rm", "--at=~/store")
