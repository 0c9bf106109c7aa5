"""Images that took a while to make, kept on disk for the next run: one uint8 array and a small json beside it."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrepro.data.images import ImageData
from kdrepro.files import atomic_write, read_array, remove_stale, replacing, set_aside, try_folder, writing
from kdrepro.paths import expanded

SPLITS = ("train", "validation", "test")
LONGEST_NAME = 100  # characters of a data set's name in those of its files; file systems take 255 bytes


@dataclass(frozen=True)
class ImageRows:
    """The images of all splits in one array: training cases first, then validation, then test, each by class.

    images: uint8 [N, H, W] or [N, 3, H, W]. counts: of each split, how many images each class has.
    skipped: names of the files that could not be read.
    """

    images: np.ndarray
    counts: dict[str, list[int]]
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def data(self, name: str) -> ImageData:
        """The same as tensors, which share the array's memory."""
        sizes = [sum(self.counts[split]) for split in SPLITS]
        train, validation, test = torch.from_numpy(self.images).split(sizes)
        label = {split: _labels(counts) for split, counts in self.counts.items()}
        more = {"validation_images": validation, "validation_labels": label["validation"]} if len(validation) else {}
        pairs = (train, label["train"], test, label["test"])
        return ImageData.of(name, *pairs, len(self.class_names), class_names=self.class_names, **more)


def load_or_make(
    cache: Path | str | None, name: str, settings: dict[str, Any], make: Callable[[], ImageRows]
) -> tuple[ImageData, tuple[str, ...]]:
    """The images of these settings from the cache, or made and put there; and the names of skipped files.

    cache: a folder, or None to keep nothing. settings: whatever decides the images, for json.
    A damaged entry is named in a warning, set aside and made again. The json is written last: an array without one
    was never finished. Raises InputError when the folder cannot be written.
    """
    if cache is None:
        rows = make()
        return rows.data(name), rows.skipped
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = expanded(cache) / f"{re.sub('[^A-Za-z0-9_.-]', '_', name)[:LONGEST_NAME]}-{key}.json"
    if found := _load(path, name):
        return found
    with writing(f"the image cache {path.parent}"):  # before the work, not after it
        try_folder(path.parent)
    rows = make()
    data = rows.data(name)
    with writing(f"the image cache {path.parent}"):
        _save(path, rows, {"settings": settings, "fingerprint": data.fingerprint})
    return data, rows.skipped


def _load(path: Path, name: str) -> tuple[ImageData, tuple[str, ...]] | None:
    if not path.exists():
        return None
    array = path.with_suffix(".npy")
    try:
        kept = json.loads(path.read_bytes())
        images = read_array(array)
        rows = ImageRows(images, kept["counts"], tuple(kept["class_names"]), tuple(kept["skipped"]))
        data = rows.data(name)
        if data.fingerprint == kept["fingerprint"]:
            return data, rows.skipped
        reason = "its images are not those that were written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
    with writing(f"the image cache {path.parent}"):
        aside = [moved for moved in map(set_aside, (path, array)) if moved is not None]
    if aside:  # else another process was faster
        warnings.warn(f"{array} was damaged ({reason}): set aside as {aside[-1]} and made again.", stacklevel=4)
    return None


def _save(path: Path, rows: ImageRows, about: dict[str, Any]) -> None:
    with replacing(path.with_suffix(".npy")) as file:
        np.save(file, rows.images)
    about |= {"counts": rows.counts, "class_names": rows.class_names, "skipped": rows.skipped}
    atomic_write(path, json.dumps(about).encode())
    remove_stale(path.parent, f".{path.stem}.*.part")


def _labels(counts: list[int]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
