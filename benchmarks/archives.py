"""What a run has made, in archives that are small and never changed, and back from there into a run.

`part-<n>.tar` holds `run/...`, files of the preset's runs, and `store/<key>/...`, finished networks as they are in the
store. What is new is told from the archives that are there, by name, size and time: nothing else is remembered.
"""

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kdrepro.chapters import presets
from kdrepro.errors import InputError
from kdrepro.files import atomic_write, replacing
from kdrepro.store import Store, upkeep
from kdrepro.store.places import Folder
from kdrepro.verdicts import records
from kdrepro.verdicts.claims import seeds_of

MOST = 15_000_000  # bytes of an archive
HEADERS = 2048  # at most, of a file in an archive, beside the 512 that its last block is filled up to
NETWORK = ("network.safetensors", "entry.json")


class File(NamedTuple):
    """A file as it is in an archive: its name there, bytes, and when it was written; 0 of what never changes."""

    name: str
    size: int
    written: float


Unit = list[File]  # what goes into one archive together: a record and its predictions, a network and its entry


def pack(run: Path, store: Store, out: Path, most: int = MOST, last: bool = False) -> list[Path]:
    """Put what is new into archives of at most so many bytes each; returns them.

    First what is in the run's folder; then the networks that publication needs; then the others, smallest first. Logs
    are not packed for their own sake, but for last. A unit that is larger is left out, and named at last.
    """
    there = {file for path in archives(out) for file in _files(path)}
    units = [unit for unit in [*_of_run(run), *_of_store(run, store)] if not there.issuperset(unit)]
    logs = [unit for unit in _units(run, (run / "logs").rglob("*.log")) if not there.issuperset(unit)]
    if not units and not last:
        return []
    places = {"run": Folder(run), "store": store.place}

    def read(name: str) -> bytes | None:
        place, _, inside = name.partition("/")
        return places[place].read(inside)

    return [_archive(out, bundle) for bundle in _bundles(units + logs, read, most, last)]


def archives(folder: Path) -> list[Path]:
    """The archives in a folder, in the order in which they were written."""
    found = [path for path in folder.glob("part-*.tar") if path.stem[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.stem[5:]))


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is no whole archive ({error}): fetch it again, or take it away.") from None


def _files(path: Path) -> list[File]:
    with _opened(path) as archive:
        return [File(member.name, member.size, member.mtime) for member in archive.getmembers()]


def _bases(run: Path) -> list[Path]:
    """The folders of a run that have results and notebooks: whole chapters, other seeds, claims, confirmations."""
    return [run, *(base for pattern in ("seeds-*", "claims/*", "confirm", "confirm/*") for base in run.glob(pattern))]


def _of_run(run: Path) -> Iterator[Unit]:
    """Records with predictions, executed notebooks, searches."""
    for base in _bases(run):
        for record in sorted((base / "results").glob("*.json")):
            yield from _units(run, [record], (".json", ".npz"))
        yield from _units(run, (base / "notebooks").glob("[!.]*.ipynb"))
    yield from _units(run, (run / "searches").glob("*.json"))


def _units(run: Path, paths: Iterable[Path], endings: Sequence[str] = ()) -> Iterator[Unit]:
    for path in sorted(paths):
        files = [path.with_suffix(ending) for ending in endings] or [path]
        about = [(file, file.stat()) for file in files if file.is_file()]
        yield [File(f"run/{file.relative_to(run).as_posix()}", of.st_size, of.st_mtime) for file, of in about]


def _of_store(run: Path, store: Store) -> list[Unit]:
    """Finished networks: those of claims first, the one that a claim is about before its others."""
    needed = [key for base in _bases(run) for record in (base / "results").glob("*.json") for key in _nets(record)]
    rank = {key: i for i, key in enumerate(dict.fromkeys(needed))}
    items = [item for item in upkeep.items(store) if item.kind == "network"]
    items.sort(key=lambda item: (rank.get(item.key, len(rank)), item.bytes))
    return [[File(f"store/{item.key}/{name}", item.sizes[name], 0) for name in NETWORK] for item in items]


def _nets(record: Path) -> list[str]:
    try:
        entries = records.read(record)["claims"].values()
    except InputError:  # it is packed as it is
        return []
    nets = [of.get("nets", {}) for entry in entries for of in (entry, entry.get("confirm", {}))]
    return [key for of in nets for key in reversed(of.get("keys", ()))]


