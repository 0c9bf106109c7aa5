"""The loaders: what they return, and one sentence for every way in which a file can be wrong."""

import contextlib
import struct
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdrepro import data
from kdrepro.errors import InputError

mnist_module = sys.modules["kdrepro.data.mnist"]  # kdrepro.data.mnist itself is the function


def idx(array: torch.Tensor) -> bytes:
    return struct.pack(f">HBB{array.dim()}I", 0, 8, array.dim(), *array.shape) + array.numpy().tobytes()


def test_digits(digits):
    assert digits.train_images.shape == (1297, 8, 8)
    assert digits.test_images.shape == (500, 8, 8)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_images.max() == 255
    assert digits.train_labels.unique().tolist() == list(range(10))
    assert digits.fingerprint == data.digits().fingerprint


def test_validation_split_is_disjoint_and_leaves_the_test_set_out(digits):
    split = digits.with_validation(297, seed=1)
    assert len(split.train_images) == 1000
    assert len(split.test_images) == 297
    rows = {bytes(x.numpy()) for x in digits.train_images.flatten(1)}
    assert {bytes(x.numpy()) for x in split.test_images.flatten(1)} <= rows
    assert split.fingerprint not in (digits.fingerprint, digits.with_validation(297, seed=2).fingerprint)
    with pytest.raises(ValueError, match="cases"):
        digits.with_validation(1297)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**31 - 1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_idx_round_trip(tmp_path, shape, seed):
    array = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    (tmp_path / "f").write_bytes(idx(array))
    assert torch.equal(mnist_module.read_idx(tmp_path / "f"), array)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\0\0\x08\x03" + tail))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_crash_the_idx_reader(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with contextlib.suppress(InputError):
        mnist_module.read_idx(tmp_path / "f")


def raw(root, content=b"", **files):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in mnist_module.FILES:
        (folder / name).write_bytes(files.get(name, content))
    return folder


def test_absent_mnist_names_the_folder_and_the_ways(tmp_path):
    with pytest.raises(InputError) as caught:
        data.mnist(tmp_path)
    text = str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in text
    assert "kdrepro data fetch mnist" in text
    assert "smoke" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an idx file"),
        (b"\x1f\x8b\x08\x00 a gzip file", "not an idx file"),
        (idx(torch.zeros(10, 28, 28, dtype=torch.uint8))[:-5], "cut short"),
        (b"\0\0\x08\x03\0\0", "cut short"),
        (idx(torch.zeros(10, 28, 28, dtype=torch.uint8)), "where MNIST has"),
    ],
)
def test_bad_files_are_named(tmp_path, content, said):
    raw(tmp_path, content)
    with pytest.raises(InputError, match=said) as caught:
        data.mnist(tmp_path)
    assert "train-images-idx3-ubyte" in str(caught.value)


def test_right_shape_but_other_content(tmp_path):
    raw(tmp_path, idx(torch.zeros(60000, 28, 28, dtype=torch.uint8)))
    with pytest.raises(InputError, match="differs from the original"):
        data.mnist(tmp_path)


def test_mnist(mnist_root):
    images = data.mnist(mnist_root)
    assert images.train_images.shape == (60000, 28, 28)
    assert images.test_images.shape == (10000, 28, 28)
    assert images.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (images.test_labels == 3).sum() == 1010


def fake_download(monkeypatch, content: dict[str, bytes] | Exception):
    def download(root, download):
        if isinstance(content, Exception):
            raise content
        raw(mnist_module.Path(root), **content)

    monkeypatch.setattr(mnist_module.torchvision.datasets, "MNIST", download)


def test_fetch_without_a_network_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    fake_download(monkeypatch, RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried mirror one"))
    with pytest.raises(InputError, match="could not be downloaded") as caught:
        data.fetch_mnist(tmp_path)
    assert "\n" not in str(caught.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_fetch_does_not_put_a_bad_download_in_place(tmp_path, monkeypatch):
    fake_download(monkeypatch, {"train-images-idx3-ubyte": b"<html>not found</html>"})
    with pytest.raises(InputError):
        data.fetch_mnist(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_fetch_moves_a_good_download_in(tmp_path, monkeypatch, mnist_root):
    content = {name: (mnist_root / "MNIST" / "raw" / name).read_bytes() for name in mnist_module.FILES}
    fake_download(monkeypatch, content)
    folder = data.fetch_mnist(tmp_path)
    assert data.mnist(tmp_path).fingerprint == data.mnist(mnist_root).fingerprint
    assert sorted(p.name for p in folder.iterdir()) == sorted(mnist_module.FILES)
    fake_download(monkeypatch, AssertionError("it was there already"))
    assert data.fetch_mnist(tmp_path) == folder
