"""Which pictures of a folder are of which class and split: by folders, by their names, or by a table."""

import csv
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdrepro.data.pictures import endings
from kdrepro.errors import InputError, printable
from kdrepro.files import check_distinct, composed, left_out, pattern_with, same_name, visible_files, visible_folders
from kdrepro.paths import expanded
from kdrepro.speech.time_files import read_text

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
FILE_COLUMNS = ("filename", "file_name", "file", "image", "image_id", "path", "id")
LABEL_COLUMNS = ("label", "class", "category", "label_name", "class_name")
# What marks the layouts of other tasks than to give a picture one class.
MARKS = {
    "_annotations.coco.json": "Roboflow's COCO export, for object detection",
    "_annotations.csv": "Roboflow's CSV export, for object detection",
    "_annotations.txt": "Roboflow's text export, for object detection",
    "_annotations.createml.json": "Roboflow's CreateML export, for object detection",
    "_classes.csv": "Roboflow's export with several labels an image",
    "JPEGImages": "the layout of Pascal VOC, for object detection",
}

Listing = dict[str, list[str]]  # of each class the names of its files, from the root on
LabelOf = Callable[[str], str | None]  # of a file's name from its split's folder on; None for a file of no class


@dataclass(frozen=True)
class Layout:
    """The files of each class by split; None for a split that is to be drawn. All splits have the same classes."""

    train: Listing
    validation: Listing | None
    test: Listing | None

    def files(self) -> list[str]:
        """All files, training first."""
        listings = (self.train, self.validation or {}, self.test or {})
        return [name for listing in listings for of_class in listing.values() for name in of_class]

    def moved(self, start: str) -> "Layout":
        """The same with the files' names from higher up; start: where they are from there, "." for here."""
        listings = [
            listing and {label: [PurePosixPath(start, name).as_posix() for name in of] for label, of in listing.items()}
            for listing in (self.train, self.validation, self.test)
        ]
        return self if start == "." else Layout(*listings)


def find_layout(root: Path, pattern: str | None = None, labels: Path | str | None = None) -> Layout:
    """The layout of a folder of pictures; see `folders.image_folder`.

    Files that are not used are counted in one warning. Raises InputError for a folder in which classes and splits
    cannot be told, with the name of the layout where it is one of another task.
    """
    if not root.is_dir():
        raise InputError(
            f"There is no folder {root}: give the one whose sub-folders are the classes; "
            "the smoke preset needs no images of yours."
        )
    if pattern is not None and labels is not None:
        raise InputError("Give `pattern` or `labels`, not both: each says what class an image is of.")
    by_folder = pattern is None and labels is None
    top = _unwrapped(root, by_folder)
    folders = _split_folders(top)
    if by_folder:
        _refuse_other_tasks(top, folders.values())
    names = visible_files(top)
    pictures = [name for name in names if _is_picture(name)]
    label_of = _folder_of if pattern is None else _by_pattern(pattern)
    if labels is not None:
        label_of = _read_table(root, Path(labels), pictures).get
    found = {split: _listing(pictures, folder, label_of, labels is not None) for split, folder in folders.items()}
    _check_train(top / folders["train"], found["train"], pictures, by_folder)
    for split, folder in folders.items():
        _check_classes(top / folder, found[split], by_folder)
    layout = _in_roles(top, folders, found)
    used = set(layout.files())
    if text := left_out(top, (name for name in names if name not in used)):
        warnings.warn(f"Not used: {text}; what is read is a picture of a class, see image_folder.", stacklevel=3)
    return layout.moved(top.relative_to(root).as_posix())


def _is_picture(name: str) -> bool:
    return name.lower().endswith(endings())


def _unwrapped(root: Path, by_folder: bool) -> Path:
    """The folder that holds classes or splits: an archive often has one or two more around them."""
    top = root
    for _ in range(2):
        folders = visible_folders(top)
        if len(folders) != 1 or _is_flat(top):
            break
        (top,) = folders
        if _is_flat(top):
            return root if by_folder else top
        if len(visible_folders(top)) > 1:
            return top
    return root


