"""Images of one's own: a folder of class folders with pictures, such as any subset of ImageNet."""

import zlib
from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from kdrepro.data.image_cache import SPLITS
from kdrepro.data.images import ImageData
from kdrepro.data.layouts import Layout, find_layout
from kdrepro.data.pictures import Plan, load_pictures
from kdrepro.data.sources import Folder
from kdrepro.errors import InputError, printable
from kdrepro.paths import expanded

SIZES = range(4, 513)


def image_folder(
    root: Path | str,
    *,
    size: int = 32,
    per_class: int | None = None,
    validation_per_class: int | None = None,
    test_per_class: int | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    cache: Path | str | None = None,
    pattern: str | None = None,
    labels: Path | str | None = None,
) -> ImageData:
    """The images of `root`/<class>/, or of split folders with class folders in them, or of one flat folder.

    A class folder holds its files, or has them in a folder `images`. All formats that Pillow decodes are taken: JPEG,
    PNG, WebP, GIF (its first picture), BMP, TIFF, PPM, AVIF, ... They are decoded as colour, uint8
    [N, 3, size, size]: the short side is brought to `size` by area averages, the centre is kept; grey pictures of up
    to 16 bits by the range that they use together. `class_names` are the folders' names, sorted.

    Split folders are `train` (or training) beside `val` (valid, validation, dev), `test` (testing, eval, evaluation) or
    both, in any case. With both, each is what it is called; with one of them alone, it is the test set. A test folder
    whose images are in no folders of classes, as in competitions, is not used. What has no folder is drawn from each
    class with the seed. per_class: training images a class, None for all that are left. validation_per_class and
    test_per_class: None for all of the split's folder, or for a tenth of the class, at least one, where it is drawn.

    pattern: for images whose names say what they are of: a regular expression with a group `label` that a file's name
    matches as a whole, from its folder (of all, or of the split) on and without its ending; for cat.12.jpg
    pattern=r"(?P<label>[a-z]+)\\.\\d+". labels: a CSV instead, with columns `filename,label`.
    skip_corrupt: warn of images that cannot be decoded, and make the splits of the others.
    cache: a folder that keeps the decoded images; None to decode them each time.
    Files that are not used are counted in one warning. Raises InputError for whatever is wrong with the folder or the
    sizes.
    """
    root = expanded(root)
    if size not in SIZES:
        raise InputError(f"Images can have {SIZES[0]} to {SIZES[-1]} pixels a side, not {size}.")
    check_numbers(per_class, validation_per_class, test_per_class)
    numbers = {"train": per_class, "validation": validation_per_class, "test": test_per_class}
    layout = find_layout(root, pattern, labels)
    plan = partial(_plan, root, layout, numbers, seed)
    name = printable(root.resolve().name) or "images"
    class_names = [printable(label) for label in layout.train]
    more = {"without": plan, "spare": layout.files()} if skip_corrupt else {}
    return load_pictures(Folder(root), name, plan(()), class_names, size, cache=cache, **more)


def _plan(root: Path, layout: Layout, numbers: dict[str, int | None], seed: int, corrupt: Collection[str]) -> Plan:
    """The files of each split and class, without those that are known to be corrupt."""
    plan: Plan = {split: [] for split in SPLITS}
    for label in layout.train:
        given = {
            split: listing and listing[label]
            for split, listing in zip(SPLITS, (layout.train, layout.validation, layout.test), strict=True)
        }
        for split, files in _split(root, label, given, numbers, seed, corrupt).items():
            plan[split].append(files)
    return plan


def check_numbers(per_class: int | None, validation_per_class: int | None, test_per_class: int | None) -> None:
    """Raises InputError for numbers of images a class that cannot be."""
    given = {"per_class": per_class, "validation_per_class": validation_per_class, "test_per_class": test_per_class}
    for name, number in given.items():
        least = 0 if name == "validation_per_class" else 1
        if number is not None and number < least:
            raise InputError(f"{name} must be at least {least}, not {number}.")


def _split(
    root: Path,
    label: str,
    given: dict[str, list[str] | None],
    numbers: dict[str, int | None],
    seed: int,
    corrupt: Collection[str],
) -> dict[str, list[str]]:
    """The files of one class by split, as its own draw says: another class changes nothing."""
    chance = np.random.default_rng([seed, zlib.crc32(printable(label).encode())])

    def drawn(files: list[str]) -> list[str]:
        return [files[i] for i in chance.permutation(len(files)) if files[i] not in corrupt]

    left = drawn(given["train"])
    have, tenth = len(left), max(1, len(left) // 10)
    found, wanted = {}, {"train": numbers["train"] or 1}
    for split in ("test", "validation"):
        if given[split] is None:
            wanted[split] = tenth if numbers[split] is None else numbers[split]
            found[split], left = left[: wanted[split]], left[wanted[split] :]
        else:
            own = drawn(given[split])
            wanted[split] = max(1, len(own)) if numbers[split] is None else numbers[split]
            found[split] = own[: wanted[split]]
    found["train"] = left[: numbers["train"]]
    if any(len(found[split]) < wanted[split] for split in SPLITS):
        raise _too_few(root, label, have, wanted, [name for name in given["train"] if name in corrupt])
    return {split: sorted(found[split]) for split in SPLITS}


def _too_few(root: Path, label: str, have: int, wanted: dict[str, int], corrupt: list[str]) -> InputError:
    if corrupt and not have:
        return InputError(
            f"All {len(corrupt):,} images of the class {label} in {root} are corrupt, the first is {corrupt[0]}: "
            "replace them, or remove the class."
        )
    less = f" without the {len(corrupt):,} corrupt ones" if corrupt else ""
    return InputError(
        f"The class {label} in {root} has {have:,} images{less}, too few for {wanted['train']:,} of training, "
        f"{wanted['validation']:,} of validation and {wanted['test']:,} of test: ask for fewer with per_class, "
        "validation_per_class and test_per_class, or add images."
    )
