"""Tiny ImageNet from its zip and from its folder: its splits, its download, and one sentence for every damage."""

import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import encoded, picture, rows, write

from kdrepro import data
from kdrepro.data.pictures import decode
from kdrepro.errors import InputError

pictures_module = sys.modules["kdrepro.data.pictures"]
WNIDS = ("n03", "n01", "n02")


@cache
def tiny_files(each: int = 5, tests: int = 2) -> dict[str, bytes]:
    """A small copy in the layout of Tiny ImageNet, by name."""
    files = {"wnids.txt": "\n".join(WNIDS).encode(), "words.txt": b"n00\tthing\nn01\tfish, goldfish\nn03\tcat\n"}
    annotations = []
    for k, wnid in enumerate(WNIDS):
        for i in range(each):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = encoded(picture(100 * k + i, mode="L" if i == 1 else "RGB"))
        for i in range(tests):
            files[f"val/images/val_{10 * i + k}.JPEG"] = encoded(picture(1000 * k + i))
            annotations.append(f"val_{10 * i + k}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    files["val/val_annotations.txt"] = "".join(annotations).encode()
    return files


def zipped(root: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("tiny-imagenet-200/train")
        for name, content in files.items():
            how = zipfile.ZIP_STORED if name.endswith("_2.JPEG") else None
            archive.writestr(f"tiny-imagenet-200/{name}", content, how)
    return root


def unpacked(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        write(root / "tiny-imagenet-200" / name, content)
    return root


@pytest.fixture(scope="module")
def small_root(tmp_path_factory) -> Path:
    """A folder with the small copy's zip, only to be read."""
    return zipped(tmp_path_factory.mktemp("small"), tiny_files())


def test_tiny_imagenet(small_root):
    tiny = data.tiny_imagenet(small_root, validation_per_class=2)
    assert tiny.name == "tiny-imagenet-200"
    assert tiny.train_images.shape == (9, 3, 32, 32)
    assert tiny.class_names == ("fish", "n02", "cat")
    assert data.tiny_imagenet_wnids(small_root) == ("n01", "n02", "n03")
    assert tiny.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert tiny.validation_labels.tolist() == tiny.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    files = tiny_files()
    last = decode(files["train/n01/images/n01_4.JPEG"], 32)
    assert np.array_equal(tiny.validation_images[1], last)
    assert np.array_equal(tiny.test_images[1], decode(files["val/images/val_11.JPEG"], 32))


def test_the_zip_and_its_folder_are_the_same(small_root, tmp_path):
    one = data.tiny_imagenet(small_root, 64, validation_per_class=1)
    other = data.tiny_imagenet(unpacked(tmp_path, tiny_files()), 64, validation_per_class=1)
    assert one.fingerprint == other.fingerprint
    assert one.train_images.shape == (12, 3, 64, 64)
    halves = data.tiny_imagenet(small_root, 32, validation_per_class=1).train_images.float()
    average = torch.nn.functional.avg_pool2d(one.train_images.float(), 2)
    assert (halves - average).abs().max() <= 1


def test_some_images_of_each_class(small_root):
    some = data.tiny_imagenet(small_root, per_class=2, validation_per_class=1, test_per_class=1)
    everything = data.tiny_imagenet(small_root, validation_per_class=1)
    assert some.train_labels.bincount().tolist() == [2, 2, 2]
    assert some.test_labels.bincount().tolist() == [1, 1, 1]
    assert torch.equal(some.validation_images, everything.validation_images)
    assert rows(some.train_images) < rows(everything.train_images)


def test_the_zip_is_read_in_place_and_once(tmp_path, monkeypatch):
    root, cache = tmp_path / "root", tmp_path / "cache"
    root.mkdir()
    first = data.tiny_imagenet(zipped(root, tiny_files()), validation_per_class=1, cache=cache)
    assert first.fingerprint == data.tiny_imagenet(root, validation_per_class=1).fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "root"]
    assert [p.name for p in root.iterdir()] == ["tiny-imagenet-200.zip"]
    monkeypatch.setattr(pictures_module, "decode_all", None)
    assert data.tiny_imagenet(root, validation_per_class=1, cache=cache).fingerprint == first.fingerprint


def vanishing(monkeypatch, root):
    """The data set is moved away when its files were listed and before they are read."""
    real = pictures_module.decode_all

    def decode_all(*arguments):
        root.rename(root.parent / "elsewhere")
        return real(*arguments)

    monkeypatch.setattr(pictures_module, "decode_all", decode_all)


def test_a_folder_that_vanishes_while_it_is_read(tmp_path, monkeypatch):
    root = unpacked(tmp_path / "root", tiny_files())
    vanishing(monkeypatch, root)
    with pytest.raises(InputError, match=r"tiny-imagenet-200.* a moment ago: put it back"):
        data.tiny_imagenet(root, validation_per_class=1)


def test_a_zip_that_vanishes_while_it_is_read_is_read_on(small_root, tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    root = zipped(tmp_path / "root", tiny_files())
    vanishing(monkeypatch, root)
    print_of_whole = data.tiny_imagenet(root, validation_per_class=1).fingerprint
    monkeypatch.undo()
    assert print_of_whole == data.tiny_imagenet(small_root, validation_per_class=1).fingerprint


def test_absent_tiny_imagenet_names_the_folder_and_the_ways(tmp_path):
    for call in (data.tiny_imagenet, data.tiny_imagenet_wnids):
        with pytest.raises(InputError) as caught:
            call(tmp_path)
        text = str(caught.value)
        assert str(tmp_path) in text
        assert "http://cs231n.stanford.edu/tiny-imagenet-200.zip" in text
        assert "KDREPRO_DATA" in text
        assert "smoke" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 28}, "size of 32 or 64 pixels, not 28"),
        (
            {"validation_per_class": 5},
            "n01 in .* has 5 training images, too few for per_class=None and valid",
        ),
        ({"per_class": 5, "validation_per_class": 1}, "has 5 training images, too few for per_class=5"),
        ({"validation_per_class": 1, "test_per_class": 3}, "has 2 validation images, too few for test_per_class=3"),
        ({"per_class": 0}, "per_class must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_asked_of_tiny_imagenet(small_root, arguments, said):
    with pytest.raises(InputError, match=said):
        data.tiny_imagenet(small_root, **arguments)


def without(*parts):
    return lambda files: {name: content for name, content in files.items() if not any(part in name for part in parts)}


def changed(name, content):
    return lambda files: files | {name: content}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("wnids"), r"its wnids.txt cannot be read"),
        (changed("words.txt", b"\xff\xfe\xff"), r"its words.txt cannot be read"),
        (without("annotations"), r"its val/val_annotations.txt cannot be read"),
        (changed("wnids.txt", b"\xff\xfe"), r"its wnids.txt cannot be read"),
        (changed("wnids.txt", b"n01"), r"its wnids.txt lists 1 different classes in 1 lines"),
        (changed("wnids.txt", b"n01 n02 n01"), r"its wnids.txt lists 2 different classes in 3 lines"),
        (without("train/n02"), r"the class n02 has no images in train/n02/images"),
        (without("val_11"), r"val/images/val_11.JPEG is missing, which its val_annotations.txt lists"),
        (changed("val/val_annotations.txt", b"val_0.JPEG"), "gives 'val_0.JPEG' the unknown class ''"),
        (changed("val/val_annotations.txt", b"../../x\tn01"), "val/images/../../x is missing"),
    ],
)
@pytest.mark.parametrize("store", [zipped, unpacked])
def test_an_incomplete_copy(tmp_path, change, said, store):
    with pytest.raises(InputError, match=said) as caught:
        data.tiny_imagenet(store(tmp_path, change(tiny_files())), validation_per_class=1)
    assert "is not a whole Tiny ImageNet" in str(caught.value)
    assert "download it again from http://cs231n" in str(caught.value)


