"""Folders of images: how they are split, decoded once, and one sentence for all that can be wrong."""

import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import encoded, fill, picture, rows, write

from kdrepro import data
from kdrepro.errors import InputError, printable

pictures_module = sys.modules["kdrepro.data.pictures"]


def test_a_folder_without_val(tmp_path):
    own = data.image_folder(fill(tmp_path / "own", each=20), size=8)
    assert own.name == "own"
    assert own.class_names == ("a", "b", "c")
    assert own.train_images.shape == (3 * 16, 3, 8, 8)
    assert own.validation_labels.tolist() == own.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(rows(own.train_images, own.validation_images, own.test_images)) == 60


def test_the_split_is_the_seeds(tmp_path):
    fill(tmp_path)
    a, again, b = (data.image_folder(tmp_path, size=8, seed=seed) for seed in (0, 0, 1))
    assert a.fingerprint == again.fingerprint != b.fingerprint
    fill(tmp_path, "d")
    assert torch.equal(data.image_folder(tmp_path, size=8).train_images[:12], a.train_images)


def test_numbers_a_class(tmp_path):
    fill(tmp_path)
    own = data.image_folder(tmp_path, size=8, per_class=2, validation_per_class=0, test_per_class=3)
    assert own.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert own.validation_images is None
    assert own.test_labels.bincount().tolist() == [3, 3, 3]
    all_but_tests = data.image_folder(tmp_path, size=8, validation_per_class=0, test_per_class=3)
    assert rows(own.train_images) < rows(all_but_tests.train_images)
    assert rows(own.test_images) == rows(all_but_tests.test_images)


