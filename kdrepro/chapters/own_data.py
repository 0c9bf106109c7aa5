"""Data of one's own in the chapters: what it may be, how it is read, and what a chapter cannot do on it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdrepro import data, paths
from kdrepro.chapters.presets import CHAPTERS, Preset, is_speech
from kdrepro.chapters.sizes import Specialised
from kdrepro.data import ImageData
from kdrepro.errors import InputError, nearest
from kdrepro.speech.corpus import Corpus
from kdrepro.speech.folder import speakers_of, speech_folder
from kdrepro.verdicts import claims

# By kind: what it is for a reader, and the options with what a text becomes.
NAMES = "+"  # between several names in an option
KINDS: dict[str, tuple[str, Mapping[str, type]]] = {
    "idx": ("a folder of idx files", {"prefix": str}),
    "npz": ("a NumPy archive of images", {}),
    "folder": (
        "a folder of pictures",
        {"size": int, "per_class": int, "validation_per_class": int, "test_per_class": int, "pattern": str}
        | {"labels": Path, "seed": int, "skip_corrupt": bool},
    ),
    "recordings": (
        "a folder of recordings",
        {"silences": tuple, "validation_speakers": tuple, "test_speakers": tuple, "pattern": str},
    ),
}
YES_OR_NO = {"yes": True, "no": False}
LEAST_CLASSES = 4
# Claims that ask for what data of one's own does not have.
LEFT_OUT = {"specialists.table2": "it asks which kind of thing each class is, and your classes have no such groups"}


def left_out(chapter: str) -> dict[str, str]:
    """The claims of a chapter that data of one's own cannot show, and why."""
    return {claim_id: why for claim_id, why in LEFT_OUT.items() if claims.get(claim_id).chapter == chapter}


@dataclass(frozen=True)
class OwnData:
    """kind: of `KINDS`. path: of the folder or file. options: of the function that reads it."""

    kind: str
    path: Path
    options: dict[str, Any]


