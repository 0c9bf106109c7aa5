"""Folders of images and Tiny ImageNet: how they are split and decoded, and one sentence for all that can be wrong."""

import io
import stat
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kdrepro import data
from kdrepro.data.pictures import decode, decode_all
from kdrepro.data.sources import Folder, Zip
from kdrepro.errors import InputError

pictures_module = sys.modules["kdrepro.data.pictures"]


def picture(seed: int, width: int = 64, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Soft random colours, which JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def fill(folder: Path, classes: str = "abc", each: int = 6, start: int = 0) -> Path:
    for k, name in enumerate(classes):
        for i in range(each):
            write(folder / name / f"{i}.jpg", encoded(picture(start + 100 * k + i, 20, 16)))
    return folder


def rows(*images: torch.Tensor) -> set[bytes]:
    return {bytes(x.contiguous().numpy()) for part in images for x in part}


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_half_the_size_is_the_average_of_four_pixels():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    got = decode(encoded(image, "PNG"), 32).astype(float)
    expected = np.asarray(image, float).transpose(2, 0, 1).reshape(3, 32, 2, 32, 2).mean((2, 4))
    assert np.abs(got - expected).max() <= 1  # it is rounded across and then down
    assert np.array_equal(decode(encoded(image, "PNG"), 64), np.asarray(image).transpose(2, 0, 1))


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(4, 40),
    st.sampled_from(["RGB", "L", "CMYK", "P", "RGBA", "LA", "1"]),
)
@settings(max_examples=60)
def test_every_shape_and_kind_becomes_a_square_in_colour(width, height, size, mode):
    image = Image.new("RGB", (width, height), "white").convert(mode)
    got = decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG"), size)
    assert got.shape == (3, size, size)
    assert got.dtype == np.uint8
    assert got.min() >= 250


@pytest.mark.parametrize("size", [8, 32, 70])
def test_the_centre_is_kept(size):
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    for kind in ("PNG", "JPEG"):
        middle = decode(encoded(image, kind, **({"quality": 95} if kind == "JPEG" else {})), size)[:, 2:-2, 2:-2]
        assert middle[2].min() > 230
        assert middle[0].max() < 25


def test_a_large_jpeg_decoded_at_a_fraction_is_the_same_picture():
    image = picture(1, 800, 600)
    png, jpeg = (decode(encoded(image, kind), 32).astype(int) for kind in ("PNG", "JPEG"))
    assert np.abs(png - jpeg).mean() < 3


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 8, 4))
    got = decode(encoded(image, "PNG"), 8)
    assert got[:, 0, 0].tolist() == [0, 0, 255]
    assert got[:, 7, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (8, 8))
    palette.putpalette([255, 0, 0])
    assert decode(encoded(palette, "PNG", transparency=0), 8).min() == 255


def test_sixteen_bits_are_scaled_and_not_clipped():
    image = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert np.unique(decode(encoded(image, "PNG"), 8)).tolist() == [0x80]


def test_a_photograph_stands_as_the_camera_was_held():
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: what is up is stored left
    stored = image.transpose(Image.Transpose.ROTATE_90)
    got = decode(encoded(stored, "JPEG", exif=exif, quality=95), 16)
    assert got[:, :7].min() > 230
    assert got[:, 9:].max() < 25


def test_bad_exif_data_does_not_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of the kind "Corrupt EXIF data"
        assert decode(encoded(picture(1), "JPEG", exif=b"Exif\0\0MM\0*garbage"), 32).shape == (3, 32, 32)


@given(st.binary(max_size=80), st.integers(0, 1500), st.integers(0, 255), st.sampled_from(["JPEG", "PNG"]))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_stop_the_decoder(tmp_path, junk, place, value, kind):
    content = bytearray(encoded(picture(1, 40, 40), kind))
    content[place % len(content)] = value
    names = ["cut", "junk", "other"]
    for name, bad in zip(names, (content[:place], junk, content), strict=True):
        (tmp_path / name).write_bytes(bad)
    images, corrupt = decode_all(Folder(tmp_path), names, 8, workers=1)
    assert images.shape == (3, 3, 8, 8)
    assert 1 in corrupt
    assert all("\n" not in reason and "0x" not in reason for reason in corrupt.values())


def test_threads_decode_the_same_and_report(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures_module, "TOGETHER", 4)
    fill(tmp_path)
    source, seen = Folder(tmp_path), []
    one, _ = decode_all(source, source.names(), 8, workers=1)
    three, _ = decode_all(source, source.names(), 8, workers=3, progress=lambda *a: seen.append(a))
    assert np.array_equal(one, three)
    assert seen[-1] == (18, 18)
    assert len(seen) == 5


