"""What a run has made goes into archives that are small and never changed, and back into a run."""

import io
import json
import tarfile
import tempfile
from pathlib import Path

import archives
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.store import Store, upkeep


@pytest.fixture
def run():
    return paths.runs("full")


@pytest.fixture
def store():
    return Store(paths.store("full"))


def train(store, seed, hidden=3):
    """Put a network into a store; returns its key."""
    config = {"network": {"widths": [4, hidden, 2]}, "seed": seed}
    store.train_or_load(config, lambda network, checkpoint: None)
    return store.key(config)


def put(run, name, content):
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def record(seeds, keys=(), chapter="08-pitfalls"):
    entry = {"metrics": {"errors": [1.0] * len(seeds)}, "mean": {"errors": 1.0}, "ci95": {}, "verdict": "not run"}
    return {
        "chapter": chapter,
        "preset": "full",
        "data": {"name": "mnist"},
        "claims": {"pitfalls.scale": entry | {"nets": {"seed": 0, "keys": list(keys)}}},
        "provenance": {"config": {"seeds": list(seeds)}},
    }


def names(paths):
    return [file.name for path in paths for file in archives._files(path)]


def of(*keys):
    return [f"store/{key}/{name}" for key in keys for name in archives.NETWORK]


def test_only_what_is_new_is_packed_and_no_archive_is_changed(run, store, tmp_path):
    out = tmp_path / "out"
    both = ["run/results/08-pitfalls.json", "run/results/08-pitfalls.npz"]
    first, path = train(store, 0), put(run, "results/08-pitfalls.json", record([0]))
    put(run, "results/08-pitfalls.npz", b"predictions")
    put(run, "store/begun/checkpoint.safetensors", b"a state")
    put(run, "notebooks/.08-pitfalls.7.ipynb", b"half a notebook")
    assert names(archives.pack(run, store, out)) == [*both, *of(first)]
    assert archives.pack(run, store, out) == []
    second = train(store, 1)
    before = {path.name: path.read_bytes() for path in archives.archives(out)}
    assert names(archives.pack(run, store, out)) == of(second)
    path.write_text(json.dumps(record([1])))  # as long as the one before
    assert names(archives.pack(run, store, out)) == both
    assert [path.name for path in archives.archives(out)] == ["part-0.tar", "part-1.tar", "part-2.tar"]
    assert {path.name: path.read_bytes() for path in archives.archives(out)}.items() >= before.items()


def test_records_come_first_then_the_networks_of_claims_then_the_smallest(run, store, tmp_path):
    large, small, taught, claimed = (train(store, seed, hidden) for seed, hidden in enumerate([300, 5, 400, 500]))
    put(run, "claims/pitfalls.scale/results/08-pitfalls.json", record([0], [taught, claimed]))
    put(run, "confirm/pitfalls.scale/results/08-pitfalls.json", b"damaged")
    put(run, "notebooks/08-pitfalls.ipynb", {})
    put(run, "searches/02-mnist.levers.json", {"rows": []})
    packed = names(archives.pack(run, store, tmp_path / "out"))
    assert packed[4:] == of(claimed, taught, small, large)
    assert set(packed[:4]) == {
        "run/claims/pitfalls.scale/results/08-pitfalls.json",
        "run/confirm/pitfalls.scale/results/08-pitfalls.json",
        "run/notebooks/08-pitfalls.ipynb",
        "run/searches/02-mnist.levers.json",
    }


def test_logs_are_packed_with_others_or_at_last(run, store, tmp_path):
    put(run, "logs/parts/mnist.plain.log", b"begins")
    assert archives.pack(run, store, tmp_path) == []
    assert names(archives.pack(run, store, tmp_path, last=True)) == ["run/logs/parts/mnist.plain.log"]
    put(run, "logs/parts/mnist.plain.log", b"begins, and goes on")
    key = train(store, 0)
    assert names(archives.pack(run, store, tmp_path)) == [*of(key), "run/logs/parts/mnist.plain.log"]
    assert archives.pack(run, store, tmp_path, last=True) == []


@given(st.lists(st.integers(0, 60_000), max_size=30))
def test_archives_are_small_and_hold_all_that_fits(sizes):
    with tempfile.TemporaryDirectory() as name:
        run, out, most = Path(name) / "full", Path(name) / "out", 50_000
        for i, size in enumerate(sizes):
            put(run, f"notebooks/{i:02}.ipynb", bytes(size))
        found = archives.pack(run, Store(run / "store"), out, most)
        assert all(path.stat().st_size <= most for path in found)
        packed = names(found)
        assert sorted(set(packed)) == packed
        left_out = {size for i, size in enumerate(sizes) if f"run/notebooks/{i:02}.ipynb" not in packed}
        assert all(size > most - 15_000 for size in left_out)


def test_what_is_too_large_is_named_at_last(run, store, tmp_path, capsys):
    put(run, "notebooks/08-pitfalls.ipynb", bytes(60_000))
    assert archives.pack(run, store, tmp_path, most=50_000) == []
    assert capsys.readouterr().err == ""
    assert archives.pack(run, store, tmp_path, most=50_000, last=True) == []
    assert "run/notebooks/08-pitfalls.ipynb is larger than 0.05 MB" in capsys.readouterr().err


