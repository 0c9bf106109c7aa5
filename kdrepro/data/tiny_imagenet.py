"""Tiny ImageNet: 200 of ImageNet's classes at 64 x 64 pixels, read from its zip as it is or from its folder."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kdrepro.data.downloads import Progress, download
from kdrepro.data.folders import check_numbers
from kdrepro.data.image_cache import SPLITS
from kdrepro.data.images import ImageData
from kdrepro.data.pictures import Plan, load_pictures
from kdrepro.data.sources import Folder, Source, Zip
from kdrepro.errors import InputError
from kdrepro.paths import expanded

NAME = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
LIST = "wnids.txt"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # of its 248,100,043 bytes
_SORTED = re.compile(r"val/([^/]+)/(?:images/)?[^/.][^/]*\.jpe?g", re.IGNORECASE)


def tiny_imagenet(
    root: Path | str,
    size: int = 32,
    *,
    per_class: int | None = None,
    validation_per_class: int = 40,
    test_per_class: int | None = None,
    numbered_below: int | None = None,
    fresh: bool = False,
    cache: Path | str | None = None,
) -> ImageData:
    """Read Tiny ImageNet from `root`/tiny-imagenet-200.zip in place, or from the folder `root`/tiny-imagenet-200.

    One more folder of this name around it does not matter, nor whether `val` is sorted into folders of classes.

    Colour images, uint8 [N, 3, size, size], size 64 as they are or 32 by averages over 2 x 2 pixels. The classes are
    the sorted WordNet ids (`tiny_imagenet_wnids`), `class_names` the first synonym of each, or the id where
    there is no words.txt.

    Its 10,000 validation images are the test cases here (its own test images have no labels): all of them, or the
    first `test_per_class` of each class. The last `validation_per_class` training images of each class, in the order
    of their names, are the validation cases; of the others the first `per_class`, or all, are the training cases.
    numbered_below: of the 500 training images of a class, numbered from 0 on at the ends of their names, only those
    below are training and validation cases; None for all. fresh: the others of them are the test cases, in the place
    of its validation images.
    cache: a folder that keeps the decoded images; None to decode them each time.
    Raises InputError when the data set is absent, cut short or damaged, and for numbers that cannot be: a
    `NoFreshError` where `fresh` is asked for and a class of this copy has no images numbered so.
    """
    if size not in (32, 64):
        raise InputError(f"Tiny ImageNet comes at a size of 32 or 64 pixels, not {size}.")
    check_numbers(per_class, validation_per_class, test_per_class)
    source = _source(expanded(root))
    wnids, names = _wnids(source), source.names()
    if fresh and numbered_below is None:
        raise InputError("fresh images are those numbered from numbered_below on: give that number.")
    training = _training(source, names, wnids)
    below = {wnid: [n for n in of if _number(n) < (numbered_below or 10**9)] for wnid, of in training.items()}
    tests = _above(source, training, numbered_below) if fresh else _tests(source, names, wnids)
    plan = _plan(source, below, tests, per_class, validation_per_class, test_per_class)
    return load_pictures(source, NAME, plan, _first_synonyms(source, names, wnids), size, cache=cache)


def fetch_tiny_imagenet(root: Path | str, *, url: str = URL, progress: Progress | None = None) -> Path:
    """Download the zip into `root` unless it, or the folder unpacked from it, is there; returns which is.

    A zip that cannot be opened is downloaded again.

    Raises InputError, see `downloads.download`; what has come so far is kept, and the next call goes on from there.
    """
    root = expanded(root)
    with suppress(InputError):  # absent, or a zip that cannot be opened
        return _source(root).path
    return download(url, root / f"{NAME}.zip", md5=MD5, what="Tiny ImageNet", progress=progress)


def tiny_imagenet_wnids(root: Path | str) -> tuple[str, ...]:
    """The WordNet id of each class of `tiny_imagenet`, in its order. Raises InputError as it does."""
    return tuple(_wnids(_source(expanded(root))))


def _source(root: Path) -> Source:
    """The zip where there is one, else the folder; within it what lies beside wnids.txt."""
    path = root / f"{NAME}.zip"
    if path.is_file():
        found = Zip(path, within=NAME)
        others = (Zip(path, within) for within in (f"{NAME}/{NAME}", "") if LIST not in found.members)
        return next((other for other in others if LIST in other.members), found)
    places = [root / NAME, root / NAME / NAME, root]
    for place in places:
        if (place / LIST).is_file() and (place / "train").is_dir():
            return Folder(place)
    if (root / NAME).is_dir():
        return Folder(root / NAME)  # whatever it lacks is said by name
    raise InputError(
        f"Tiny ImageNet is not in {root} (neither {NAME}.zip nor {NAME}/): run `kdrepro data fetch tiny-imagenet`, put "
        f"Stanford CS231n's {URL} there, or set KDREPRO_DATA (or data_root) to the folder that holds it; "
        "the smoke preset needs no download."
    )


def _wnids(source: Source) -> list[str]:
    wnids = sorted(_text(source, LIST).split())
    if len(wnids) < 2 or len(set(wnids)) < len(wnids):
        raise _damaged(source, f"its wnids.txt lists {len(set(wnids))} different classes in {len(wnids)} lines")
    return wnids


class NoFreshError(InputError):
    """A copy has no images beyond those that networks are trained on and chosen by."""


def _number(name: str) -> int:
    """What a training image's name ends in: n01443537_12.JPEG is number 12; 0 where there is none."""
    match = re.search(r"_(\d+)\.[^./]+$", name)
    return int(match[1]) if match else 0