# --- one's own folder -------------------------------------------------------------------------------------------------


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
        with pytest.warns(UserWarning, match="2 corrupt images in .*own were left out, the first is a/2.jpg"):
            images = data.image_folder(
                own, size=8, validation_per_class=0, test_per_class=1, seed=1, skip_corrupt=True, cache=cache
            )
        assert images.train_labels.tolist() == [0] * 4 + [1] * 5 + [2] * 5
        assert (images.train_images.flatten(1).float().std(1) > 0).all()


def test_a_class_that_is_corrupt_altogether(tmp_path):
    fill(tmp_path)
    for i in range(6):
        write(tmp_path / "b" / f"{i}.jpg", b"")
    with pytest.raises(InputError, match=r"All 4 train images of the class b in .* are corrupt, the first is b/"):
        data.image_folder(tmp_path, size=8, skip_corrupt=True)


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
        (empty_class, {}, "The class folder .*d holds no JPEG or PNG: put images in it or remove it"),
        (one_class, {}, "has 1 class folders where at least two are needed"),
        (val_lacks_one, {}, "The class c is in only one of .*train and .*val"),
        (val_has_one_more, {}, "The class d is in only one of .*train and .*val"),
        (nothing, {"size": 2}, "4 to 512 pixels a side, not 2"),
        (nothing, {"per_class": 5}, "class a in .* has 6 images, too few for 5 of training, 1 of validation and 1 of"),
        (nothing, {"test_per_class": 9}, "too few for 1 of training, 1 of validation and 9 of test"),
        (nothing, {"per_class": 0}, "per_class must be at least 1, not 0"),
        (nothing, {"validation_per_class": -1}, "validation_per_class must be at least 0, not -1"),
        (nothing, {"test_per_class": 0}, "test_per_class must be at least 1, not 0"),
        (nothing, {"cache": "file"}, "image cache .* cannot be written"),
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


# --- Tiny ImageNet ----------------------------------------------------------------------------------------------------

WNIDS = ("n03", "n01", "n02")


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


def test_tiny_imagenet(tmp_path):
    tiny = data.tiny_imagenet(zipped(tmp_path, tiny_files()), validation_per_class=2)
    assert tiny.name == "tiny-imagenet-200"
    assert tiny.train_images.shape == (9, 3, 32, 32)
    assert tiny.class_names == ("fish", "n02", "cat")
    assert data.tiny_imagenet_wnids(tmp_path) == ("n01", "n02", "n03")
    assert tiny.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert tiny.validation_labels.tolist() == tiny.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    files = tiny_files()
    last = decode(files["train/n01/images/n01_4.JPEG"], 32)
    assert np.array_equal(tiny.validation_images[1], last)
    assert np.array_equal(tiny.test_images[1], decode(files["val/images/val_11.JPEG"], 32))


def test_the_zip_and_its_folder_are_the_same(tmp_path):
    (tmp_path / "a").mkdir()
    one = data.tiny_imagenet(zipped(tmp_path / "a", tiny_files()), 64, validation_per_class=1)
    other = data.tiny_imagenet(unpacked(tmp_path / "b", tiny_files()), 64, validation_per_class=1)
    assert one.fingerprint == other.fingerprint
    assert one.train_images.shape == (12, 3, 64, 64)
    halves = data.tiny_imagenet(tmp_path / "a", 32, validation_per_class=1).train_images.float()
    average = torch.nn.functional.avg_pool2d(one.train_images.float(), 2)
    assert (halves - average).abs().max() <= 1


def test_some_images_of_each_class(tmp_path):
    zipped(tmp_path, tiny_files())
    some = data.tiny_imagenet(tmp_path, per_class=2, validation_per_class=1, test_per_class=1)
    everything = data.tiny_imagenet(tmp_path, validation_per_class=1)
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