def in_class_folders(files, images):
    """`val` as scripts sort it, with or without folders of the name `images`."""
    moved = {}
    for line in files["val/val_annotations.txt"].decode().splitlines():
        file, wnid = line.split("\t")[:2]
        moved[f"val/{wnid}/{images}{file}"] = files[f"val/images/{file}"]
    return {name: content for name, content in files.items() if not name.startswith("val/images/")} | moved


@pytest.mark.parametrize("store", [zipped, unpacked])
@pytest.mark.parametrize("images", ["images/", ""])
@pytest.mark.parametrize("left", [(), ("annotations",)])
def test_a_val_that_is_sorted_into_folders_of_classes(small_root, tmp_path, store, images, left):
    files = in_class_folders(tiny_files(), images)
    root = store(tmp_path, without(*left)(files))
    one, other = (data.tiny_imagenet(where, validation_per_class=2) for where in (small_root, root))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("start", ["tiny-imagenet-200/", "", "no zip"])
def test_one_folder_more_or_less_around_it(small_root, tmp_path, start):
    root = tmp_path / "root"
    root.mkdir()
    if start == "no zip":
        unpacked(root / "tiny-imagenet-200", tiny_files())
    else:
        with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
            archive.writestr("__MACOSX/._train", b"")
            for name, content in tiny_files().items():
                archive.writestr(f"{start and 'tiny-imagenet-200/' + start}{name}", content)
    one, other = (data.tiny_imagenet(where, validation_per_class=2) for where in (small_root, root))
    assert one.fingerprint == other.fingerprint
    assert data.fetch_tiny_imagenet(root, url="http://127.0.0.1:9/").exists()


