"""Every parser on bytes that nobody meant: only its own error comes out, and nothing damaged is believed."""

import contextlib
import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import long_textgrid, riff, short_textgrid, sphere

from kdrepro import data, paths
from kdrepro.chapters import presets
from kdrepro.data.arrays import read_idx
from kdrepro.data.image_cache import ImageRows, load_or_make
from kdrepro.errors import InputError
from kdrepro.speech import shards, time_files
from kdrepro.speech.audio import read_audio
from kdrepro.store import Store
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.verdicts import claims, records

FUZZ = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
# What has broken parsers before: bounds of integers, deep nesting, YAML's tags and anchors, signs of other formats.
SPLINTERS = [
    *(b"\x00", b"\xff" * 4, b"\xff" * 8, b"\x80\x00\x00\x00", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b'"'),
    *(b"-1", b"1e999", b"nan", b"NaN", b"Infinity", b"-Infinity", b"9" * 30, b"9" * 5000, b"0b_", b"0x_", b"1_:60"),
    *(b"null", b"[]", b"{}", b"[" * 2000, b"{" * 9, b'{"a":' * 2000, b"&a [*a]", b"*a", b"!!bool x", b"!!timestamp x"),
    *(b"!!python/object:os.system {}", b"2001-99-99", b"? [a]\n: b", b"=", b"<<: 1", b"\t", b"%", b"---\n", b": "),
]


@st.composite
def mutated(draw, valid: bytes) -> bytes:
    """A valid file with a few bytes changed, a piece put in or cut out, or its end gone."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(["byte", "splinter", "cut", "end"]))
        if how == "byte" and content:
            content[place % len(content)] = draw(st.integers(0, 255))
        elif how == "splinter":
            width = draw(st.integers(0, 8))
            content[place : place + width] = draw(st.sampled_from(SPLINTERS))
        elif how == "cut":
            del content[place : place + draw(st.integers(1, 40))]
        else:
            del content[place:]
    return bytes(content)


def anything(valid: bytes) -> st.SearchStrategy[bytes]:
    splinters = st.lists(st.sampled_from(SPLINTERS) | st.binary(max_size=8), max_size=6).map(b"".join)
    return mutated(valid) | splinters | st.binary(max_size=60)


PHN = b"0 100 h#\n100 400 sh\n400 900 h#\n"
LABELS = b"0.05\t0.1\ta\n\\\t120.0\t3000.0\n0.1\t0.2\tsil\n"
TIER = [(0, 0.1, ""), (0.1, 0.2, "a")]
TEXTGRID, SHORT_TEXTGRID = long_textgrid(phones=TIER).encode(), short_textgrid(phones=TIER).encode()
CSV = b"start,end,label\n0,0.1,sil\n0.1,0.2,a\n"
CLAIMS = b"""- id: a.b
  section: "3"
  chapter: 02-mnist
  statement: s
  paper: {errors: 74}
  metric: errors
  data: mnist
  rule:
    reproduced: [{metric: errors, stat: ci_high, at_most: 85}]
    partly: []
