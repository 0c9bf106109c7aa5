"""Fetching a file: resumed where it broke off, checked, and put in its place only when it is right."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from kdrepro.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

BLOCK = 2**18  # bytes
SECONDS = 30  # without a byte, after which a download is given up; what has come is kept

Progress = Callable[[int, int | None], None]  # called with the bytes that are there, and with all, None if not known


def download(url: str, path: Path, *, md5: str, what: str, progress: Progress | None = None) -> Path:
    """Fetch a file unless a good copy is there; returns its path.

    What has come so far is kept beside its place, as `<name>.part`, and the next call goes on from there. A second call
    for a file in the same folder waits until the first has ended.
    md5: of the whole file. what: the data set's name, for messages.
    Raises InputError when the server cannot be reached or breaks off, the file comes out wrong (it is then deleted) or
    the folder cannot be written.
    """
    path = Path(path)
    try:
        if _is_whole(path, md5):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(path.parent):
            if not _is_whole(path, md5):  # else what was waited for
                _fetch_checked(url, path, md5, what, progress)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise InputError(
            f"{what} could not be downloaded to {path} ({str(error) or type(error).__name__}): connect to the internet "
            "and try again (it goes on where it broke off), or fetch the file in another way and put it there."
        ) from error
    return path


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads into this folder: two would write into the same part.

    The lock is on the folder itself, so that no file of its own is left, and goes with the process, however it ends.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network disk without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fetch_checked(url: str, path: Path, md5: str, what: str, progress: Progress | None) -> None:
    part = path.with_name(f"{path.name}.part")
    _fetch(url, part, progress)
    if _md5(part) != md5:
        part.unlink()
        raise InputError(f"What {url} gave is not {what} (md5 {md5}): it was deleted; try again later.")
    os.replace(part, path)


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what it lacks."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send: it is whole, or not this file
            return
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        done = done if resumed else 0  # a server that cannot resume starts anew
        total = done + int(length) if length and length.isdecimal() else None
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise OSError(f"the connection broke off after {done:,} of {total:,} bytes")


def _is_whole(path: Path, md5: str) -> bool:
    return path.exists() and _md5(path) == md5


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
