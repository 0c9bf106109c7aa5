"""Image sets in idx files and NumPy archives: whatever their classes are, and refused by a sentence where damaged."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import data
from kdrepro.errors import InputError

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    chance = np.random.default_rng(0)
    labels = np.tile([2, 5, 9, 11], 6).astype(np.uint8)  # as EMNIST: not from 0, with gaps
    images = chance.integers(0, 256, (24, 5, 7), dtype=np.uint8)
    return images[:16], labels[:16], images[16:], labels[16:]


@pytest.fixture
def written(tmp_path, arrays):
    """Write the four files into a folder, gzipped or not, with a prefix."""

    def write(inside="", prefix="", zipped=False):
        folder = tmp_path / "set" / inside
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip(PARTS, arrays, strict=True):
            content = idx(array)
            name = f"{prefix}{name}{'.gz' if zipped else ''}"
            (folder / name).write_bytes(gzip.compress(content) if zipped else content)
        return tmp_path / "set"

    return write


@pytest.mark.parametrize("inside", ["", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx(written, arrays, inside, zipped):
    found = data.idx_images(written(inside, zipped=zipped))
    assert torch.equal(found.train_images, torch.from_numpy(arrays[0]))
    assert torch.equal(found.test_images, torch.from_numpy(arrays[2]))
    assert found.test_labels.tolist() == [0, 1, 2, 3] * 2
    assert (found.name, found.classes, found.class_names) == ("set", 4, ("2", "5", "9", "11"))


def test_the_same_file_gzipped_and_not_is_one_set(written):
    plain = data.idx_images(written())
    assert data.idx_images(written(zipped=True)).fingerprint == plain.fingerprint


def test_several_sets_in_a_folder(written):
    for prefix in ("emnist-letters-", "emnist-digits-"):
        root = written(prefix=prefix)
    with pytest.raises(InputError, match=r"several sets .*prefix"):
        data.idx_images(root)
    assert data.idx_images(root, prefix="emnist-letters-").classes == 4


@given(cut=st.integers(0, 40), position=st.integers(0, 15), byte=st.integers(0, 255))
def test_damaged_idx(tmp_path_factory, cut, position, byte):
    folder = tmp_path_factory.mktemp("set")
    images, labels = np.zeros((2, 3, 3), np.uint8), np.array([0, 1], np.uint8)
    for name, array in zip(PARTS, (images, labels, images, labels), strict=True):
        (folder / name).write_bytes(idx(array))
    content = bytearray(idx(images))
    content[position] = byte
    (folder / PARTS[0]).write_bytes(bytes(content[: len(content) - cut]))
    if bytes(content) == idx(images) and cut == 0:
        assert data.idx_images(folder).classes == 2
    else:
        with pytest.raises(InputError):
            data.idx_images(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"\0\0\x08" + bytes([65]) + struct.pack(">65I", *[1] * 65) + b"x",
        idx(np.zeros((0, 3, 3), np.uint8))[:4] + struct.pack(">3I", 2**31, 2**31, 4),  # 2 ** 64, which an int64 has not
    ],
    ids=["65 axes", "more bytes than a number counts"],
)
def test_an_idx_file_whose_header_lies(written, content):
    root = written()
    (root / PARTS[0]).write_bytes(content)
    with pytest.raises(InputError, match="not a whole idx file"):
        data.idx_images(root)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_without_images_of_a_split(written, tmp_path, arrays, split):
    root, empty = written(), {"train": (0, 1), "test": (2, 3)}[split]
    for n in empty:
        (root / PARTS[n]).write_bytes(idx(arrays[n][:0]))
    given = [array[:0] if n in empty else array for n, array in enumerate(arrays)]
    np.savez(tmp_path / "mine.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), given, strict=True)))
    for read, path in ((data.idx_images, root), (data.npz_images, tmp_path / "mine.npz")):
        with pytest.raises(InputError, match=f"has no {split} images"):
            read(path)


def test_a_missing_file(written):
    root = written()
    (root / PARTS[3]).unlink()
    with pytest.raises(InputError, match="t10k-labels"):
        data.idx_images(root)


@pytest.mark.parametrize(
    "names",
    [("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test")],
)
def test_npz(tmp_path, arrays, names):
    np.savez(tmp_path / "mine.npz", **dict(zip(names, arrays, strict=True)))
    found = data.npz_images(tmp_path / "mine.npz")
    assert (found.name, found.classes) == ("mine", 4)
    assert torch.equal(found.train_images, torch.from_numpy(arrays[0]))
    assert found.validation_images is None


def test_npz_with_channels_last_labels_in_a_column_and_validation_images(tmp_path, arrays):
    x, y, more_x, more_y = arrays
    colour = {f"{s}_images": np.stack([a] * 3, -1) for s, a in (("train", x), ("val", more_x), ("test", more_x))}
    labels = {f"{s}_labels": b[:, None] for s, b in (("train", y), ("val", more_y), ("test", more_y))}
    np.savez(tmp_path / "mine.npz", **colour, **labels)
    found = data.npz_images(tmp_path / "mine.npz")
    assert found.train_images.shape == (16, 3, 5, 7)
    assert torch.equal(found.train_images[:, 2], torch.from_numpy(x))
    assert found.validation_labels.tolist() == found.test_labels.tolist()


def test_npz_that_is_none(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    with pytest.raises(InputError, match="There is no file"):
        data.npz_images(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"not a whole \.npz"):
        data.npz_images(path)
    np.savez(path, x_train=arrays[0], y_train=arrays[1])
    with pytest.raises(InputError, match=r"no array test_images or x_test, but x_train, y_train"):
        data.npz_images(path)
    np.savez(path, x_train=arrays[0] / 255, y_train=arrays[1], x_test=arrays[2] / 255, y_test=arrays[3])
    with pytest.raises(InputError, match=r"mine\.npz: train_images must be uint8"):
        data.npz_images(path)
    np.savez(path, x_train=arrays[0], y_train=arrays[1], x_test=arrays[2], y_test=arrays[3] + 1)
    with pytest.raises(InputError, match="test_labels holds 3, which is no label in training"):
        data.npz_images(path)


def npy(array, change=lambda header: header) -> bytes:
    """An array as NumPy keeps it, with another header of the same length."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()[:10] + change(content.getvalue()[10:128]) + content.getvalue()[128:]


