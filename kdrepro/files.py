"""Writing so that a reader never meets half a file, checking what was written, and the names of what is there."""

import errno
import glob
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from kdrepro.errors import InputError, printable

# What a full disk, a quota, a limit on the size of files, a read-only disk and a lack of permission are called.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # what systems leave beside files, as those with a dot in front
# What NumPy lets out of a damaged array's header, which it parses as Python, beside its own ValueError.
OF_HEADERS = (EOFError, SyntaxError, TokenError, TypeError, OverflowError, MemoryError, RecursionError)
STALE = 24 * 3600  # seconds; no single write takes a day: what is half written for longer was left by a killed process


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its place, then rename it into place.

    A process killed at any moment leaves either the old file or the new one.
    """
    with replacing(path) as part:
        part.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """As `atomic_write`, for what is written piece by piece: an open file that takes its place at the end.

    Makes the folder. After an exception within, the old file, if any, is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as part:
            yield part
        os.chmod(name, 0o644)  # mkstemp's 0600 would keep a group or a web server out
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """As `replacing`, for a folder: one beside its place, to be filled, that is renamed into it at the end.

    Where another process has put a whole one there meanwhile, that one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent, f".{glob.escape(folder.name)}.*")
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's 0700 would keep a group out
        try:
            os.replace(part, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def try_folder(folder: Path) -> None:
    """Make a folder and write into it, before the work that is to be kept there. Raises OSError when that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def read_if_there(path: Path) -> bytes | None:
    """A file's content, or None where there is none: another process may have removed it a moment ago.

    Raises InputError when it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): see to its permissions, or delete it and run again."
        ) from error


def read_array(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    """A .npy file's array. Raises OSError when it cannot be read, and ValueError when it is damaged."""
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except OF_HEADERS as error:
        raise ValueError(f"{path.name} is no whole array ({type(error).__name__})") from error


def not_yaml() -> tuple[type[Exception], ...]:
    """What PyYAML raises for text that it cannot load.

    That is its own error, and for bad scalars such as `0b_` or `!!bool x` nearly anything that Python's conversions
    raise.
    """
    import yaml  # here: most who write and read files have no need of it

    return yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError, OverflowError


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file so that it is kept for inspection and never read again; returns its new name.

    None when it is no longer there: another process was faster.
    """
    n = 1
    while (aside := path.with_name(f"{path.name}.damaged-{n}")).exists():
        n += 1
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return None
    return aside


def remove_stale(folder: Path, pattern: str) -> None:
    """Delete the half-written files and folders of this pattern that a killed process left more than a day ago.

    Younger ones may be what another process is writing now.
    """
    for left in folder.glob(pattern):
        try:
            if time.time() - left.stat().st_mtime < STALE:
                continue
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        except OSError:  # another process was faster; and what cannot be deleted does no harm
            continue


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn a failure to write into one sentence. what: what is written, and where. Raises InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Cannot write {what} ({error.strerror or error}): make room or choose a folder that is writable; "
            "what was saved so far is kept."
        ) from error


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is a system's own, and no data of anybody's."""
    return name.startswith(".") or name in CLUTTER


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name. Raises InputError when it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_clutter(path.name))
    except OSError as error:
        raise _unreadable(error) from error


def visible_files(root: Path) -> list[str]:
    """Every file below a folder but the systems' own: names from there on, sorted, with "/" between folders.

    Links are followed, but not around in a circle. Raises InputError when a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    found = []
    for folder, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        inner[:] = [name for name in inner if not is_clutter(name) and not _leads_back(os.path.join(folder, name))]
        start = Path(folder).relative_to(root).as_posix()
        found += [name if start == "." else f"{start}/{name}" for name in names if not is_clutter(name)]
    return sorted(found)


def _leads_back(folder: str) -> bool:
    """Whether a link leads to a folder that it lies in."""
    if not os.path.islink(folder):
        return False
    here, there = Path(os.path.realpath(os.path.dirname(folder))), Path(os.path.realpath(folder))
    return there == here or there in here.parents


def _unreadable(error: OSError) -> InputError:
    return InputError(f"{error.filename} cannot be read ({error.strerror}): see to its permissions.")


def pattern_with(group: str, pattern: str, what: str) -> re.Pattern[str]:
    """A regular expression for names, with a group of this name where `what` is. Raises InputError."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"`pattern` {pattern!r} is no regular expression ({error}): correct it.") from error
    if group not in expression.groupindex:
        raise InputError(f"`pattern` {pattern!r} has no group `{group}`: write (?P<{group}>...) where the {what} is.")
    return expression


def composed(name: str) -> str:
    """A name as text in normal form C: systems write one letter with a mark as one sign or as two."""
    return unicodedata.normalize("NFC", printable(name))


def same_name(name: str) -> str:
    """What two names have in common that differ only in case or normal form."""
    return unicodedata.normalize("NFC", composed(name).lower())


def check_distinct(names: Iterable[str], where: str) -> None:
    """Refuse names that look alike because they differ only in normal form. Raises InputError that gives both."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(composed(name), name)
        if other != name:
            raise InputError(
                f"{where} has two names that look alike, {other!a} and {name!a}: the same letters, composed "
                "and decomposed; put what they hold together under one of them."
            )


def counted(number: int, what: str) -> str:
    """ "1 file", "2,000 files"."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def left_out(root: Path | str, names: Iterable[str]) -> str:
    """How many of these files under `root` there are, with which endings, and which is the first; "" for none."""
    names = sorted(names)
    if not names:
        return ""
    counts: dict[str, int] = {}
    for name in names:
        ending = os.path.splitext(name)[1].lower() or "no ending"
        counts[ending] = counts.get(ending, 0) + 1
    most = sorted(counts, key=lambda ending: (-counts[ending], ending))[:5]
    listed = ", ".join(f"{counts[ending]:,} {ending}" for ending in most) + (", ..." if len(counts) > len(most) else "")
    return printable(f"{counted(len(names), 'file')} in {root} ({listed}; the first is {names[0]})")