def _is_flat(folder: Path) -> bool:
    return any(_is_picture(path.name) for path in folder.iterdir())


def _split_folders(top: Path) -> dict[str, str]:
    """The name of each split's folder; where there is none for training and another, "" for all that is there."""
    found: dict[str, list[str]] = {}
    for path in visible_folders(top):
        for split, known in SPLIT_FOLDERS.items():
            if path.name.lower() in known:
                found.setdefault(split, []).append(path.name)
    if len(found) < 2 or "train" not in found:
        return {"train": ""}
    for split, names in found.items():
        if len(names) > 1:
            raise InputError(f"{top / names[0]} and {names[1]} are both there for {split}: keep one of them.")
    return {split: names[0] for split, names in found.items()}


def _refuse_other_tasks(top: Path, folders: Iterable[str]) -> None:
    for folder in {top, *(top / folder for folder in folders)}:
        marks = [what for mark, what in MARKS.items() if (folder / mark).exists()]
        if (folder / "images").is_dir() and (folder / "labels").is_dir():
            pictures = any(map(_is_picture, visible_files(folder / "labels")))
            marks += [] if pictures else ["YOLO's layout, for object detection"]
        if marks:
            raise InputError(
                f"{folder} has {marks[0]}, where each image needs one class: export it for classification, a folder a "
                "class (Roboflow's `Folder Structure`), or give `labels`, a CSV of file names and classes."
            )


def _folder_of(name: str) -> str | None:
    """<class>/<file> or <class>/images/<file>."""
    parts = name.split("/")
    return parts[0] if len(parts) == 2 or (len(parts) == 3 and parts[1] == "images") else None


def _by_pattern(pattern: str) -> LabelOf:
    expression = pattern_with("label", pattern, "class")

    def label_of(name: str) -> str | None:
        match = expression.fullmatch(composed(_without_ending(name)))
        return (match["label"] or None) if match else None

    return label_of