DAMAGED = {
    "cut header": (lambda header: header.replace(b"(16, 5, 7), }", b"(16, 5, 7     "), "not a whole"),
    "lying header": (lambda header: header.replace(b"(16, 5, 7), }      ", b"(9999999999999,), }"), "not a whole"),
    "no array": (None, "its train_images are no array"),
}


@pytest.mark.parametrize(("change", "said"), DAMAGED.values(), ids=DAMAGED)
def test_npz_with_a_member_that_is_damaged(tmp_path, arrays, change, said):
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("x_train.npy", b"text" if change is None else npy(arrays[0], change))
        for name, array in zip(("y_train", "x_test", "y_test"), arrays[1:], strict=True):
            archive.writestr(f"{name}.npy", npy(array))
    with pytest.raises(InputError, match=said):
        data.npz_images(tmp_path / "mine.npz")


def test_an_array_alone_and_labels_that_are_none(tmp_path, arrays):
    np.save(tmp_path / "mine.npy", arrays[0])
    with pytest.raises(InputError, match="is one array: save images and labels together"):
        data.npz_images(tmp_path / "mine.npy")
    dates = arrays[1].astype("M8[s]")
    np.savez(tmp_path / "mine.npz", x_train=arrays[0], y_train=dates, x_test=arrays[2], y_test=arrays[3])
    with pytest.raises(InputError, match="train_labels holds datetime64"):
        data.npz_images(tmp_path / "mine.npz")


def test_pickles_are_never_loaded(tmp_path, arrays):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    bomb = np.array([Bomb()] * 16, dtype=object)
    np.savez(tmp_path / "mine.npz", x_train=bomb, y_train=arrays[1], x_test=arrays[2], y_test=arrays[3])
    with pytest.raises(InputError, match=r"not a whole \.npz"):
        data.npz_images(tmp_path / "mine.npz")
