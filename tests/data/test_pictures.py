"""Pictures of every shape and kind become squares in colour, and no bytes stop the decoder."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import encoded, fill, picture
from PIL import Image

from kdrepro.data.pictures import decode, decode_all
from kdrepro.data.sources import Folder


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


@pytest.mark.parametrize(("bits", "kind"), [(8, "PNG"), (10, "PNG"), (12, "TIFF"), (14, "PNG"), (16, "TIFF")])
def test_grey_pictures_of_more_bits_are_scaled_by_the_range_that_all_of_them_use(tmp_path, bits, kind):
    """12 bits would be nearly black by the range of 16, and each picture by its own would hide which is brighter."""
    top = (1 << bits) - 1
    for i, value in enumerate((top, top // 2, 0)):
        (tmp_path / f"{i}").write_bytes(encoded(Image.fromarray(np.full((8, 8), value, np.uint16)), kind))
    (tmp_path / "grey").write_bytes(encoded(Image.new("L", (8, 8), 100), "PNG"))
    images, corrupt = decode_all(Folder(tmp_path), ["0", "1", "2", "grey"], 8)
    assert corrupt == {}
    assert images[:, 0, 0, 0].tolist() == [255, 127, 0, 100]


def test_values_whose_range_is_not_known_are_refused(tmp_path):
    for name, values in {"long": np.full((8, 8), 70_000, np.int32), "below": np.full((8, 8), -1, np.int32)}.items():
        (tmp_path / name).write_bytes(encoded(Image.fromarray(values), "TIFF"))
    for name, value in {"one": 0.5, "high": 100.0, "nan": np.nan}.items():
        (tmp_path / name).write_bytes(encoded(Image.fromarray(np.full((8, 8), value, np.float32)), "TIFF"))
    names = ["long", "below", "one", "high", "nan"]
    images, corrupt = decode_all(Folder(tmp_path), names, 8)
    assert corrupt == {
        "long": "its values go from 70000 to 70000: save it with 8 or 16 bits",
        "below": "its values go from -1 to -1: save it with 8 or 16 bits",
        "high": "its values go from 100 to 100, not 0 to 1: save it with 8 bits",
        "nan": "its values go from nan to nan, not 0 to 1: save it with 8 bits",
    }
    assert np.unique(images[2]).tolist() == [128]


def plain_png(kind: int, values: tuple[int, ...], clear: bool = False) -> bytes:
    """A PNG that Pillow can't write: 8 x 8 of one colour of 16 bits a value, which may be its transparent one.

    kind: 0 for grey, 2 for RGB, as PNG counts.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixel = struct.pack(f">{len(values)}H", *values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + 8 * pixel) * 8))
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", pixel) if clear else b"") + pixels + chunk(b"IEND", b"")


def test_colours_of_16_bits_lose_their_lower_8_and_that_is_said(tmp_path):
    (tmp_path / "a").write_bytes(plain_png(2, (0x80FF,) * 3))
    with pytest.warns(UserWarning, match="Of 1 colour image in .* with 16 bits a value, Pillow reads the upper 8"):
        images, _ = decode_all(Folder(tmp_path), ["a"], 8)
    assert np.unique(images).tolist() == [0x80]


@pytest.mark.parametrize(("kind", "values"), [(0, (0x1234,)), (2, (0x1234, 0x5678, 0x9ABC))])
def test_a_colour_of_16_bits_that_is_transparent_is_white(kind, values):
    assert decode(plain_png(kind, values), 8).max() < 255
    assert decode(plain_png(kind, values, clear=True), 8).min() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_every_format_stands_as_the_camera_was_held(kind):
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = image.transpose(Image.Transpose.ROTATE_90)
    got = decode(encoded(stored, kind, exif=exif, quality=95), 16)
    assert got[:, :7].min() > 230
    assert got[:, 9:].max() < 25


def test_of_an_animation_the_first_picture_is_taken():
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        got = decode(encoded(first, kind, save_all=True, append_images=[second]), 8)
        assert got[0].min() > 250, kind
        assert got[2].max() < 5, kind


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_of_every_kind_is_white(mode, kind):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode) if mode != "PA" else Image.new("PA", (8, 8), (0, 0))
    try:
        content = encoded(image, kind)
    except OSError:
        pytest.skip(f"Pillow writes no {kind} of {mode}")
    assert decode(content, 8).min() == 255


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
    images, corrupt = decode_all(Folder(tmp_path), names, 8)
    assert images.shape == (3, 3, 8, 8)
    assert "junk" in corrupt
    assert all("\n" not in reason and "0x" not in reason for reason in corrupt.values())


@pytest.mark.parametrize(
    "content", [b"", bytes(3000), b"\xff" * 3000, b"<html>not found</html>" * 50, b"version https://git-lfs"]
)
def test_what_stands_in_a_pictures_place_is_no_picture(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert decode_all(Folder(tmp_path), ["a.jpg"], 8)[1] == {"a.jpg": "not a picture that Pillow reads"}


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_no_picture(tmp_path, seed):
    (tmp_path / "a.jpg").write_bytes(np.random.default_rng(seed).bytes(2000))
    assert decode_all(Folder(tmp_path), ["a.jpg"], 8)[1].keys() == {"a.jpg"}


def test_threads_decode_the_same(tmp_path):
    source = Folder(fill(tmp_path))
    images, corrupt = decode_all(source, source.names(), 8)
    assert np.array_equal(images, np.stack([decode(source.read(name), 8) for name in source.names()]))
    assert corrupt == {}