def _without_ending(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _listing(names: Sequence[str], folder: str, label_of: LabelOf, whole: bool) -> Listing:
    """The files of each class in a split's folder. whole: `label_of` takes names from above it on."""
    found: Listing = {}
    start = f"{folder}/" if folder else ""
    for name in names:
        if name.startswith(start) and (label := label_of(name if whole else name[len(start) :])) is not None:
            found.setdefault(label, []).append(name)
    return {label: found[label] for label in sorted(found)}


def _check_train(folder: Path, listing: Listing, pictures: Sequence[str], by_folder: bool) -> None:
    """Raises InputError where there are not two classes to learn."""
    if len(listing) >= 2:
        return
    if not by_folder:
        first = f"; the first image is {pictures[0]}" if pictures else ""
        raise InputError(
            f"{folder} has {len(listing)} classes by `pattern` or `labels` where at least two are needed{first}: a "
            "pattern must match the whole name from that folder on, without its ending."
        )
    flat = sum(_is_picture(path.name) for path in folder.iterdir())
    ways = f"; its {flat:,} images lie in it directly: say their classes with `pattern` or `labels`" if flat else ""
    raise InputError(
        f"{folder} has {len(listing)} class folders where at least two are needed: give the folder whose "
        f"sub-folders are the classes{ways}."
    )


def _check_classes(folder: Path, listing: Listing, by_folder: bool) -> None:
    """Raises InputError for classes that look alike, and for a folder of a class in which there is no image."""
    check_distinct(listing, str(folder))
    by_form: dict[str, str] = {}
    for label in listing:
        if (other := by_form.setdefault(same_name(label), label)) != label:
            text = (
                f"The classes {other} and {label} of {folder} differ in upper and lower case only: they count as two."
            )
            warnings.warn(printable(text), stacklevel=4)
    for path in visible_folders(folder) if by_folder and listing else ():
        if path.name not in listing:
            raise InputError(f"The class folder {path} holds no image: put images in it or remove it.")


def _in_roles(top: Path, folders: Mapping[str, str], found: Mapping[str, Listing]) -> Layout:
    """Which split tests and which validates; test images without labels, as in competitions, are none."""
    train, validation, test = found["train"], found.get("validation"), found.get("test")
    if test is not None and len(test) < 2 and not _by_form(test).keys() & _by_form(train).keys():
        test = None
    for split, listing in (("validation", validation), ("test", test)):
        if listing is not None:
            _check_same(top, folders["train"], folders[split], train, listing)
    if test is None:
        validation, test = None, validation
    return Layout(train, validation and _as_in(train, validation), test and _as_in(train, test))


def _by_form(listing: Listing) -> dict[str, str]:
    return {composed(label): label for label in listing}


def _check_same(top: Path, train: str, other: str, listing: Listing, others: Listing) -> None:
    here, there = _by_form(listing), _by_form(others)
    if not here.keys() & there.keys() and len(there) < 2:
        which = (
            "This is Tiny ImageNet, which data.tiny_imagenet reads as it is: " if (top / "wnids.txt").exists() else ""
        )
        raise InputError(
            f"{which}{top / other} is not sorted into folders of classes as {top / train} is: sort it, or give "
            "`labels`, a CSV of file names and classes."
        )
    if odd := sorted(here.keys() ^ there.keys()):
        raise InputError(f"The class {odd[0]} is in only one of {top / train} and {top / other}: it must be in both.")


def _as_in(train: Listing, other: Listing) -> Listing:
    """The listing in the order, and with the spelling, of the training classes."""
    spelled = _by_form(other)
    return {label: other[spelled[composed(label)]] for label in train}


def _read_table(root: Path, path: Path, names: Sequence[str]) -> dict[str, str]:
    """The class of each file that a CSV lists. Raises InputError for a row that cannot be right."""
    path = next((there for there in (expanded(path), root / path) if there.is_file()), path)
    text = read_text(path)
    first = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), skipinitialspace=True)
    try:
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if any(map(str.strip, row))]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as csv ({error}): write it again.") from error
    known = _by_any_name(names)
    columns = _columns(path, lines[0][1] if lines else [])
    listed = lines if columns == (0, 1) and _find_file(known, lines[0][1][0]) else lines[1:]
    found: dict[str, str] = {}
    for number, row in listed:
        cells = [row[i] if i < len(row) else "" for i in columns]
        name, label = _find_file(known, cells[0]), composed(cells[1])
        if name is None or not label:
            fault = f"no class for {cells[0]}" if name else f"{cells[0]!r}, of which {root} has not exactly one image"
            raise InputError(f"{path}, line {number}: it gives {fault}; correct it.")
        if found.setdefault(name, label) != label:
            raise InputError(f"{path}, line {number}: {name} is {label} here and {found[name]} above; keep one.")
    return found


def _columns(path: Path, header: Sequence[str]) -> tuple[int, int]:
    """Which columns hold the file and its class."""
    lower = [cell.lower() for cell in header]
    file, label = (
        next((lower.index(name) for name in of if name in lower), None) for of in (FILE_COLUMNS, LABEL_COLUMNS)
    )
    if file is not None and label is not None:
        return file, label
    if len(header) == 2:  # Kaggle's `id,breed`, or no header at all
        return 0, 1
    raise InputError(
        f"{path} starts with {','.join(header)!r}: its first line must name the columns, `filename,label`."
    )


def _by_any_name(names: Sequence[str]) -> dict[str, set[str]]:
    """Each file by its name from the root on and by its last part, with its ending and without."""
    found: dict[str, set[str]] = {}
    for name in names:
        for whole in {name, name.rpartition("/")[2]}:
            for one in {whole, _without_ending(whole)}:
                found.setdefault(composed(one), set()).add(name)
    return found


def _find_file(known: Mapping[str, set[str]], cell: str) -> str | None:
    """The one file that a table's cell names."""
    found = known.get(composed(cell.replace("\\", "/").removeprefix("./")), set())
    if len(found) > 1 and cell in found:  # a whole name, which is also the last part of others
        return cell
    return next(iter(found)) if len(found) == 1 else None
