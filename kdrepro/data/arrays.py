"""Image sets of MNIST's kind: idx files, as Fashion-MNIST, KMNIST and EMNIST have them, and NumPy's archives."""

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kdrepro.data.images import ImageData
from kdrepro.errors import InputError, printable
from kdrepro.files import OF_HEADERS
from kdrepro.paths import expanded

# Parts of the files' names, by what is in them.
IDX = {
    "train_images": ("train-images",),
    "train_labels": ("train-labels",),
    "test_images": ("t10k-images", "test-images"),
    "test_labels": ("t10k-labels", "test-labels"),
}
# What the arrays are called: here and by MedMNIST, and by Keras.
NPZ = {
    "train_images": ("train_images", "x_train"),
    "train_labels": ("train_labels", "y_train"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
    "validation_images": ("validation_images", "val_images", "x_val"),
    "validation_labels": ("validation_labels", "val_labels", "y_val"),
}
LABEL_KINDS = "biufUS"  # NumPy's: numbers, and names
MOST_AXES = 4  # of images in an idx file, colours among them
# What NumPy, zipfile and gzip raise.
DAMAGED = (*OF_HEADERS, OSError, ValueError, KeyError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)


def idx_images(root: Path | str, *, prefix: str = "") -> ImageData:
    """The four idx files, gzipped or not, of a set of MNIST's kind: in `root`, or in its folder `raw` or `<name>/raw`.

    prefix: what the names begin with, where a folder holds several sets: "emnist-letters-" say.
    Returns images [N, H, W]; classes are the labels that occur in training, in their order. Raises InputError for files
    that are missing, damaged, or do not go together.
    """
    root = expanded(root)
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: give the one that holds the idx files.")
    files = [path for pattern in ("*idx*", "raw/*idx*", "*/raw/*idx*") for path in sorted(root.glob(pattern))]
    found = {name: read_idx(_one(root, files, prefix, parts)) for name, parts in IDX.items()}
    return _image_data(root, found)


def npz_images(path: Path | str) -> ImageData:
    """A NumPy archive with train_images, train_labels, test_images and test_labels, or Keras' x_train, y_train, ...

    Images uint8 [N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W], labels [N] or [N, 1]; val_images and val_labels as
    validation images, where they are there. Classes are the labels that occur in training, in their order. Pickled
    objects are never loaded. Raises InputError for an archive that is damaged or lacks an array.
    """
    path = expanded(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}: give a .npz with images and labels.")
    try:
        found = _archived(path)
    except InputError:
        raise
    except DAMAGED as error:
        said = str(error) or type(error).__name__
        raise InputError(f"{path} is not a whole .npz ({said}): save it again with numpy.savez.") from None
    return _image_data(path, found)


def _archived(path: Path) -> dict[str, np.ndarray]:
    """The arrays of `NPZ` that an archive holds. Raises InputError, and any of DAMAGED."""
    found, archive = {}, np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise InputError(f"{path} is one array: save images and labels together, with numpy.savez.")
    with archive:
        for name, known in NPZ.items():
            there = next((one for one in known if one in archive.files), None)
            if there is not None:
                found[name] = archive[there]
            elif not name.startswith("validation"):
                held = ", ".join(archive.files)
                raise InputError(f"{path} holds no array {' or '.join(known)}, but {held}: name it so.")
    if odd := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"its {odd[0]} are no array")
    return found


def _one(root: Path, files: Sequence[Path], prefix: str, parts: Sequence[str]) -> Path:
    """The one file with this part in its name. Raises InputError."""
    fitting = [path for path in files if path.name.startswith(prefix) and any(part in path.name for part in parts)]
    stems = {path.with_suffix("") if path.suffix == ".gz" else path for path in fitting}
    if not fitting:
        raise InputError(f"There is no idx file {prefix}*{parts[0]}* in {root}: it and three others make a set.")
    if len(stems) > 1:
        names = ", ".join(sorted(path.name for path in fitting)[:3])
        raise InputError(f"{root} holds several sets ({names}, ...): give a folder of one, or say which by `prefix`.")
    return min(fitting, key=lambda path: path.suffix == ".gz")


def read_idx(path: Path) -> np.ndarray:
    """The array in an idx file of unsigned bytes. Raises InputError."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read ({error}): download it again.") from None
    axes = content[3] if len(content) > 4 and content[:3] == b"\x00\x00\x08" else 0
    shape = np.frombuffer(content[4 : 4 + 4 * axes], ">u4").tolist() if len(content) >= 4 + 4 * axes else []
    if not 1 <= axes <= MOST_AXES or len(content) != 4 + 4 * axes + math.prod(shape):
        raise InputError(f"{path} is not a whole idx file of bytes: it was cut short or is of another kind.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def _image_data(path: Path, arrays: Mapping[str, np.ndarray]) -> ImageData:
    """The arrays as a data set, its labels numbered from 0. Raises InputError."""
    for split in ("train", "test"):
        if not arrays[f"{split}_images"].size:
            raise InputError(f"{path} has no {split} images: a set needs some to train on and some to test with.")
    labels = {name: np.asarray(array).reshape(-1) for name, array in arrays.items() if name.endswith("_labels")}
    if odd := [name for name, array in labels.items() if array.dtype.kind not in LABEL_KINDS]:
        raise InputError(f"{path}: {odd[0]} holds {labels[odd[0]].dtype}: give whole numbers, or names.")
    numbers = np.unique(labels["train_labels"])
    for name, array in labels.items():
        if len(unknown := np.setdiff1d(array, numbers)):
            raise InputError(f"{path}: {name} holds {unknown[0]}, which is no label in training: leave its cases out.")
    given = {name: _ordered(array) for name, array in arrays.items() if name.endswith("_images")}
    given |= {name: np.searchsorted(numbers, array).astype(np.int64) for name, array in labels.items()}
    given = {name: array for name, array in given.items() if len(array) or not name.startswith("validation")}
    names = tuple(str(number) for number in numbers)
    name = printable(path.resolve().name.removesuffix(".npz"))
    try:
        return ImageData.of(name, classes=len(numbers), class_names=names, **given)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None


def _ordered(images: np.ndarray) -> np.ndarray:
    """Channels before rows; grey images without a channel."""
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = np.moveaxis(images, -1, 1)
    return np.ascontiguousarray(images[:, 0] if images.ndim == 4 and images.shape[1] == 1 else images)
