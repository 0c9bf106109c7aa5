"""Train or load, damaged files, and a process killed in the middle of a training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdrepro import training
from kdrepro.errors import InputError
from kdrepro.networks import MLP
from kdrepro.store import Store, entries
from kdrepro.training import Batches, Recipe, objectives

CONFIG = {"network": {"widths": [64, 8, 10]}, "seed": 3, "data": "digits"}
RECIPE = Recipe(epochs=2, batch_size=64, learning_rate=1e-2, precision="fp32")


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


class Trainer:
    """Counts how often it was asked to train."""

    def __init__(self, digits):
        self.digits, self.calls = digits, 0

    def __call__(self, network, checkpoint):
        self.calls += 1
        batches = Batches(self.digits.train_images, self.digits.train_labels, batch_size=64)
        training.fit(network, batches, training.hard_targets, RECIPE, checkpoint=checkpoint)


@pytest.fixture
def trainer(digits):
    return Trainer(digits)


def test_trains_once_then_loads(tmp_path, trainer):
    first = Store(tmp_path).train_or_load(CONFIG, trainer)
    second = Store(tmp_path).train_or_load(CONFIG, trainer)
    assert trainer.calls == 1
    assert torch.equal(weights(first), weights(second))
    assert not second.training
    entry = Store(tmp_path).entry(CONFIG)
    assert [row["epoch"] for row in entry["history"]] == [1, 2]
    assert not list(tmp_path.rglob("checkpoint*"))


def test_another_configuration_is_another_network(tmp_path, trainer):
    store = Store(tmp_path)
    store.train_or_load(CONFIG, trainer)
    store.train_or_load({**CONFIG, "seed": 4}, trainer)
    assert trainer.calls == 2


def test_recipe_version_is_part_of_the_key(tmp_path, monkeypatch):
    before = Store(tmp_path).key(CONFIG)
    monkeypatch.setattr(entries, "RECIPE_VERSION", entries.RECIPE_VERSION + 1)
    assert Store(tmp_path).key(CONFIG) != before


@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)
    ),
    st.randoms(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_key_does_not_depend_on_the_order_of_the_configuration(tmp_path, config, random):
    shuffled = list(config.items())
    random.shuffle(shuffled)
    assert Store(tmp_path).key(config) == Store(tmp_path).key(dict(shuffled))


@pytest.mark.parametrize("name", ["network.safetensors", "entry.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_file_is_named_set_aside_and_retrained(tmp_path, trainer, name, damage):
    warnings = []
    store = Store(tmp_path, warn=warnings.append)
    first = store.train_or_load(CONFIG, trainer)
    path = tmp_path / store.key(CONFIG) / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2 if name.startswith("network") else 0] ^= 0xFF
    path.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(damage, len(content))])
    again = store.train_or_load(CONFIG, trainer)
    assert trainer.calls == 2
    assert torch.equal(weights(first), weights(again))
    assert len(warnings) == 1
    assert name in warnings[0]
    assert "damaged" in warnings[0]
    assert list(path.parent.glob(f"{name}.damaged-*"))
    assert store.train_or_load(CONFIG, trainer) is not None
    assert trainer.calls == 2


@pytest.mark.parametrize("other", [[64, 9, 10], [64, 8, 8, 10]])
def test_a_network_of_other_layers_is_no_damage(tmp_path, trainer, other):
    """It is today's code that builds another network: what was trained stays."""
    store = Store(tmp_path, warn=pytest.fail)
    store.train_or_load(CONFIG, trainer)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(InputError, match="other layers than what is built for its configuration") as caught:
        store.train_or_load(CONFIG, pytest.fail, build=lambda config: MLP(other))
    assert "\\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    store.train_or_load(CONFIG, pytest.fail)


def test_store_that_cannot_be_written_is_one_sentence(tmp_path, trainer):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="Cannot write to the store"):
        Store(tmp_path / "file").train_or_load(CONFIG, trainer)


# --- several at once ------------------------------------------------------------------------------


class ManyTrainer(Trainer):
    """Notes which positions it was asked to train."""

    asked: list[list[int]]

    def __init__(self, digits):
        super().__init__(digits)
        self.asked = []

    def many(self, missing):
        self.asked.append(missing.positions)
        for n, (network, checkpoint) in enumerate(zip(missing.networks, missing.checkpoints, strict=True)):
            self(network, checkpoint)
            missing.finished(n)


def of_seeds(*seeds):
    return [{**CONFIG, "seed": seed} for seed in seeds]