def _bundles(
    units: Sequence[Unit], read: Callable[[str], bytes | None], most: int, last: bool
) -> Iterator[list[tuple[File, bytes]]]:
    """What each archive is to hold, read whole: a file that grows meanwhile does no harm."""
    bundle, held = [], tarfile.RECORDSIZE  # an archive's end
    for unit in units:
        contents = [(file, read(file.name)) for file in unit]
        if None in dict(contents).values():  # it is gone
            continue
        size = sum(HEADERS + 512 + len(content) for _, content in contents)
        if tarfile.RECORDSIZE + size > most:
            if last:
                print(f"gpu: {unit[0].name} is larger than {most / 1e6:g} MB and is left out.", file=sys.stderr)
            continue
        if bundle and held + size > most:
            yield bundle
            bundle, held = [], tarfile.RECORDSIZE
        bundle, held = bundle + contents, held + size
    if bundle:
        yield bundle


def _archive(out: Path, bundle: Sequence[tuple[File, bytes]]) -> Path:
    """Write one, under the next number."""
    before = archives(out)
    path = out / f"part-{int(before[-1].stem[5:]) + 1 if before else 0}.tar"
    with replacing(path) as part, tarfile.open(fileobj=part, mode="w") as archive:
        for file, content in bundle:
            about = tarfile.TarInfo(file.name)
            about.size, about.mtime = len(content), file.written
            archive.addfile(about, io.BytesIO(content))
    return path


def unpack(folder: Path, run: Path, store: Store) -> tuple[int, list[str]]:
    """Put what is in a folder's archives into a run and a store, checked.

    What the store has stays; a record of more seeds stays, and the other is put beside it, as `records.place` says; a
    search of more rows stays; logs go into a folder of their own. Returns how many networks the store had not got, and
    a sentence for each thing that is left out. Raises InputError where there is no archive, or one is damaged.
    """
    found = archives(folder)
    if not found:
        raise InputError(f"There is no part-0.tar in {folder}: name the folder that `gpu.py full --out` wrote into.")
    run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run, prefix=".unpacked-") as name:
        unpacked = Path(name)
        for path in found:
            with _opened(path) as archive:
                archive.extractall(unpacked, filter="data")
        of_run = unpacked / "run"
        for path in (of_run / "logs").rglob("*.log"):
            _copy(path, run / "logs" / folder.resolve().name / path.relative_to(of_run / "logs"))
        for path in (of_run / "searches").glob("*.json"):
            _put_search(path, run / "searches" / path.name)
        left = [problem for base in _bases(of_run) for problem in _put_base(base, of_run, run)]
        copied, damaged = _put_networks(Store(unpacked / "store"), store)
        return copied, left + damaged


def _put_networks(unpacked: Store, store: Store) -> tuple[int, list[str]]:
    copied, damaged = 0, []
    for item in upkeep.items(unpacked):
        try:
            copied += upkeep.export(unpacked, item, store)
        except InputError:
            damaged.append(f"The network {item.key} is damaged in its archive.")
    return copied, damaged


def _put_base(base: Path, unpacked: Path, run: Path) -> Iterator[str]:
    """Records and notebooks of one folder with results; yields a sentence for each record that is none."""
    for chapter in presets.CHAPTERS:
        paths, notebook = records.files(chapter, base / "results"), base / "notebooks" / f"{chapter}.ipynb"
        target = run / base.relative_to(unpacked)
        try:
            seeds = max((seeds_of(records.read(path)) for path in paths), key=len, default=[])
        except InputError as error:
            yield str(error)
            continue
        target = records.place(target, chapter, seeds) if seeds else target
        for path in [file for record in paths for file in (record.with_suffix(".npz"), record) if file.exists()]:
            _copy(path, target / "results" / path.name)
        if notebook.exists() and (seeds or not (target / "notebooks" / notebook.name).exists()):
            _copy(notebook, target / "notebooks" / notebook.name)


def _put_search(path: Path, target: Path) -> None:
    rows = [len(json.loads(of.read_bytes())["rows"]) if of.exists() else 0 for of in (path, target)]
    if rows[0] >= rows[1]:
        _copy(path, target)


def _copy(path: Path, target: Path) -> None:
    atomic_write(target, path.read_bytes())