def parse(text: str) -> OwnData:
    """Read `KIND:PATH` or `KIND:PATH,OPTION=VALUE,...`.

    idx: a folder (option prefix); npz: a file; folder: pictures in class folders, with all options of
    `data.image_folder` but the cache; recordings: see `data.speech_folder`, with "+" between several names (silences,
    validation_speakers, test_speakers, pattern). An option that is true or false says yes or no.
    Raises InputError for another kind or option, a value that is none, and a path that is not there.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        known = ", ".join(f"{name}:PATH" for name in KINDS)
        raise InputError(f"Data of your own is one of {known}, not {text!r}{nearest(kind, KINDS)}.")
    options, known = {}, KINDS[kind][1]
    while match := re.search(r",(\w+)=([^,]*)$", rest):
        name, value = match.groups()
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"{kind}: has no option {name!r}{nearest(name, known)}; {there}.")
        options[name] = _converted(name, value, known[name])
        rest = rest[: match.start()]
    path = paths.expanded(rest).resolve()
    if not rest or not path.exists():
        raise InputError(f"There is no {path}, of which {text!r} speaks: give the path of {KINDS[kind][0]}.")
    return OwnData(kind, path, options)


def written(own: OwnData) -> str:
    """The text that `parse` reads, with the whole path."""
    return f"{own.kind}:{own.path}" + "".join(f",{name}={_text(value)}" for name, value in own.options.items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NAMES.join(value) if isinstance(value, tuple) else str(value)


def _converted(name: str, value: str, kind: type) -> Any:
    if kind is tuple:
        return tuple(filter(None, value.split(NAMES)))
    if kind is Path:
        return paths.expanded(value).resolve()
    if kind is bool:
        if value not in YES_OR_NO:
            raise InputError(f"{name} must be yes or no, not {value!r}.")
        return YES_OR_NO[value]
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{name} must be a whole number, not {value!r}.") from None


def check_kind(chapter: str, own: OwnData) -> None:
    """Raises InputError where a chapter is about another kind of data, before that is read."""
    fits = own.kind == "recordings"
    if is_speech(chapter) != fits or (own.kind == "folder" and not _specialised(chapter)):
        of = [c for c in CHAPTERS if is_speech(c) == fits and (own.kind != "folder" or _specialised(c))]
        raise InputError(f"{own.kind}: is {KINDS[own.kind][0]}, which is for {', '.join(of)}, not for {chapter}.")


def _specialised(chapter: str) -> bool:
    return issubclass(CHAPTERS[chapter], Specialised)


def images(chapter: str, own: OwnData, size: int, cache: Path) -> ImageData:
    """Labelled images of one's own, with a name that no claim is decided by.

    size: pixels a side of pictures from a folder, where no option says it. cache: keeps those.
    Chapters on specialists get a tenth of the training images for validation where the set has none.
    Raises InputError for whatever is wrong with it, colour in a chapter on grey images, too few classes and classes
    without a test image.
    """
    if own.kind == "idx":
        found = data.idx_images(own.path, **own.options)
    elif own.kind == "npz":
        found = data.npz_images(own.path)
    else:
        found = data.image_folder(own.path, cache=cache, **{"size": size, **own.options})
    if found.classes < LEAST_CLASSES:
        raise InputError(f"{own.path} has {found.classes} classes, too few: a chapter needs {LEAST_CLASSES}.")
    if len(untested := np.setdiff1d(np.arange(found.classes), found.test_labels.numpy())):
        name = found.class_names[untested[0]]
        raise InputError(f"{own.path} has no test image of the class {name}: add some, or leave the class out.")
    if _specialised(chapter):
        found = found if found.validation_images is not None else _with_validation(found)
    elif found.train_images.dim() != 3:
        raise InputError(f"{own.path} has images in colour, and {chapter} takes grey ones [N, H, W]: convert them.")
    return replace(found, name=_named(own))


def _named(own: OwnData) -> str:
    return f"own-{own.path.stem if own.kind == 'npz' else own.path.name}"


def _with_validation(found: ImageData) -> ImageData:
    """The same with every tenth image of each class in training set apart."""
    labels = found.train_labels.numpy()
    apart = np.zeros(len(labels), bool)
    for label in range(found.classes):
        apart[np.flatnonzero(labels == label)[::10]] = True
    if not all((~apart)[labels == label].any() for label in range(found.classes)):
        raise InputError("A class has a single image in training: add some, or leave the class out.")
    x, y = found.train_images, found.train_labels
    validation = {"validation_images": x[apart], "validation_labels": y[apart]}
    rest = (x[~apart], y[~apart], found.test_images, found.test_labels)
    return ImageData.of(found.name, *rest, found.classes, class_names=found.class_names, **validation)


def recordings(own: OwnData) -> Corpus:
    """A corpus of one's own, with a name that no claim is decided by.

    Where no option says it, a tenth of the speakers, at least one, are for validation, and as many for the test: those
    last in the alphabet. Without the option silences, "sil" is the silence. Raises InputError.
    """
    options = dict(own.options)
    speakers = speakers_of(own.path, options.get("pattern"))
    free = [
        name for name in speakers if not any(name in options.get(f"{s}_speakers", ()) for s in ("test", "validation"))
    ]
    count = max(1, round(len(speakers) / 10))
    for name in ("test_speakers", "validation_speakers"):
        if name not in options:
            options[name], free = tuple(free[-count:]), free[:-count]
    if not free:
        raise InputError(
            f"{own.path} has recordings of {len(speakers)} speakers: three are the least, one each to train on, to "
            "choose by and to test with."
        )
    return replace(speech_folder(own.path, **options), name=_named(own))


def fitted(preset: Preset, chapter: str, classes: int) -> Preset:
    """The preset with sizes of a chapter on specialists that so many classes allow; `changed` says which are others."""
    sizes = preset.chapters[chapter]
    special = min(sizes.special_classes, classes // 2)
    wanted: dict[str, Any] = {"special_classes": special, "specialists": min(sizes.specialists, classes)}
    if hasattr(sizes, "compared_sizes"):
        wanted["compared_sizes"] = sorted({min(size, classes // 2) for size in sizes.compared_sizes})
        wanted["compared_counts"] = sorted({min(count, wanted["specialists"]) for count in sizes.compared_counts})
    if sizes.compared_top_n:
        wanted["compared_top_n"] = [n for n in sizes.compared_top_n if n <= classes]
    changed = {name: value for name, value in wanted.items() if value != getattr(sizes, name)}
    said = {f"{chapter}.{name}": (getattr(sizes, name), value) for name, value in changed.items()}
    chapters = {**preset.chapters, chapter: sizes.model_copy(update=changed)}
    return preset.model_copy(update={"chapters": chapters, "changed": {**preset.changed, **said}})
