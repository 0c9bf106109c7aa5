"""A folder, memory and an S3 do the same for a store, whatever happens at once and whenever a process dies."""

import itertools
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import working_processes as working
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdrepro.errors import InputError
from kdrepro.store import Store, entries, leases, places
from kdrepro.store.places import Bucket, Folder, PlacedCheckpoint

NAMES = st.sampled_from(["a/one", "a/two", "b/one"])
CONTENT = st.binary(max_size=40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMES, CONTENT),
        st.tuples(st.just("create"), NAMES, CONTENT),
        st.tuples(st.just("remove"), NAMES, st.just(b"")),
        st.tuples(st.just("set_aside"), NAMES, st.just(b"")),
    ),
    max_size=10,
)


def asked(place, step, name, content):
    """What a place answers, and what a dict of files would, which it is changed to."""
    return getattr(place, step)(*((name, content) if step in ("write", "create") else (name,)))


def expected(files, step, name, content):
    there = name in files
    if step == "write" or (step == "create" and not there):
        files[name] = content
    if step in ("remove", "set_aside") and there:
        removed = files.pop(name)
        if step == "set_aside":
            n = next(n for n in itertools.count(1) if f"{name}.damaged-{n}" not in files)
            files[f"{name}.damaged-{n}"] = removed
            return f"{name}.damaged-{n}".partition("/")[2]
    return not there if step == "create" else None


@given(STEPS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["folder", "memory", "s3"])
def test_a_place_holds_what_a_dict_would(address_of, kind, steps):
    place, files = places.place(address_of(kind)), {}
    for step in steps:
        assert asked(place, *step) == expected(files, *step)
    assert {name: place.read(name) for name in files} == files
    assert place.read("a/never") is None
    assert place.read_all([*files, "a/never"]) == files
    for key in {name.partition("/")[0] for name in files}:
        inside = {name.partition("/")[2]: len(content) for name, content in files.items() if name.startswith(key)}
        assert place.sizes(key) == inside
        assert key in list(place.keys())
    assert place.sizes("never") == {}


def test_of_several_that_create_a_file_at_once_one_is_told_so(place):
    start, contents = threading.Barrier(6), [bytes([65 + i]) * 50_000 for i in range(6)]

    def create(content):
        start.wait()
        return place.create("a/file", content)

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(create, contents))
    assert told.count(True) == 1
    assert place.read("a/file") == contents[told.index(True)]


def test_a_folder_without_hard_links_replaces_whole_files_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(places.os, "link", refuse)
    folder = Folder(tmp_path)
    assert folder.create("a/file", b"first")
    assert not folder.create("a/file", b"second")
    assert folder.read("a/file") == b"first"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_a_lost_answer_of_a_network_drive_is_not_taken_for_anothers_file(tmp_path, monkeypatch):
    """The server has linked, the answer was lost, and the second question finds the name taken, by itself."""
    real = places.os.link

    def twice(*names):
        real(*names)
        real(*names)

    monkeypatch.setattr(places.os, "link", twice)
    assert Folder(tmp_path).create("a/file", b"mine")


def test_addresses_that_are_none_are_one_sentence(tmp_path):
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match="no kind of address that fsspec knows"):
        Store("nonsense://x/y")
    store = Store("memory://somewhere")
    with pytest.raises(InputError, match="give it `folders`"):
        store.folder({"a": 1})
    assert Store("memory://somewhere", folders=tmp_path).folder({"a": 1}).parent == tmp_path


@pytest.mark.parametrize("ask", ["keys", "sizes", "read_all"])
def test_storage_that_does_not_answer_is_one_sentence(monkeypatch, ask):
    pytest.importorskip("fsspec")
    bucket = places.place("memory://nobody/store")

    def refuse(*_, **__):
        raise RuntimeError("Access Denied")

    for name in ("ls", "cat"):
        monkeypatch.setattr(bucket.files, name, refuse)
    with pytest.raises(InputError, match=r"memory://nobody/store cannot be read \(RuntimeError: Access Denied\)"):
        list(
            {"keys": bucket.keys, "sizes": lambda: bucket.sizes("a"), "read_all": lambda: bucket.read_all(["a/b"])}[
                ask
            ]()
        )


def test_a_store_goes_to_another_process_as_its_address(address):
    store = pickle.loads(pickle.dumps(Store(address, owner="somebody")))
    assert (store.root, store.owner) == (address, "somebody")
    store.place.write("a/file", b"x")
    assert places.place(address).read("a/file") == b"x"


def test_a_checkpoint_at_an_address_is_sent_now_and_then_only(place):
    if isinstance(place, Folder):
        pytest.skip("a folder takes every state")
    checkpoint = PlacedCheckpoint(place, "a/checkpoint.safetensors", pytest.fail, seconds=1000)
    for epoch in (1, 2):
        checkpoint.save({"w": torch.ones(2)}, {"epoch": epoch})
    assert checkpoint.load()[1] == {"epoch": 1}
    later = PlacedCheckpoint(place, "a/checkpoint.safetensors", pytest.fail, seconds=0)
    for epoch in (3, 4):
        later.save({"w": torch.ones(2)}, {"epoch": epoch})
    assert checkpoint.load()[1] == {"epoch": 4}
    checkpoint.remove()
    assert later.load() is None


def test_a_damaged_checkpoint_at_an_address_is_set_aside(place):
    warnings = []
    place.write("a/checkpoint.safetensors", b"damaged")
    assert place.checkpoint("a/checkpoint.safetensors", warnings.append).load() is None
    assert "checkpoint.safetensors.damaged-1" in warnings[0]
    assert place.read("a/checkpoint.safetensors") is None