@pytest.mark.parametrize(
    "name",
    [
        "tiny-imagenet-200/../../outside",
        "tiny-imagenet-200/train/n01/images/../../../../../outside.JPEG",
        "../outside",
        "..",
        "/etc/outside",
        "C:/outside",
        "C:outside",
        "..\\outside",
        "tiny-imagenet-200\\..\\..\\outside",
        "\\\\server\\outside",
    ],
)
def test_a_zip_with_a_member_outside_of_its_folder_is_refused(tmp_path, name):
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    with zipfile.ZipFile(zipped(root, tiny_files()) / "tiny-imagenet-200.zip", "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(InputError, match=r"holds a member that points outside of its folder .* download it again"):
        data.tiny_imagenet(root, validation_per_class=1)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["tiny-imagenet-200.zip"]


def test_a_zip_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("tiny-imagenet-200/train/n01/images/n01_9.JPEG")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zipped(tmp_path, tiny_files()) / "tiny-imagenet-200.zip", "a") as archive:
        archive.writestr(link, b"/etc/passwd")
    with pytest.raises(InputError, match=r"points outside of its folder \('tiny-imagenet-200/train/n01/images/n01_9"):
        data.tiny_imagenet(tmp_path, validation_per_class=1)


@pytest.mark.parametrize("store", [zipped, unpacked])
def test_a_data_set_that_vanishes_while_it_is_read(tmp_path, store, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    store(root, tiny_files())
    real = pictures_module.decode_all

    def vanishing(*arguments):
        root.rename(tmp_path / "elsewhere")
        return real(*arguments)

    monkeypatch.setattr(pictures_module, "decode_all", vanishing)
    with pytest.raises(InputError, match=r"tiny-imagenet-200.* a moment ago: put it back"):
        data.tiny_imagenet(root, validation_per_class=1, skip_corrupt=True)


def test_sizes_that_a_zip_cannot_have(tmp_path):
    path = zipped(tmp_path, tiny_files()) / "tiny-imagenet-200.zip"
    source = Zip(path, "tiny-imagenet-200")
    source.members["wnids.txt"].compress_size = 2**63
    with source.reader() as read, pytest.raises(zipfile.BadZipFile, match="a size that no picture has"):
        read("wnids.txt")


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
def test_what_cannot_be_asked_of_tiny_imagenet(tmp_path, arguments, said):
    zipped(tmp_path, tiny_files())
    with pytest.raises(InputError, match=said):
        data.tiny_imagenet(tmp_path, **arguments)


def without(*parts):
    return lambda files: {name: content for name, content in files.items() if not any(part in name for part in parts)}


def changed(name, content):
    return lambda files: files | {name: content}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("wnids"), r"its wnids.txt cannot be read"),
        (without("words"), r"its words.txt cannot be read"),
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


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1, -30])
def test_a_zip_cut_short(tmp_path, kept):
    path = zipped(tmp_path, tiny_files()) / "tiny-imagenet-200.zip"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"tiny-imagenet-200.zip is not a whole zip .* download it again"):
        data.tiny_imagenet(tmp_path)


def test_a_damaged_member_is_a_corrupt_image(tmp_path):
    files = tiny_files()
    path = zipped(tmp_path, files) / "tiny-imagenet-200.zip"
    content = path.read_bytes()
    stored = files["train/n02/images/n02_2.JPEG"]
    place = content.index(stored) + len(stored) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    said = r"1 of 21 images .* is train/n02/images/n02_2.JPEG \(its checksum is wrong\)"
    with pytest.raises(InputError, match=said):
        data.tiny_imagenet(tmp_path, validation_per_class=1)
    with pytest.warns(UserWarning, match="1 corrupt images .* the first is train/n02/images/n02_2.JPEG"):
        tiny = data.tiny_imagenet(tmp_path, validation_per_class=1, skip_corrupt=True)
    assert tiny.train_labels.bincount().tolist() == [4, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.integers(0, 2000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_zip_stops_its_reader(tmp_path, changes, end):
    path = tmp_path / "any.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"in/{i}.png", encoded(picture(i, 6, 6), "PNG"))
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content[: max(end, len(content) // 2)])
    try:
        source = Zip(path, "in")
    except InputError:
        return
    images, _ = decode_all(source, source.names(), 4, workers=1)
    assert len(images) == len(source.names())


def test_the_real_one(tiny_imagenet_root, tmp_path):
    tiny = data.tiny_imagenet(tiny_imagenet_root, per_class=2, validation_per_class=1, test_per_class=1)
    assert tiny.train_images.shape == (400, 3, 32, 32)
    assert tiny.test_labels.tolist() == list(range(200))
    assert tiny.class_names[0] == "goldfish"
    assert len(set(tiny.class_names)) == 200
    assert data.tiny_imagenet_wnids(tiny_imagenet_root)[0] == "n01443537"
    goldfish = tiny.train_images[:2].float().mean((0, 2, 3))
    assert goldfish[0] > goldfish[2]  # red channel first