@pytest.fixture
def elsewhere(tmp_path):
    return tmp_path / "elsewhere" / "full", Store(tmp_path / "elsewhere" / "full" / "store")


def contents(run):
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_unpacked_it_is_what_it_was(run, store, elsewhere, tmp_path):
    key = train(store, 0)
    for base in ("", "claims/pitfalls.scale/", "confirm/pitfalls.scale/", "seeds-3/"):
        put(run, f"{base}results/08-pitfalls.json", record([0, 1], [key]))
        put(run, f"{base}results/08-pitfalls.npz", b"predictions")
        put(run, f"{base}notebooks/08-pitfalls.ipynb", {})
    put(run, "searches/02-mnist.levers.json", {"rows": [1]})
    put(run, "logs/parts/mnist.plain.log", b"begins")
    archives.pack(run, store, tmp_path / "out", last=True)
    expected = contents(run)
    expected["logs/out/parts/mnist.plain.log"] = expected.pop("logs/parts/mnist.plain.log")
    assert archives.unpack(tmp_path / "out", *elsewhere) == (1, [])
    assert contents(elsewhere[0]) == expected
    assert archives.unpack(tmp_path / "out", *elsewhere) == (0, [])
    assert contents(elsewhere[0]) == expected


def test_a_record_of_more_seeds_and_a_longer_search_stay(run, store, elsewhere, tmp_path):
    """A chapter's second data set has fewer seeds than its first, which count."""
    put(run, "results/05-specialists.json", record([0, 1], chapter="05-specialists"))
    put(run, "results/05-specialists.glyphs.json", record([0], chapter="05-specialists"))
    put(run, "notebooks/05-specialists.ipynb", {"of": "two seeds"})
    put(run, "notebooks/08-pitfalls.ipynb", {"of": "a run that failed"})
    for name in ("longer", "shorter"):
        put(run, f"searches/02-mnist.{name}.json", {"rows": [1, 2]})
    archives.pack(run, store, tmp_path / "out")
    there = elsewhere[0]
    kept = [
        put(there, "results/05-specialists.json", record([0, 1, 2], chapter="05-specialists")),
        put(there, "notebooks/05-specialists.ipynb", {"of": "three seeds"}),
        put(there, "notebooks/08-pitfalls.ipynb", {"of": "a run"}),
        put(there, "searches/02-mnist.longer.json", {"rows": [1, 2, 3]}),
    ]
    put(there, "searches/02-mnist.shorter.json", {"rows": [1]})
    before = [path.read_bytes() for path in kept]
    assert archives.unpack(tmp_path / "out", *elsewhere) == (0, [])
    assert [path.read_bytes() for path in kept] == before
    beside = there / "seeds-0-1"
    for name in ("results/05-specialists.json", "results/05-specialists.glyphs.json", "notebooks/05-specialists.ipynb"):
        assert (beside / name).read_bytes() == (run / name).read_bytes()
    assert json.loads((there / "searches" / "02-mnist.shorter.json").read_bytes())["rows"] == [1, 2]


def test_the_newest_of_several_archives_counts(run, store, elsewhere, tmp_path):
    for seeds in ([0], [0, 1], [0, 1, 2]):
        put(run, "results/08-pitfalls.json", record(seeds))
        archives.pack(run, store, tmp_path / "out")
    archives.unpack(tmp_path / "out", *elsewhere)
    assert json.loads((elsewhere[0] / "results" / "08-pitfalls.json").read_bytes()) == record([0, 1, 2])


def test_what_is_damaged_is_named_and_the_rest_is_put_back(run, store, elsewhere, tmp_path):
    damaged, whole = train(store, 0), train(store, 1)
    put(run, "results/08-pitfalls.json", b"{}")
    put(run, "results/05-specialists.json", record([0], chapter="05-specialists"))
    (run / "store" / damaged / "network.safetensors").write_bytes(b"no network")
    archives.pack(run, store, tmp_path / "out")
    copied, left = archives.unpack(tmp_path / "out", *elsewhere)
    assert copied == 1
    assert [item.key for item in upkeep.items(elsewhere[1])] == [whole]
    assert "08-pitfalls.json is not a run record" in left[0]
    assert left[1:] == [f"The network {damaged} is damaged in its archive."]
    assert (elsewhere[0] / "results" / "05-specialists.json").exists()


def test_what_is_no_archive_is_one_sentence(run, store, elsewhere, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="There is no part-0"):
        archives.unpack(out, *elsewhere)
    train(store, 0)
    (path,) = archives.pack(run, store, out)
    for content in (path.read_bytes()[:700], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="no whole archive"):
            archives.unpack(out, *elsewhere)


def test_an_archive_that_would_write_elsewhere_is_refused(elsewhere, tmp_path):
    with tarfile.open(tmp_path / "part-0.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../../outside"), io.BytesIO())
    with pytest.raises(InputError, match="no whole archive"):
        archives.unpack(tmp_path, *elsewhere)