def test_what_is_missing_is_trained_in_one_call(tmp_path, digits):
    trainer, store = ManyTrainer(digits), Store(tmp_path)
    three = store.train_or_load({**CONFIG, "seed": 3}, trainer)
    networks, trained = store.train_or_load_many(of_seeds(2, 3, 4), trainer.many)
    assert trainer.asked == [trained] == [[0, 2]]
    assert trainer.calls == 3
    assert torch.equal(weights(networks[1]), weights(three))
    assert len({weights(net).sum().item() for net in networks}) == 3
    assert not any(net.training for net in networks)
    assert not list(tmp_path.rglob("checkpoint*"))

    again, trained = store.train_or_load_many(of_seeds(4, 2), trainer.many)
    assert (trained, trainer.asked) == ([], [[0, 2]])
    assert torch.equal(weights(again[0]), weights(networks[2]))
    assert torch.equal(weights(again[1]), weights(networks[0]))


def test_many_and_one_find_each_other(tmp_path, digits):
    trainer, store = ManyTrainer(digits), Store(tmp_path)
    (together,), _ = store.train_or_load_many(of_seeds(3), trainer.many)
    assert torch.equal(weights(together), weights(store.train_or_load(CONFIG, trainer)))
    assert trainer.calls == 1
    assert [row["epoch"] for row in store.entry(CONFIG)["history"]] == [1, 2]
    assert store.train_or_load_many([], trainer.many) == ([], [])


def test_a_damaged_one_of_many_alone_is_retrained(tmp_path, digits):
    warnings, trainer = [], ManyTrainer(digits)
    store = Store(tmp_path, warn=warnings.append)
    first, _ = store.train_or_load_many(of_seeds(0, 1, 2), trainer.many)
    (tmp_path / store.key(of_seeds(1)[0]) / "network.safetensors").write_bytes(b"x" * 100)
    again, trained = store.train_or_load_many(of_seeds(0, 1, 2), trainer.many)
    assert trained == [1]
    assert len(warnings) == 1
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(first, again, strict=True))


def test_a_configuration_that_comes_twice_is_one_network(tmp_path, digits):
    trainer, store = ManyTrainer(digits), Store(tmp_path)
    networks, trained = store.train_or_load_many(of_seeds(2, 3, 2), trainer.many)
    assert trainer.asked == [trained] == [[0, 1]]
    assert networks[0] is networks[2]
    assert trainer.calls == 2


def test_what_has_finished_before_another_fails_is_kept(tmp_path, digits):
    trainer, store = ManyTrainer(digits), Store(tmp_path)

    def failing(missing):
        trainer(missing.networks[1], missing.checkpoints[1])
        missing.finished(1)
        raise InputError("The training loss is nan.")

    with pytest.raises(InputError):
        store.train_or_load_many(of_seeds(0, 1), failing)
    store.train_or_load_many(of_seeds(0, 1), trainer.many)
    assert trainer.asked == [[0]]