def test_the_folder_itself_is_a_root_too(tmp_path):
    root = unpacked(tmp_path, tiny_files())
    one, other = (data.tiny_imagenet(where, validation_per_class=2) for where in (root, root / "tiny-imagenet-200"))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("store", [zipped, unpacked])
def test_without_words_the_classes_have_their_ids(tmp_path, store):
    root = store(tmp_path, without("words")(tiny_files()))
    assert data.tiny_imagenet(root, validation_per_class=2).class_names == ("n01", "n02", "n03")


def test_a_damaged_member_is_a_corrupt_image(tmp_path):
    files = tiny_files()
    path = zipped(tmp_path, files) / "tiny-imagenet-200.zip"
    content = path.read_bytes()
    stored = files["train/n02/images/n02_2.JPEG"]
    place = content.index(stored) + len(stored) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    said = r"1 of 21 images .* is train/n02/images/n02_2.JPEG \(Bad CRC-32 .*\)"
    with pytest.raises(InputError, match=said):
        data.tiny_imagenet(tmp_path, validation_per_class=1)


def test_a_zip_cut_short(tmp_path):
    path = zipped(tmp_path, tiny_files()) / "tiny-imagenet-200.zip"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"tiny-imagenet-200.zip is not a whole zip .* download it again"):
        data.tiny_imagenet(tmp_path)


def test_no_server_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="Tiny ImageNet could not be downloaded"):
        data.fetch_tiny_imagenet(tmp_path, url="http://127.0.0.1:9/tiny-imagenet-200.zip")


def test_a_zip_that_cannot_be_opened_is_fetched_again(tmp_path):
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(b"PK and no more")
    with pytest.raises(InputError, match="Tiny ImageNet could not be downloaded"):
        data.fetch_tiny_imagenet(tmp_path, url="http://127.0.0.1:9/tiny-imagenet-200.zip")


def test_a_users_own_copy_is_left_alone(tmp_path):
    """Whatever it holds: the folder may have been unpacked from it, or have other numbers of images."""
    few = {"wnids.txt": b"n01"}
    for name, store in {"tiny-imagenet-200.zip": zipped, "tiny-imagenet-200": unpacked}.items():
        (root := tmp_path / name.replace(".", "_")).mkdir()
        assert data.fetch_tiny_imagenet(store(root, few), url="http://127.0.0.1:9/") == root / name


def test_the_real_one(tiny_imagenet_root):
    tiny = data.tiny_imagenet(tiny_imagenet_root, per_class=2, validation_per_class=1, test_per_class=1)
    assert tiny.train_images.shape == (400, 3, 32, 32)
    assert tiny.test_labels.tolist() == list(range(200))
    assert tiny.class_names[0] == "goldfish"
    assert len(set(tiny.class_names)) == 200
    assert data.tiny_imagenet_wnids(tiny_imagenet_root)[0] == "n01443537"
    goldfish = tiny.train_images[:2].float().mean((0, 2, 3))
    assert goldfish[0] > goldfish[2]  # red channel first


# --- images that confirm ----------------------------------------------------------------------------


def test_images_numbered_below_are_those_of_a_smaller_copy(small_root, tmp_path):
    smaller = data.tiny_imagenet(zipped(tmp_path, tiny_files(4)), validation_per_class=1)
    assert data.tiny_imagenet(small_root, validation_per_class=1, numbered_below=4).fingerprint == smaller.fingerprint


def test_fresh_images_are_the_others(small_root):
    usual = data.tiny_imagenet(small_root, validation_per_class=1, numbered_below=3)
    fresh = data.tiny_imagenet(small_root, validation_per_class=1, numbered_below=3, fresh=True)
    assert torch.equal(fresh.train_images, usual.train_images)
    assert torch.equal(fresh.validation_images, usual.validation_images)
    assert fresh.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(fresh.test_images[1], decode(tiny_files()["train/n01/images/n01_4.JPEG"], 32))


def test_a_copy_without_fresh_images_says_so(small_root):
    with pytest.raises(InputError, match="no training images numbered from 5 on, as the original has"):
        data.tiny_imagenet(small_root, validation_per_class=1, numbered_below=5, fresh=True)
    with pytest.raises(InputError, match="give that number"):
        data.tiny_imagenet(small_root, fresh=True)
