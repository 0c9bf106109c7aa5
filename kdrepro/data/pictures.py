"""Picture files decoded in parallel into one uint8 array."""

import io
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import cache as cached
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from kdrepro.data.image_cache import SPLITS, ImageRows, load_or_make
from kdrepro.data.images import ImageData
from kdrepro.data.sources import Source, digest
from kdrepro.errors import InputError, printable
from kdrepro.files import counted

VERSION = 2  # raised when the same files would give other images
# Pillow's names of what it decodes by itself: not EPS, for which it runs another program, nor what it only recognises,
# nor TGA, which has no mark, so that a damaged file of any other kind may be taken for one.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000", "MPO", "QOI"),
    *("PCX", "SGI", "ICO", "DDS"),
)
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")  # Pillow's modes
DEEP = 16  # bits of a grey value in the deepest pictures that are read
TOGETHER = 256  # images a task
MOST_THREADS = 8  # more of them only wait for each other

Plan = dict[str, list[list[str]]]  # for each split, for each class, the names of its files


def load_pictures(
    source: Source,
    name: str,
    plan: Plan,
    class_names: Sequence[str],
    size: int,
    *,
    cache: Path | str | None,
    without: Callable[[Collection[str]], Plan] | None = None,
    spare: Sequence[str] = (),
) -> ImageData:
    """The images of a plan, decoded or from the cache: colour, uint8 [N, 3, size, size].

    without: makes the plan that does without these files, which cannot be decoded, so that they are left out with a
    warning; None where they are to stop the loader. spare: the names of all files that it may take in their place.
    Raises InputError for corrupt images, and when the cache cannot be written.
    """
    settings = {
        "kind": "pictures",
        "version": VERSION,
        "size": size,
        "counts": _counts(plan),
        "files": digest(source, _names(plan)),
        "class_names": list(class_names),
        "skip_corrupt": without is not None,
    }
    if without is not None:
        settings["spare"] = digest(source, spare)

    def make() -> ImageRows:
        chosen, corrupt = plan, {}
        while True:  # what takes the place of a corrupt image may be corrupt too
            images, wrong = decode_all(source, _names(chosen), size)
            if not wrong:
                return ImageRows(images, _counts(chosen), tuple(class_names), tuple(map(printable, corrupt)))
            _check_there(source.path)
            if without is None:
                raise _corrupt(source.path, wrong, len(images))
            corrupt |= wrong
            chosen = without(corrupt)

    data, skipped = load_or_make(cache, name, settings, make)
    if skipped:
        text = f"Left out of {source.path}: {counted(len(skipped), 'corrupt image')}, the first is {skipped[0]}."
        warnings.warn(text, stacklevel=3)
    return data


def _names(plan: Plan) -> list[str]:
    return [name for split in SPLITS for of_class in plan[split] for name in of_class]


def _counts(plan: Plan) -> dict[str, list[int]]:
    return {split: [len(of_class) for of_class in plan[split]] for split in SPLITS}


def _check_there(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path} is no longer there, and it was a moment ago: put it back and run again.")


def _corrupt(path: Path, wrong: dict[str, str], images: int) -> InputError:
    first = next(iter(wrong))
    return InputError(
        f"{len(wrong):,} of {images:,} images in {path} cannot be decoded, the first is {first} ({wrong[first]}): "
        "replace or remove them, download the data set again, or give image_folder skip_corrupt=True."
    )


@cached
def endings() -> tuple[str, ...]:
    """How the files are called that can be decoded with this Pillow, and the plug-ins that were registered with it."""
    known = Image.registered_extensions().items()  # it loads every plug-in
    return tuple(ending for ending, kind in known if kind in FORMATS and (kind in Image.OPEN or kind == "MPO"))


def decode_all(source: Source, names: Sequence[str], size: int) -> tuple[np.ndarray, dict[str, str]]:
    """Decode files in threads: uint8 [N, 3, size, size], and for each that is corrupt what was wrong.

    Grey pictures of 16 bits are brought to 8 by the range that all of them together use: of 12 bits in the files of
    an X-ray machine, all 12.
    """
    images = np.zeros((len(names), 3, size, size), np.uint8)
    endings()  # Pillow's plug-ins are loaded once, before the threads start
    decoded: dict[int, Decoded] = {}

    def put(i: int, bits: int = DEEP) -> str:
        """Decode an image into its place; returns what was wrong with it."""
        try:
            one = _decoded(source.read(names[i]), size, bits)
        except UnidentifiedImageError:
            return "not a picture that Pillow reads"
        except Exception as error:  # bad bytes make the decoders raise nearly anything
            return " ".join(str(error).split()) or type(error).__name__
        images[i], decoded[i] = one.pixels, one._replace(pixels=None)
        return ""

    with ThreadPool(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        wrong = dict(zip(names, pool.map(put, range(len(names)), chunksize=TOGETHER), strict=True))
        deep = [i for i, one in decoded.items() if one.greatest is not None]
        bits = max([8, *(decoded[i].greatest.bit_length() for i in deep)])
        if deep and bits < DEEP:
            pool.map(lambda i: put(i, bits), deep, chunksize=TOGETHER)
    if shortened := sum(one.shortened for one in decoded.values()):
        text = (
            f"Of {counted(shortened, 'colour image')} in {source.path} with 16 bits a value, Pillow reads the upper 8."
        )
        warnings.warn(printable(text), stacklevel=6)
    return images, {name: reason for name, reason in wrong.items() if reason}


class Decoded(NamedTuple):
    """A picture. pixels: uint8 [3, size, size]. greatest: the greatest value of a grey one of more than 8 bits.

    shortened: whether Pillow took the upper 8 of 16 bits by itself, as it does with colours.
    """

    pixels: np.ndarray | None
    greatest: int | None
    shortened: bool


def decode(content: bytes, size: int) -> np.ndarray:
    """A picture as uint8 [3, size, size]: the central square, by area averages where that is larger.

    The first picture of several. Raises nearly anything for what cannot be decoded.
    """
    return _decoded(content, size, DEEP).pixels


def _decoded(content: bytes, size: int, bits: int) -> Decoded:
    """bits: how many a grey picture of more than 8 uses."""
    with Image.open(io.BytesIO(content), formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
        shortened = image.mode[0] != "I" and any(";16" in str(tile[3]) for tile in image.tile)
        if shortened and isinstance(image.info.get("transparency"), tuple):  # Pillow leaves this one its 16 bits
            image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
        image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a half, a quarter or an eighth
        image = _upright(image)
        image, greatest = _in_eight_bits(image, bits)
        image = _rgb(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    by = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    image = image.resize((size, size), by, box=(left, top, left + side, top + side))
    return Decoded(np.asarray(image).transpose(2, 0, 1), greatest, shortened)


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # a picture with bad EXIF data is still a picture
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def _in_eight_bits(image: Image.Image, bits: int) -> tuple[Image.Image, int | None]:
    """A grey picture of more than 8 bits, which `convert` would clip, as one of 8, and its greatest value or None."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 1 << DEEP:
            raise ValueError(f"its values go from {values.min()} to {values.max()}: save it with 8 or 16 bits")
        grey = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
        if isinstance(clear := image.info.get("transparency"), int):
            grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey, int(values.max())
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # not a number is neither
            raise ValueError(
                f"its values go from {values.min():g} to {values.max():g}, not 0 to 1: save it with 8 bits"
            )
        return Image.fromarray(np.rint(255 * values).astype(np.uint8)), None
    return image, None


def _rgb(image: Image.Image) -> Image.Image:
    """Any kind of picture as RGB, what is transparent on white."""
    if image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