def test_many_that_were_interrupted_go_on(tmp_path, digits, monkeypatch):
    """The first has finished and is not saved yet, the second not begun."""
    trainer, store = ManyTrainer(digits), Store(tmp_path)

    def stopping(missing):
        trainer(missing.networks[0], missing.checkpoints[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.train_or_load_many(of_seeds(0, 1), stopping)
    assert len(list(tmp_path.rglob("checkpoint*"))) == 1
    steps = []
    real = objectives.cross_entropy
    monkeypatch.setattr(objectives, "cross_entropy", lambda *of, **also: steps.append(1) or real(*of, **also))
    networks, trained = store.train_or_load_many(of_seeds(0, 1), trainer.many)
    assert trained == [0, 1]
    assert len(steps) == 2 * 21  # the second's
    monkeypatch.undo()
    alone, _ = Store(tmp_path / "alone").train_or_load_many(of_seeds(0, 1), trainer.many)
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(networks, alone, strict=True))


def test_without_checkpoints_networks_and_histories_are_the_same_and_no_state_is_kept(tmp_path, digits):
    trainer, kept, found = ManyTrainer(digits), [], {}
    for checkpoints in (True, False):
        store = Store(tmp_path / str(checkpoints), checkpoints=checkpoints)

        def train(missing, store=store):
            trainer(missing.networks[0], missing.checkpoints[0])
            kept.append(len(list(store.root.rglob("checkpoint*"))))
            missing.finished(0)

        (network,), _ = store.train_or_load_many([CONFIG], train)
        found[checkpoints] = weights(network), [row["loss"] for row in store.entry(CONFIG)["history"]]
    assert kept == [1, 0]
    assert torch.equal(found[True][0], found[False][0])
    assert found[True][1] == found[False][1]
    assert len(found[False][1]) == 2


# --- arrays ---------------------------------------------------------------------------------------

ARRAYS = {"a": np.arange(600).reshape(20, 30), "b": np.array(0.5), "c": np.zeros((0, 3), np.uint8)}


class Computer:
    """Counts how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {**ARRAYS, "a": ARRAYS["a"].tolist()}


def same(found):
    return found.keys() == ARRAYS.keys() and all(np.array_equal(found[k], ARRAYS[k]) for k in ARRAYS)


def test_computes_once_then_loads(tmp_path):
    compute = Computer()
    for _ in range(3):
        assert same(Store(tmp_path).compute_or_load({"score": "x"}, compute))
    assert compute.calls == 1
    Store(tmp_path).compute_or_load({"score": "y"}, compute)
    assert compute.calls == 2


@given(st.integers(0, 2**32 - 1), st.sampled_from(["cut", "flipped", "empty", "garbage"]))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_arrays_are_set_aside_and_computed_again(tmp_path, place, damage):
    warnings, compute = [], Computer()
    store = Store(tmp_path / f"{place}-{damage}", warn=warnings.append)
    store.compute_or_load({"score": "x"}, compute)
    path = store.folder({"score": "x"}) / "arrays.npz"
    content = bytearray(path.read_bytes())
    place %= len(content)
    if damage == "flipped":
        content[place] ^= 1 << place % 8
    path.write_bytes({"cut": content[:place], "empty": b"", "garbage": b"\x07" * place}.get(damage, content))
    # Whatever was hit, what comes back is right: read, where the damage is in nobody's way, or computed again.
    assert same(store.compute_or_load({"score": "x"}, compute))
    if compute.calls == 2:
        assert len(warnings) == 1
        assert "arrays.npz is damaged" in warnings[0]
        assert list(path.parent.glob("arrays.npz.damaged-*"))
    else:
        assert damage == "flipped"
    assert same(store.compute_or_load({"score": "x"}, compute))
    assert compute.calls <= 2


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("a", np.array([1, None]), "'a' holds Python's objects"),
        ("a", np.zeros(2, [("x", object)]), "'a' holds Python's objects"),
        ("file", np.arange(3), "as 'file'"),
        ("allow_pickle", np.arange(3), "as 'allow_pickle'"),
    ],
)
def test_arrays_that_could_not_be_read_back(tmp_path, name, array, said):
    with pytest.raises(InputError, match=said):
        Store(tmp_path).compute_or_load({"score": "x"}, lambda: {name: array})
    assert list(tmp_path.iterdir()) == []


def test_arrays_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="Cannot write to the store"):
        Store(tmp_path / "file").compute_or_load({"score": "x"}, Computer())


CHAPTER_2 = """
import json, sys
from kdrepro import chapters
run = chapters.start("02-mnist", preset="smoke", seeds=1)
teacher = run.train(run.sizes.teacher, 0)
student = run.train(run.sizes.distilled, 0, teacher)
run.claim("mnist.distilled", [student], errors=run.errors([student]))
run.publish_predictions("distilled", [student])
print(run.finish())
"""


def start(runs: Path) -> subprocess.Popen:
    environment = {**os.environ, "KDREPRO_RUNS": str(runs)}
    return subprocess.Popen([sys.executable, "-c", CHAPTER_2], env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_record(tmp_path):
    """kill -9 in the middle of a training of chapter 2's nets, twice; the record ends the same.

    `test_processes` kills smaller ones.
    """
    left_alone, killed = tmp_path / "left-alone", tmp_path / "killed"
    assert start(left_alone).wait(300) == 0
    for wanted in (1, 2):  # networks that have begun
        process = start(killed)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            begun = {p.parent for p in (killed / "smoke" / "store").glob("*/*.safetensors")}
            if len(begun) >= wanted and list((killed / "smoke" / "store").glob("*/checkpoint.safetensors")):
                break
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "smoke" / "results").exists()
    assert start(killed).wait(300) == 0

    a, b = (json.loads((r / "smoke" / "results" / "02-mnist.json").read_text()) for r in (left_alone, killed))
    assert a["claims"]["mnist.distilled"]["metrics"] == b["claims"]["mnist.distilled"]["metrics"]
    assert a["data"] == b["data"]
    networks = [
        sorted((p.parent.name, p.read_bytes()) for p in (r / "smoke" / "store").glob("*/network.safetensors"))
        for r in (left_alone, killed)
    ]
    assert len(networks[0]) == 2
    assert networks[0] == networks[1]
    logs = (killed / "smoke" / "logs" / "02-mnist.log").read_text()
    assert "loaded" in logs
