"""JPEG and PNG files decoded in parallel into one uint8 array."""

import io
import os
import warnings
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from kdrepro.data.image_cache import SPLITS, ImageRows, load_or_make
from kdrepro.data.images import ImageData
from kdrepro.data.sources import Source, digest
from kdrepro.errors import InputError

VERSION = 1  # raised when the same files would give other images
ENDINGS = (".jpg", ".jpeg", ".png")
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
    skip_corrupt: bool = False,
) -> ImageData:
    """The images of a plan, decoded or from the cache: colour, uint8 [N, 3, size, size].

    skip_corrupt: warn of what cannot be decoded and leave it out.
    Raises InputError for corrupt images, and when the cache cannot be written.
    """
    settings = {
        "kind": "pictures",
        "version": VERSION,
        "size": size,
        "counts": _counts(plan),
        "files": digest(source, _names(plan)),
        "class_names": list(class_names),
        "skip_corrupt": skip_corrupt,
    }

    def make() -> ImageRows:
        images, corrupt = decode_all(source, _names(plan), size)
        rows = ImageRows(images, _counts(plan), tuple(class_names))
        return _without(corrupt, rows, plan, source.path, skip_corrupt) if corrupt else rows

    data, skipped = load_or_make(cache, name, settings, make)
    if skipped:
        text = f"{len(skipped):,} corrupt images in {source.path} were left out, the first is {skipped[0]}."
        warnings.warn(text, stacklevel=3)
    return data


def _names(plan: Plan) -> list[str]:
    return [name for split in SPLITS for of_class in plan[split] for name in of_class]


def _counts(plan: Plan) -> dict[str, list[int]]:
    return {split: [len(of_class) for of_class in plan[split]] for split in SPLITS}


def _without(corrupt: dict[str, str], rows: ImageRows, plan: Plan, path: Path, skip_corrupt: bool) -> ImageRows:
    """The images that could be decoded. Raises InputError when they are to be all, or a class has none of a split."""
    first = next(iter(corrupt))
    if not path.exists():
        raise InputError(f"{path} is no longer there, and it was a moment ago: put it back and run again.")
    if not skip_corrupt:
        raise InputError(
            f"{len(corrupt):,} of {len(rows.images):,} images in {path} cannot be decoded, the first is {first} "
            f"({corrupt[first]}): replace or remove them, download the data set again, or give image_folder "
            "skip_corrupt=True."
        )
    good = {split: [[name for name in of_class if name not in corrupt] for of_class in plan[split]] for split in SPLITS}
    for split in SPLITS:
        for class_name, of_class, left in zip(rows.class_names, plan[split], good[split], strict=True):
            if of_class and not left:
                raise InputError(
                    f"All {len(of_class):,} {split} images of the class {class_name} in {path} are corrupt, "
                    f"the first is {of_class[0]}: replace them, or remove the class."
                )
    kept = [name not in corrupt for name in _names(plan)]
    return ImageRows(rows.images[kept], _counts(good), rows.class_names, tuple(corrupt))


def decode_all(source: Source, names: Sequence[str], size: int) -> tuple[np.ndarray, dict[str, str]]:
    """Decode files in threads: uint8 [N, 3, size, size], and for each that is corrupt what was wrong."""
    images = np.zeros((len(names), 3, size, size), np.uint8)

    def put(i: int) -> str:
        """Decode an image into its place; returns what was wrong with it."""
        try:
            images[i] = decode(source.read(names[i]), size)
        except UnidentifiedImageError:
            return "not a JPEG or PNG"
        except Exception as error:  # bad bytes make the decoders raise nearly anything
            return " ".join(str(error).split()) or type(error).__name__
        return ""

    with ThreadPool(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        wrong = dict(zip(names, pool.map(put, range(len(names)), chunksize=TOGETHER), strict=True))
    return images, {name: reason for name, reason in wrong.items() if reason}


def decode(content: bytes, size: int) -> np.ndarray:
    """A JPEG or PNG as uint8 [3, size, size]: the central square, by area averages where that is larger."""
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a half, a quarter or an eighth
        image = _rgb(_upright(image))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    by = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    image = image.resize((size, size), by, box=(left, top, left + side, top + side))
    return np.asarray(image).transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # a picture with bad EXIF data is still a picture
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def _rgb(image: Image.Image) -> Image.Image:
    """Any kind of picture as RGB, what is transparent on white."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
