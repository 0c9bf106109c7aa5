"""Images of one's own: a folder of class folders with JPEG or PNG files, such as any subset of ImageNet."""

import zlib
from pathlib import Path

import numpy as np

from kdrepro.data.image_cache import SPLITS
from kdrepro.data.images import ImageData
from kdrepro.data.pictures import ENDINGS, load_pictures
from kdrepro.data.sources import Folder
from kdrepro.errors import InputError

SIZES = range(4, 513)

Listing = dict[str, list[str]]  # of each class the names of its files


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
) -> ImageData:
    """The images of `root`/<class>/, or of `root`/train/<class>/ and `root`/val/<class>/ where both are there.

    A class folder holds its files, or has them in a folder `images`. They are decoded as colour, uint8
    [N, 3, size, size]: the short side is brought to `size` by area averages, the centre is kept. `class_names` are the
    folders' names, sorted.

    The test cases are those of val/, all or `test_per_class` a class; without a val/ they are drawn from each class
    with the seed, as validation cases are. None for their numbers: a tenth of the class, at least one.
    per_class: training images a class, None for all that are left.
    skip_corrupt: warn of images that cannot be decoded and go on without them.
    cache: a folder that keeps the decoded images; None to decode them each time.
    Raises InputError for whatever is wrong with the folder or the sizes.
    """
    root = Path(root).expanduser()
    if size not in SIZES:
        raise InputError(f"Images can have {SIZES[0]} to {SIZES[-1]} pixels a side, not {size}.")
    check_numbers(per_class, validation_per_class, test_per_class)
    numbers = {"train": per_class, "validation": validation_per_class, "test": test_per_class}
    listing, tests = _find(root)
    of_class = [_split(root, name, files, tests and tests[name], numbers, seed) for name, files in listing.items()]
    plan = {split: [splits[split] for splits in of_class] for split in SPLITS}
    name = root.resolve().name or "images"
    return load_pictures(Folder(root), name, plan, list(listing), size, cache=cache, skip_corrupt=skip_corrupt)


def check_numbers(per_class: int | None, validation_per_class: int | None, test_per_class: int | None) -> None:
    """Raises InputError for numbers of images a class that cannot be."""
    given = {"per_class": per_class, "validation_per_class": validation_per_class, "test_per_class": test_per_class}
    for name, number in given.items():
        least = 0 if name == "validation_per_class" else 1
        if number is not None and number < least:
            raise InputError(f"{name} must be at least {least}, not {number}.")


def _find(root: Path) -> tuple[Listing, Listing | None]:
    """The files of each class, and those of val/ where the folder has one."""
    if not root.is_dir():
        raise InputError(
            f"There is no folder {root}: give the one whose sub-folders are the classes; "
            "the smoke preset needs no images of yours."
        )
    with_val = (root / "train").is_dir() and (root / "val").is_dir()
    train = root / "train" if with_val else root
    listing = _listing(root, train)
    if len(listing) < 2:
        raise InputError(
            f"{train} has {len(listing)} class folders where at least two are needed: give the folder whose "
            "sub-folders are the classes."
        )
    tests = _listing(root, root / "val") if with_val else None
    if tests is not None and (odd := sorted(listing.keys() ^ tests.keys())):
        raise InputError(f"The class {odd[0]} is in only one of {train} and {root / 'val'}: it must be in both.")
    return listing, tests


def _listing(root: Path, folder: Path) -> Listing:
    """The images of every class folder, their names from `root` on; what starts with a dot is not looked at."""
    found = {}
    try:
        for of_class in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            places = [p for p in (of_class, of_class / "images") if p.is_dir()]
            files = [f for place in places for f in place.iterdir() if f.suffix.lower() in ENDINGS]
            found[of_class.name] = sorted(f.relative_to(root).as_posix() for f in files if not f.name.startswith("."))
            if not found[of_class.name]:
                raise InputError(f"The class folder {of_class} holds no JPEG or PNG: put images in it or remove it.")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): see to its permissions.") from error
    return found


def _split(
    root: Path, name: str, files: list[str], tests: list[str] | None, numbers: dict[str, int | None], seed: int
) -> dict[str, list[str]]:
    """The files of one class by split, as its own draw says: another class changes nothing."""
    chance = np.random.default_rng([seed, zlib.crc32(name.encode())])
    left = [files[i] for i in chance.permutation(len(files))]
    tenth = max(1, len(files) // 10)
    share = {split: tenth if numbers[split] is None else numbers[split] for split in ("validation", "test")}
    if tests is None:
        tests, left = left[: share["test"]], left[share["test"] :]
    else:
        share["test"] = numbers["test"] or len(tests)
        tests = [tests[i] for i in chance.permutation(len(tests))[: share["test"]]]
    validation, left = left[: share["validation"]], left[share["validation"] :]
    wanted = numbers["train"] or 1
    if len(left) < wanted or len(tests) < share["test"]:
        raise InputError(
            f"The class {name} in {root} has {len(files):,} images, too few for {wanted:,} of training, "
            f"{share['validation']:,} of validation and {share['test']:,} of test: ask for fewer with per_class, "
            "validation_per_class and test_per_class, or add images."
        )
    return {"train": sorted(left[: numbers["train"]]), "validation": sorted(validation), "test": sorted(tests)}