# --- a store at each of them ----------------------------------------------------------------------

CONFIG = {"network": {"widths": [3, 2]}, "seed": 1}
WHOLE = {"network.safetensors", "entry.json"}


def filled(value):
    """A training of which everybody sees whose it was; it saves its state half-way."""

    def train(network, checkpoint):
        checkpoint.history = [{"epoch": 1, "seconds": float(value)}]
        checkpoint.save({"half": torch.tensor(float(value))}, {"epoch": 0})
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)

    return train


def value_of(network):
    (value,) = {p.unique().item() for p in network.parameters()}
    return value


class Killed(BaseException):
    """As by kill -9: nothing is tidied up."""


class Dying:
    """A place that a process works with until it is killed, before its operation of this number or within it."""

    def __init__(self, place, after):
        self.place, self.left = place, after

    def __getattr__(self, name):
        def operation(*arguments):
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return getattr(self.place, name)(*arguments)

        real = getattr(self.place, name)
        return operation if callable(real) and name not in ("checkpoint", "check", "tidy") else real


def check_whole(store):
    """Whatever is there is what it says, and another run gets it without training."""
    assert value_of(store.train_or_load(CONFIG, pytest.fail)) == store.entry(CONFIG)["history"][0]["seconds"]
    there = store.place.sizes(store.key(CONFIG)).keys()
    # A run that is killed when all but tidying up is done leaves these.
    assert WHOLE <= there <= {*WHOLE, "checkpoint.safetensors", "lease.json"}


def test_killed_before_any_of_its_operations_a_run_leaves_what_the_next_goes_on_with(address_of, monkeypatch):
    """On each kind of place, at each operation: the next run ends with one network, its history beside it."""
    monkeypatch.setattr(entries, "PATIENCE", 0.02)
    for kind in ("folder", "memory", "s3"):
        for after in itertools.count(0, 3 if kind == "s3" else 1):
            address, warn = address_of(kind), pytest.fail
            killed = Store(address, warn, owner="killed", expires=3600)
            killed.place = Dying(killed.place, after)
            try:
                killed.train_or_load(CONFIG, filled(1))
                done = True
            except Killed:
                done = False
            # Its own task, tried again elsewhere: it takes its lease back, whoever held it in its name.
            again = Store(address, warn, owner="killed", expires=3600)
            found = again.train_or_load(CONFIG, filled(2))
            assert value_of(found) in (1, 2)
            check_whole(again)
            if done:
                break
        assert after > 8


def test_two_that_finish_at_once_end_with_one_network(address, monkeypatch):
    """Leases fail them both (they have expired): whoever's entry is first keeps its network, on both sides."""
    monkeypatch.setattr(entries, "PATIENCE", 0.5)
    monkeypatch.setattr(leases, "RENEWALS", 1e-8)  # none: what is renewed without a pause may never be got hold of
    memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem
    one_at_a_time, pipe_file = threading.RLock(), memory.pipe_file

    def refusing(self, *said, **also):  # as an S3 does: fsspec's memory looks and writes in two steps
        with one_at_a_time:
            return pipe_file(self, *said, **also)

    monkeypatch.setattr(memory, "pipe_file", refusing)
    meet = threading.Barrier(2)

    def run(value):
        def train(network, checkpoint):
            meet.wait(60)
            filled(value)(network, checkpoint)
            meet.wait(60)

        return value_of(Store(address, pytest.fail, owner=f"run {value}", expires=1e-6).train_or_load(CONFIG, train))

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(run, (1, 2))
    assert a == b
    check_whole(Store(address))


def test_arrays_are_computed_once_wherever_they_lie(address):
    for value in (1.0, 2.0):
        found = Store(address, pytest.fail, folders="x").compute_or_load({"a": 1}, lambda v=value: {"x": np.full(3, v)})
        assert found["x"].tolist() == [1.0, 1.0, 1.0]


def test_a_damaged_network_is_set_aside_and_trained_again(address):
    warnings = []
    store = Store(address, warnings.append)
    store.train_or_load(CONFIG, filled(1))
    store.place.write(f"{store.key(CONFIG)}/network.safetensors", b"damaged")
    assert value_of(store.train_or_load(CONFIG, filled(2))) == 2
    assert "network.safetensors is damaged" in warnings[0]
    store.place.remove(f"{store.key(CONFIG)}/network.safetensors.damaged-1")
    check_whole(store)


def test_an_entry_says_what_trained_its_network(address):
    store = Store(address)
    store.train_or_load(CONFIG, filled(1))
    made = store.entry(CONFIG)["made"]
    assert (made["device"], made["torch"], made["threads"]) == ("cpu", torch.__version__, torch.get_num_threads())
    assert {"kdrepro", "python", "date", "machine"} <= made.keys()


@pytest.mark.slow
def test_killed_at_random_moments_processes_leave_the_same_in_an_s3(s3, tmp_path):
    """`kill -9` in the middle of trainings whose store is an S3: what is there at the end is what one run leaves."""
    if not hasattr(working.os, "fork"):
        pytest.skip("this system cannot fork")
    address = s3()
    environment = {**working.os.environ, "WORKING_STORE": address}
    command = [sys.executable, working.__file__, str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    for seed in range(int(done.stdout)):
        alone, killed = (Store(f"{address}/{name}", pytest.fail) for name in ("alone", "killed"))
        networks = [store.train_or_load(working.config(seed), pytest.fail) for store in (alone, killed)]
        assert np.array_equal(*(working.logits(network) for network in networks))
    assert isinstance(alone.place, Bucket)
