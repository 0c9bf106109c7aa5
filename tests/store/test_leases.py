"""Of several runs one trains a network: leases that are renewed, that end, and that a dead process loses at once."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kdrepro.store import Store, entries, leases
from kdrepro.store.leases import LEASE, Leases

KEY = "0123456789abcdef"


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def of(place, owner, clock, expires=60.0):
    return Leases(place, owner, expires, clock)


def elsewhere(place):
    """As if the lease were of another machine, of whose processes nobody here knows."""
    about = json.loads(place.read(f"{KEY}/{LEASE}"))
    place.write(f"{KEY}/{LEASE}", json.dumps(about | {"machine": "another"}).encode())


def test_one_of_two_gets_it_and_the_other_when_it_is_given_back(place, clock):
    with of(place, "a", clock) as a, of(place, "b", clock) as b:
        assert a.take(KEY)
        assert not b.take(KEY)
        assert b.holder(KEY) == "a"
        a.release(KEY)
        assert b.take(KEY)
    assert place.read(f"{KEY}/{LEASE}") is None


def test_the_same_owner_takes_it_back_wherever_it_is_tried_again(place, clock):
    with of(place, "task 7", clock) as first, of(place, "task 7", clock) as second:
        assert first.take(KEY)
        elsewhere(place)
        assert second.take(KEY)


def test_a_lease_that_nobody_renews_ends(place, clock):
    a, b = of(place, "a", clock), of(place, "b", clock)
    assert a.take(KEY)
    elsewhere(place)
    assert not b.take(KEY)
    clock.now = 59
    assert not b.take(KEY)
    a.renew()
    elsewhere(place)
    clock.now = 100
    assert not b.take(KEY)  # seen anew at 100
    clock.now = 159
    assert not b.take(KEY)
    clock.now = 161
    assert b.take(KEY)
    assert b.holder(KEY) == "b"


def test_a_process_of_this_machine_that_has_died_loses_it_at_once(place, clock):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    a, b = of(place, "a", clock), of(place, "b", clock)
    assert a.take(KEY)
    about = json.loads(place.read(f"{KEY}/{LEASE}"))
    assert about["process"] == os.getpid()
    place.write(f"{KEY}/{LEASE}", json.dumps(about | {"process": dead.pid}).encode())
    assert b.take(KEY)


def test_a_damaged_lease_ends_too(place, clock):
    place.write(f"{KEY}/{LEASE}", b"\x00 no json")
    b = of(place, "b", clock)
    assert not b.take(KEY)
    clock.now = 61
    assert b.take(KEY)


def test_leases_are_renewed_while_a_training_lasts(tmp_path):
    store, seen = Store(tmp_path, expires=0.2), set()

    def train(network, checkpoint):
        path = tmp_path / store.key(config(0)) / LEASE
        for _ in range(200):
            seen.add(json.loads(path.read_bytes())["renewed"])
            if len(seen) > 2:
                return
            threading.Event().wait(0.05)

    store.train_or_load(config(0), train)
    assert len(seen) > 2
    assert not list(tmp_path.rglob(LEASE))


def config(seed):
    return {"network": {"widths": [3, 2]}, "seed": seed}


def test_two_runs_at_once_train_nothing_twice(address):
    """In opposite orders, whose networks one by one take a moment: each is trained by one of them, both have all."""
    trained, lock, start = [], threading.Lock(), threading.Barrier(2)

    def run(name):
        seeds, store, found = list(range(6)) if name == "a" else list(range(5, -1, -1)), Store(address, owner=name), {}

        def train_many(missing):
            for n, network in enumerate(missing.networks):
                threading.Event().wait(0.02)
                with torch.no_grad():
                    network.output.bias.fill_(ord(name))
                with lock:
                    trained.append(pair[missing.positions[n]])
                missing.finished(n)

        start.wait(60)
        for pair in (seeds[:2], seeds[2:4], seeds[4:]):
            networks, _ = store.train_or_load_many([config(seed) for seed in pair], train_many)
            found |= {seed: net.output.bias.tolist() for seed, net in zip(pair, networks, strict=True)}
        return found

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(run, "ab")
    assert sorted(trained) == list(range(6))
    assert a == b
    place = Store(address).place
    assert {name for key in list(place.keys()) for name in place.sizes(key)} == {"network.safetensors", "entry.json"}


def test_what_another_run_does_not_finish_is_trained_when_its_lease_ends(tmp_path, monkeypatch):
    """And a sentence says who is waited for."""
    monkeypatch.setattr(entries, "TOLD_FROM", 0.0)
    said, store = [], Store(tmp_path, expires=0.3)
    store.warn = said.append
    gone = Leases(store.place, "a run that is gone")
    assert gone.take(store.key(config(0)))
    gone._closed.set()  # it renews no more
    path = tmp_path / store.key(config(0)) / LEASE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "another"}))
    store.owner = "this run"
    _, trained = store.train_or_load_many([config(0)], lambda missing: missing.finished(0))
    assert trained == [0]
    assert said == ["Waiting for 1 of the networks, which a run that is gone trains."]


def test_processes_are_owners_of_their_own():
    assert str(os.getpid()) in leases.this_process()