def test_train_and_val(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val", each=2, start=50)
    own = data.image_folder(tmp_path, size=8)
    assert own.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(own.train_images) + len(own.validation_images) == 18
    alone = data.image_folder(tmp_path / "val", size=8, validation_per_class=0, test_per_class=1)
    assert rows(own.test_images) == rows(alone.train_images, alone.test_images)
    assert len(data.image_folder(tmp_path, size=8, test_per_class=1).test_images) == 3


def test_files_in_images_and_endings_of_all_kinds(tmp_path):
    fill(tmp_path, "ab")
    for i, ending in enumerate(["JPEG", "jpeg", "PNG", "png", "JPG"]):
        kind = "PNG" if ending.lower() == "png" else "JPEG"
        write(tmp_path / "c" / "images" / f"{i}.{ending}", encoded(picture(i), kind))
    write(tmp_path / "c" / "readme.txt", b"not looked at")
    write(tmp_path / "c" / "._0.jpg", b"not looked at")
    write(tmp_path / ".hidden" / "0.jpg", b"not looked at")
    own = data.image_folder(tmp_path, size=8)
    assert own.class_names == ("a", "b", "c")
    assert own.train_labels.bincount()[2] == 3


def test_decoded_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    fill(tmp_path / "own")
    calls, real = [], pictures_module.decode_all
    monkeypatch.setattr(pictures_module, "decode_all", lambda *a: calls.append(1) or real(*a))
    for expected in (1, 1):
        first = data.image_folder(tmp_path / "own", size=8, cache=tmp_path / "cache")
        assert len(calls) == expected
    for name in "012345":
        write(tmp_path / "own" / "a" / f"{name}.jpg", encoded(picture(77)))
    second = data.image_folder(tmp_path / "own", size=8, cache=tmp_path / "cache")
    assert len(calls) == 2
    assert second.fingerprint != first.fingerprint


def test_a_folder_with_a_long_name_is_kept_too(tmp_path):
    own = fill(tmp_path / ("n" * 250))
    for _ in range(2):
        assert data.image_folder(own, size=8, cache=tmp_path / "cache").name == "n" * 250


def test_corrupt_images_are_counted_and_named(tmp_path):
    fill(tmp_path)
    write(tmp_path / "a" / "2.jpg", b"<html>not found</html>")
    whole = (tmp_path / "b" / "1.jpg").read_bytes()
    write(tmp_path / "b" / "1.jpg", whole[: len(whole) // 2])
    said = r"2 of 18 images in .* cannot be decoded, the first is [ab]/[12].jpg \(.*\): .* skip_corrupt=True"
    with pytest.raises(InputError, match=said):
        data.image_folder(tmp_path, size=8)


def test_corrupt_images_are_left_out_when_asked(tmp_path):
    own, cache = fill(tmp_path / "own"), tmp_path / "cache"
    write(own / "a" / "2.jpg", b"<html>not found</html>")
    (own / "b" / "9.jpg").symlink_to(own / "nowhere")
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="Left out of .*own: 2 corrupt images, the first is a/2.jpg"):
            images = data.image_folder(
                own, size=8, validation_per_class=0, test_per_class=1, seed=1, skip_corrupt=True, cache=cache
            )
        assert images.train_labels.tolist() == [0] * 4 + [1] * 5 + [2] * 5
        assert (images.train_images.flatten(1).float().std(1) > 0).all()


def test_a_class_that_is_corrupt_altogether(tmp_path):
    fill(tmp_path)
    for i in range(6):
        write(tmp_path / "b" / f"{i}.jpg", b"")
    with pytest.raises(InputError, match=r"All 6 images of the class b in .* are corrupt, the first is b/0"):
        data.image_folder(tmp_path, size=8, skip_corrupt=True)


def test_corrupt_images_are_found_before_the_split_is_drawn(tmp_path):
    """Three images, one of them bad: two are left, for test and training, whichever place the bad one was drawn for."""
    for bad in range(3):
        own = fill(tmp_path / f"{bad}", each=3)
        write(own / "a" / f"{bad}.jpg", b"no image")
        with pytest.warns(UserWarning, match="1 corrupt image, "):
            images = data.image_folder(own, size=8, validation_per_class=0, skip_corrupt=True)
        assert images.train_labels.tolist() == [0, 1, 1, 2, 2]
        assert images.test_labels.tolist() == [0, 1, 2]
        with pytest.raises(InputError, match="has 2 images without the 1 corrupt ones, too few for"):
            data.image_folder(own, size=8, skip_corrupt=True)


def test_what_takes_the_place_of_a_corrupt_image_is_looked_at_too(tmp_path):
    own = fill(tmp_path / "own", each=30)
    for i in range(25):
        write(own / "a" / f"{i}.jpg", b"no image")
    with pytest.warns(UserWarning, match="corrupt images"):
        images = data.image_folder(
            own, size=8, per_class=2, validation_per_class=1, test_per_class=1, skip_corrupt=True, cache=tmp_path / "c"
        )
    assert images.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (images.train_images.flatten(1).float().std(1) > 0).all()


def test_where_nothing_is_corrupt_skipping_changes_nothing(tmp_path):
    own = fill(tmp_path / "own", each=20)
    a, b = (data.image_folder(own, size=8, seed=3, skip_corrupt=skip).fingerprint for skip in (False, True))
    assert a == b


def empty_class(root):
    (root / "d").mkdir()


def one_class(root):
    for name in "bc":
        (root / name).rename(root / f".{name}")


def val_lacks_one(root):
    fill(root / "train")
    fill(root / "val", "ab")


def val_has_one_more(root):
    fill(root / "train")
    fill(root / "val", "abcd")


def nothing(root):
    pass


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (empty_class, {}, "The class folder .*d holds no image: put images in it or remove it"),
        (one_class, {}, "has 1 class folders where at least two are needed"),
        (val_lacks_one, {}, "The class c is in only one of .*train and .*val"),
        (val_has_one_more, {}, "The class d is in only one of .*train and .*val"),
        (nothing, {"size": 2}, "4 to 512 pixels a side, not 2"),
        (nothing, {"per_class": 5}, "class a in .* has 6 images, too few for 5 of training, 1 of validation and 1 of"),
        (nothing, {"test_per_class": 9}, "too few for 1 of training, 1 of validation and 9 of test"),
        (nothing, {"per_class": 0}, "per_class must be at least 1, not 0"),
        (nothing, {"validation_per_class": -1}, "validation_per_class must be at least 0, not -1"),
        (nothing, {"test_per_class": 0}, "test_per_class must be at least 1, not 0"),
        (nothing, {"cache": "file"}, "Cannot write the image cache"),
    ],
)
def test_what_is_wrong_with_a_folder(tmp_path, change, arguments, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    root = fill(tmp_path / "own")
    change(root)
    with pytest.raises(InputError, match=said):
        data.image_folder(root, **{"size": 8} | arguments)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder .*own: .* smoke preset"):
        data.image_folder(tmp_path / "own")


# --- names ------------------------------------------------------------------------------------------

NAMES = st.binary(min_size=1, max_size=10).filter(lambda name: not set(b"/\0") & set(name) and name[:1] != b".")


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@given(NAMES, NAMES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_of_any_bytes(tmp_path_factory, of_class, of_file):
    root = tmp_path_factory.mktemp("own")
    label, name = map(os.fsdecode, (of_class, of_file))
    fill(root, ("0b", "0c"), each=3)
    for i in range(3):
        write(root / label / f"{name}{i}.png", encoded(picture(i, 8, 8), "PNG"))
    own = data.image_folder(root, size=8, cache=root.with_suffix(".cache"))
    " ".join(own.class_names).encode()
    assert set(own.class_names) == {"0b", "0c", printable(label)}
    assert own.train_labels.bincount().tolist() == [1, 1, 1] or label in ("0b", "0c")
    (root / label / f"{name}9.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of .* cannot be decoded") as caught:
        data.image_folder(root, size=8, per_class=None)
    str(caught.value).encode()
    with pytest.warns(UserWarning, match="1 corrupt image, "):
        data.image_folder(root, size=8, skip_corrupt=True, cache=root.with_suffix(".cache"))