"""
RECORD = json.dumps(
    {
        "chapter": "02-mnist",
        "preset": "full",
        "data": {"name": "mnist", "fingerprint": "0"},
        "claims": {
            "mnist.distilled": {
                "metrics": {"errors": [70, 76]},
                "mean": {"errors": 73.0, "recovered": 0.9},
                "ci95": {"errors": [70.5, 75.5]},
                "verdict": "reproduced",
                "pooled": {"recovered": 0.9},
            }
        },
        "provenance": {"config": {"seeds": [0, 1]}},
    }
).encode()


MNIST = claims.get("mnist.distilled")


def shown(path: Path) -> None:
    """A record is read to be put in the verdict table."""
    claims.verdict_rows([MNIST], [records.read(path)])


def zip_of_text() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "n01\nn02\n")
        archive.writestr("tiny-imagenet-200/words.txt", "n01\tfish\n", zipfile.ZIP_STORED)
    return content.getvalue()


def npz() -> bytes:
    content, images = io.BytesIO(), np.zeros((2, 3, 3), np.uint8)
    np.savez(content, x_train=images, y_train=np.arange(2), x_test=images, y_test=np.arange(2))
    return content.getvalue()


PARSERS: dict[str, tuple[bytes, Callable[[Path], object], str]] = {
    "zip": (zip_of_text(), lambda path: data.tiny_imagenet_wnids(path.parent), "tiny-imagenet-200.zip"),
    "npz": (npz(), data.npz_images, "a.npz"),
    "idx": (b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03abcdef", read_idx, "a-idx2-ubyte"),
    "record": (RECORD, shown, "r.json"),
    "phn": (PHN, lambda path: time_files.read_times(path, 8000), "a.phn"),
    "phn at 16 kHz": (PHN, lambda path: time_files.read_times(path, 16000), "a.phn"),
    "csv": (CSV, lambda path: time_files.read_segments(path, 16000), "a.csv"),
    "label track": (LABELS, lambda path: time_files.read_segments(path, 16000), "a.txt"),
    "TextGrid": (TEXTGRID, lambda path: time_files.read_segments(path, 16000), "a.TextGrid"),
    "short TextGrid": (SHORT_TEXTGRID, lambda path: time_files.read_segments(path, 16000), "a.TextGrid"),
    "sphere": (sphere(), read_audio, "a.wav"),
    "riff": (riff(), read_audio, "a.wav"),
}


@pytest.mark.parametrize("kind", PARSERS)
@given(st.data())
@FUZZ
def test_only_the_parsers_own_error_comes_out(tmp_path, kind, data):
    valid, parse, name = PARSERS[kind]
    (tmp_path / name).write_bytes(data.draw(anything(valid)))
    with contextlib.suppress(InputError):
        parse(tmp_path / name)


@pytest.mark.parametrize("kind", PARSERS)
def test_what_is_mutated_was_valid(tmp_path, kind):
    """Else the fuzzing would stop at the first byte."""
    valid, parse, name = PARSERS[kind]
    (tmp_path / name).write_bytes(valid)
    parse(tmp_path / name)


SMOKE = b"base: smoke\nname: mine\nchapters:\n  02-mnist:\n    seeds: 2\n    widths: []\n    plain: {jitter: 1}\n"


@pytest.fixture
def own_presets(tmp_path, monkeypatch):
    shutil.copy(paths.PRESETS / "smoke.yaml", tmp_path)
    smoke = presets._read(tmp_path / "smoke.yaml")
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    real = presets._read
    # The base is the same each time, and PyYAML takes long for it.
    monkeypatch.setattr(presets, "_read", lambda path: dict(smoke) if path.stem == "smoke" else real(path))
    return tmp_path


@given(anything(SMOKE))
@FUZZ
def test_presets(own_presets, content):
    (own_presets / "mine.yaml").write_bytes(content)
    with contextlib.suppress(InputError):
        assert presets.load("mine").name == "mine"


def test_presets_whose_keys_contain_themselves(own_presets):
    for name, base in (("mine", "other"), ("other", "smoke")):
        text = f"base: {base}\nchapters: &a\n  02-mnist: *a\n"
        (own_presets / f"{name}.yaml").write_text(text)
    with pytest.raises(InputError, match="Preset mine"):
        presets.load("mine")


@given(anything(CLAIMS))
@FUZZ
def test_claims(tmp_path, content):
    path = tmp_path / "claims.yaml"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(InputError):
        patch.setattr(paths, "CLAIMS", path)
        claims.load()


def test_claims_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CLAIMS", tmp_path / "claims.yaml")
    with pytest.raises(InputError, match=r"claims\.yaml"):
        claims.load()


# --- what has a checksum: either what was written, or nothing -------------------------------------

TENSORS = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "b": torch.arange(5, dtype=torch.uint8)}
STATE = {"epoch": 2, "seconds": 1.25, "history": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]}


def checkpoint_bytes(folder: Path) -> bytes:
    Checkpoint(folder / "c").save(TENSORS, STATE)
    return (folder / "c").read_bytes()


@given(st.data())
@settings(FUZZ, max_examples=150)
def test_a_checkpoint_is_whole_or_nothing(tmp_path, data):
    """Also the numbers of its state, the types and the shapes."""
    warnings = []
    path = tmp_path / "c.safetensors"
    path.write_bytes(data.draw(anything(checkpoint_bytes(tmp_path))))
    found = Checkpoint(path, warn=warnings.append).load()
    if found is None:
        assert len(warnings) == 1
        assert not path.exists()
    else:
        tensors, state = found
        assert state == STATE
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[k], TENSORS[k]) and tensors[k].dtype == TENSORS[k].dtype for k in TENSORS)


CONFIG = {"network": {"widths": [4, 3, 2]}, "seed": 1}


def emptied(folder: Path) -> Path:
    """Every example begins with nothing."""
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def fill(network, checkpoint):
    checkpoint.history = [{"epoch": 1, "loss": 0.5, "seconds": 1.0}]
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.fill_(i + 0.5)


@pytest.mark.parametrize("name", ["entry.json", "network.safetensors"])
@given(st.data())
@FUZZ
def test_a_network_of_the_store_is_whole_or_made_again(tmp_path, name, data):
    store = Store(emptied(tmp_path), warn=lambda line: None)
    store.train_or_load(CONFIG, fill)
    path = store.folder(CONFIG) / name
    path.write_bytes(data.draw(anything(path.read_bytes())))
    network = store.train_or_load(CONFIG, fill)
    assert [p.unique().item() for p in network.parameters()] == [0.5, 1.5, 2.5, 3.5]
    assert isinstance(store.entry(CONFIG)["history"], list)
    assert store.train_or_load(CONFIG, pytest.fail) is not None


@given(st.data())
@FUZZ
def test_arrays_of_the_store_are_whole_or_made_again(tmp_path, data):
    store = Store(emptied(tmp_path), warn=lambda line: None)
    store.compute_or_load(CONFIG, lambda: {"a": np.arange(4)})
    name = data.draw(st.sampled_from(["arrays.json", "arrays.npz"]))
    path = store.folder(CONFIG) / name
    path.write_bytes(data.draw(anything(path.read_bytes())))
    assert store.compute_or_load(CONFIG, lambda: {"a": np.arange(4)})["a"].tolist() == [0, 1, 2, 3]
    assert store.compute_or_load(CONFIG, pytest.fail)["a"].tolist() == [0, 1, 2, 3]


ROWS = ImageRows(
    np.arange(96, dtype=np.uint8).reshape(6, 4, 4), {"train": [1, 1], "validation": [1, 1], "test": [1, 1]}, ("a", "b")
)


@given(st.data())
@FUZZ
def test_cached_images_are_whole_or_made_again(tmp_path, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        load_or_make(emptied(tmp_path), "x", {}, lambda: ROWS)
        path = next(tmp_path.glob(data.draw(st.sampled_from(["*.json", "*.npy"]))))
        path.write_bytes(data.draw(anything(path.read_bytes())))
        found, _ = load_or_make(tmp_path, "x", {}, lambda: ROWS)
    assert torch.equal(found.train_images, torch.from_numpy(ROWS.images[:2]))
    assert found.fingerprint == ROWS.data("x").fingerprint


@given(st.data())
@FUZZ
def test_shards(tmp_path, data):
    path = tmp_path / "shard"
    shutil.rmtree(path, ignore_errors=True)
    utterances = [{"name": "u", "speaker": "s", "row": 0, "frames": 2, "words": []}]
    rows = np.zeros((2 + shards.LEFT + shards.RIGHT, 40), np.float16)
    shards._write(path, rows, np.array([[0, 0, -1, -1, 0, 2]], np.int32), utterances)
    assert shards.load(path).frames == 2
    file = path / data.draw(st.sampled_from(["features.npy", "segments.npy", "utterances.json"]))
    file.write_bytes(data.draw(anything(file.read_bytes())))
    with contextlib.suppress(InputError):
        assert isinstance(shards.load(path).frames, int)