def _above(source: Source, training: Mapping[str, list[str]], number: int) -> dict[str, list[str]]:
    """The training images of each class that are numbered so or higher."""
    found = {wnid: [name for name in names if _number(name) >= number] for wnid, names in training.items()}
    if absent := [wnid for wnid, names in found.items() if not names]:
        raise NoFreshError(
            f"The class {absent[0]} in {source.path} has no training images numbered from {number} on, as the original "
            f"has: take that, {URL}."
        )
    return found


def _plan(
    source: Source,
    training: Mapping[str, list[str]],
    tests: Mapping[str, list[str]],
    per_class: int | None,
    validation: int,
    test: int | None,
) -> Plan:
    plan: Plan = {split: [] for split in SPLITS}
    for wnid in training:
        of_class, of_test = training[wnid], tests[wnid]
        kept = len(of_class) - validation
        if kept < (per_class or 1):
            given = f"per_class={per_class} and validation_per_class={validation}"
            raise _too_few(source, wnid, "training", len(of_class), given)
        if len(of_test) < (test or 1):
            raise _too_few(source, wnid, "validation", len(of_test), f"test_per_class={test}")
        plan["train"].append(of_class[:kept][:per_class])
        plan["validation"].append(of_class[kept:])
        plan["test"].append(of_test[:test])
    return plan


def _training(source: Source, names: Sequence[str], wnids: Sequence[str]) -> dict[str, list[str]]:
    """The training images of each class, sorted by name."""
    found: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    for name in names:
        match = re.fullmatch(r"train/([^/]+)/(?:images/)?[^/.][^/]*\.jpe?g", name, re.IGNORECASE)
        if match and match[1] in found:
            found[match[1]].append(name)
    if empty := [wnid for wnid in wnids if not found[wnid]]:
        raise _damaged(source, f"the class {empty[0]} has no images in train/{empty[0]}/images")
    return found


def _tests(source: Source, names: Sequence[str], wnids: Sequence[str]) -> dict[str, list[str]]:
    """The validation images of each class, sorted by name: as they are annotated, or in folders of classes."""
    found: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    there = {name for name in names if name.startswith("val/")}
    in_folders = [(name, match[1]) for name in there if (match := _SORTED.fullmatch(name)) and match[1] in found]
    if in_folders and not any(name.startswith("val/images/") for name in there):
        for name, wnid in sorted(in_folders):
            found[wnid].append(name)
        return found
    for line in _text(source, "val/val_annotations.txt").splitlines():
        file, wnid = (*line.split("\t"), "")[:2]
        if wnid not in found:
            raise _damaged(source, f"its val_annotations.txt gives {file[:40]!r} the unknown class {wnid[:40]!r}")
        if f"val/images/{file}" not in there:
            raise _damaged(source, f"val/images/{file[:40]} is missing, which its val_annotations.txt lists")
        found[wnid].append(f"val/images/{file}")
    return {wnid: sorted(of_class) for wnid, of_class in found.items()}


def _first_synonyms(source: Source, names: Sequence[str], wnids: Sequence[str]) -> list[str]:
    """A name a class; a WordNet id that words.txt does not have is its own."""
    text = _text(source, "words.txt") if "words.txt" in names else ""
    words = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    return [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]


def _text(source: Source, name: str) -> str:
    try:
        return source.read(name).decode()
    except Exception as error:  # a damaged zip makes its reader raise nearly anything
        raise _damaged(source, f"its {name} cannot be read") from error


def _damaged(source: Source, what: str) -> InputError:
    return InputError(f"{source.path} is not a whole Tiny ImageNet ({what}): download it again from {URL}.")


def _too_few(source: Source, wnid: str, split: str, have: int, given: str) -> InputError:
    return InputError(
        f"The class {wnid} in {source.path} has {have:,} {split} images, too few for {given}: ask for fewer."
    )
