"""MNIST: what is read, its download, and one sentence for every way in which a file can be wrong."""

import struct
from pathlib import Path

import pytest
import torch
import torchvision

from kdrepro import data
from kdrepro.data.mnist import FILES
from kdrepro.errors import InputError


def idx(array: torch.Tensor) -> bytes:
    return struct.pack(f">HBB{array.dim()}I", 0, 8, array.dim(), *array.shape) + array.numpy().tobytes()


def raw(root, content=b"", **files):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in FILES:
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
    "content",
    [
        b"",
        b"\x1f\x8b\x08\x00 a gzip file",
        idx(torch.zeros(10, 28, 28, dtype=torch.uint8))[:-5],
        idx(torch.zeros(60000, 28, 28, dtype=torch.uint8)),
    ],
    ids=["empty", "another format", "cut short", "right shape but other content"],
)
def test_bad_files_are_named(tmp_path, content):
    raw(tmp_path, content)
    said = f"train-images-idx3-ubyte differs from the original MNIST .* its {len(content):,} bytes .* delete it and run"
    with pytest.raises(InputError, match=said):
        data.mnist(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_checked(tmp_path, mnist_root, name):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for other in FILES:
        (tmp_path / "MNIST" / "raw" / other).symlink_to(mnist_root.resolve() / "MNIST" / "raw" / other)
    (tmp_path / "MNIST" / "raw" / name).unlink()
    with pytest.raises(InputError, match=f"MNIST is not in .*{name} is missing"):
        data.mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"{name} differs"):
        data.mnist(tmp_path)


def test_mnist(mnist_root):
    images = data.mnist(mnist_root)
    assert images.train_images.shape == (60000, 28, 28)
    assert images.test_images.shape == (10000, 28, 28)
    assert images.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (images.test_labels == 3).sum() == 1010
    for pixels, name in ((images.train_images, "train"), (images.test_images, "t10k")):
        content = (mnist_root / "MNIST" / "raw" / f"{name}-images-idx3-ubyte").read_bytes()
        assert content == idx(pixels)
    assert images.fingerprint == "5b530725372659ea"  # part of the names of trained networks


def test_a_home_is_expanded(tmp_path, monkeypatch, mnist_root):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d").symlink_to(mnist_root.resolve())
    assert data.mnist("~/d").classes == 10
    assert data.fetch_mnist("~/d") == tmp_path / "d" / "MNIST" / "raw"
    for read in (data.mnist, data.idx_images, data.npz_images, data.image_folder, data.tiny_imagenet):
        with pytest.raises(InputError, match="a home folder that is not known here"):
            read("~nobody-of-that-name/d")


def fake_download(monkeypatch, content: dict[str, bytes] | Exception):
    def download(root, download):
        if isinstance(content, Exception):
            raise content
        raw(Path(root), **content)

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)


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
    content = {name: (mnist_root / "MNIST" / "raw" / name).read_bytes() for name in FILES}
    fake_download(monkeypatch, content)
    folder = data.fetch_mnist(tmp_path)
    assert data.mnist(tmp_path).fingerprint == data.mnist(mnist_root).fingerprint
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    fake_download(monkeypatch, AssertionError("it was there already"))
    assert data.fetch_mnist(tmp_path) == folder
