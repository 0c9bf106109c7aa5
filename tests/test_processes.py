"""Processes killed at random moments, and several that share a store: what they leave is right, bit for bit.

Five kills here; `make stress` sets KDREPRO_KILLS to many more.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import working_processes as working

from kdrepro.store import Store
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.verdicts import records

KILLS = int(os.environ.get("KDREPRO_KILLS", "5"))
STORED = {"network.safetensors", "entry.json", "checkpoint.safetensors", "arrays.npz", "arrays.json", "lease.json"}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(scope="module")
def worked(tmp_path_factory) -> tuple[Path, int]:
    """What `working_processes.py` leaves, and the number of seeds that it prints, and nothing of a damaged file."""
    root = tmp_path_factory.mktemp("worked")
    command = [sys.executable, working.__file__, str(root), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stderr) == (0, "")
    return root, int(done.stdout)


def outcome(root: Path, seeds: int) -> dict[str, bytes]:
    """The networks, arrays and predictions of these seeds, after a look at whether each file is what it says."""
    store, found = Store(root / "store", warn=pytest.fail), {}
    for seed in range(seeds):
        folder = store.folder(working.config(seed))
        entry, network = store.entry(working.config(seed)), (folder / "network.safetensors").read_bytes()
        assert hashlib.sha256(network).hexdigest() == entry["sha256"]
        assert [row["epoch"] for row in entry["history"]] == list(range(1, working.EPOCHS + 1))
        loaded = store.train_or_load(working.config(seed), pytest.fail)
        arrays = store.compute_or_load(working.scores(seed), pytest.fail)
        assert np.array_equal(working.logits(loaded), arrays["logits"])
        assert records.read(root / "results" / f"{seed}.json")["chapter"] == str(seed)
        predictions = (root / "results" / f"{seed}.npz").read_bytes()
        with np.load(io.BytesIO(predictions), allow_pickle=False) as arrays_of_record:
            assert np.array_equal(arrays_of_record["logits"], arrays["logits"])
        found |= {f"{seed} network": network, f"{seed} predictions": predictions}
        found[f"{seed} arrays"] = (store.folder(working.scores(seed)) / "arrays.npz").read_bytes()
    return found


def check_every_file(root: Path) -> None:
    """Whatever has the name of a whole file is one, and the rest is called a part."""
    for path in (p for p in root.rglob("*") if p.is_file()):
        if re.fullmatch(r"\..+\.part", path.name):
            continue  # nobody ever looks at it
        if path.parent.parent.name == "store":
            assert path.name in STORED
        if path.name == "checkpoint.safetensors":
            assert Checkpoint(path, warn=pytest.fail).load() is not None
        elif path.suffix == ".json":
            assert isinstance(json.loads(path.read_bytes()), dict)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert arrays["logits"].shape == (working.CASES, 3)


@pytest.mark.slow
def test_killed_at_random_moments_they_end_bit_for_bit_the_same(worked):
    root, seeds = worked
    check_every_file(root / "killed")
    assert outcome(root / "killed", seeds) == outcome(root / "alone", seeds)


@pytest.mark.slow
def test_several_at_once_end_as_one_alone(worked):
    root, _ = worked
    seeds = {seed for order in working.SEVERAL for seed in order}
    check_every_file(root / "several")
    assert outcome(root / "several", len(seeds)) == outcome(root / "alone", len(seeds))
    left = [path for path in (root / "several").rglob("*") if path.is_file()]
    assert not [path.name for path in left if path.name.endswith(".part")]
    assert {path.parent for path in left} == {root / "several" / "results"} | {
        Store(root / "several" / "store").folder(config(seed))
        for seed in seeds
        for config in (working.config, working.scores)
    }


# --- the moments at which one is in the other's way, one by one -----------------------------------


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", warn=pytest.fail)


def shifted(network, checkpoint):
    """A training whose outcome cannot be mistaken for another's."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)


def test_the_first_to_finish_keeps_its_network(store):
    """As on a GPU, where two trainings of one configuration differ: both runs go on with the same network."""
    config, theirs = working.config(0), []

    def overtaken(network, checkpoint):
        theirs.append(store.train_or_load(config, working.train_with(0)))
        shifted(network, checkpoint)

    ours = store.train_or_load(config, overtaken)
    assert np.array_equal(working.logits(ours), working.logits(theirs[0]))
    assert np.array_equal(working.logits(store.train_or_load(config, pytest.fail)), working.logits(ours))
    assert sorted(path.name for path in store.folder(config).iterdir()) == ["entry.json", "network.safetensors"]


def test_the_first_of_several_to_finish_keeps_its_network(store):
    configs, theirs = [working.config(seed) for seed in (0, 1)], []

    def overtaken(missing):
        theirs.append(store.train_or_load(configs[1], working.train_with(1)))
        for n, (network, checkpoint) in enumerate(zip(missing.networks, missing.checkpoints, strict=True)):
            shifted(network, checkpoint)
            missing.finished(n)

    (first, second), trained = store.train_or_load_many(configs, overtaken)
    assert trained == [0, 1]
    assert np.array_equal(working.logits(second), working.logits(theirs[0]))
    assert {p.unique().item() for p in first.parameters()} == {7}


def test_a_checkpoint_that_is_removed_by_the_one_that_finished(store):
    """The other run has finished while this one still trains, and saves on."""
    config = working.config(0)

    def overtaken(network, checkpoint):
        def other(row):
            if row["epoch"] == 3:
                store.train_or_load(config, working.train_with(0))

        inputs, labels = working.cases()
        batches = working.training.Batches(inputs, labels, batch_size=20)
        recipe = working.training.Recipe(epochs=working.EPOCHS, learning_rate=0.05, precision="fp32")
        working.training.fit(
            network, batches, working.training.hard_targets, recipe, seed=0, checkpoint=checkpoint, progress=other
        )

    network = store.train_or_load(config, overtaken)
    alone = Store(store.root.parent / "alone").train_or_load(config, working.train_with(0))
    assert np.array_equal(working.logits(network), working.logits(alone))
    assert not list(store.root.rglob("checkpoint*"))


def test_the_first_to_finish_keeps_its_arrays(store):
    def overtaken():
        store.compute_or_load({"a": 1}, lambda: {"x": np.zeros(3)})
        return {"x": np.ones(3)}

    assert store.compute_or_load({"a": 1}, overtaken)["x"].tolist() == [0, 0, 0]
    assert store.compute_or_load({"a": 1}, pytest.fail)["x"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["network.safetensors", "entry.json", "checkpoint.safetensors", "arrays.npz"])
def test_a_damaged_file_that_another_run_sets_aside_first(store, name, monkeypatch):
    config, real = working.config(0), os.replace
    store.train_or_load(config, working.train_with(0))
    store.compute_or_load(config, lambda: {"logits": np.zeros(3)})
    path = store.folder(config) / name
    path.write_bytes(b"damaged")

    def faster(source, target):
        if Path(source) == path:
            real(source, path.with_name("theirs"))
        return real(source, target)

    monkeypatch.setattr(os, "replace", faster)
    if name.startswith("checkpoint"):
        assert Checkpoint(path, warn=pytest.fail).load() is None
    elif name.startswith("arrays"):
        assert store.compute_or_load(config, lambda: {"logits": np.ones(3)})["logits"].tolist() == [1, 1, 1]
    else:
        store.train_or_load(config, working.train_with(0))
        assert store.entry(config) is not None
    assert (path.parent / "theirs").read_bytes() == b"damaged"
