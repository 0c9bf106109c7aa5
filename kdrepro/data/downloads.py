"""Fetching a file: resumed where it broke off, checked, and put in its place only when it is right."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from kdrepro.errors import InputError

BLOCK = 2**18  # bytes
SECONDS = 30  # without a byte, after which a download is given up; what has come is kept


def download(
    url: str, path: Path, *, md5: str, what: str, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Fetch a file unless a good copy is there; returns its path.

    What has come so far is kept beside its place, as `<name>.part`, and the next call goes on from there. Two calls at
    once do no harm: whichever is done last puts the same file in place.
    md5: of the whole file. what: the data set's name, for messages. progress: called with the bytes that are there and
    their number in all, None where the server doesn't say.
    Raises InputError when the server cannot be reached or breaks off, the file comes out wrong (it is then deleted) or
    the folder cannot be written.
    """
    path = Path(path)
    if path.exists() and _md5(path) == md5:
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, progress)
        if _md5(part) != md5:
            part.unlink()
            raise InputError(f"What {url} gave is not {what} (md5 {md5}): it was deleted; try again later.")
        os.replace(part, path)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise InputError(
            f"{what} could not be downloaded to {path} ({str(error) or type(error).__name__}): connect to the internet "
            "and try again (it goes on where it broke off), or fetch the file in another way and put it there."
        ) from error
    return path


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
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
        total = None if length is None else done + int(length)
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise OSError(f"the connection broke off after {done:,} of {total:,} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
