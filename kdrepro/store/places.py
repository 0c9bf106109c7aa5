"""Where a store's files lie: a folder, or any address that fsspec knows (`s3://`, `gs://`, `memory://`).

Both can do what the store asks, and nothing else: read a file, write it whole, put it only if there is none of that
name, remove it, set it aside, and list what is there. A file's name is `<key>/<file>`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from kdrepro.errors import InputError, needed
from kdrepro.files import atomic_write, read_if_there, remove_stale, set_aside, try_folder
from kdrepro.training import Checkpoint

EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs"}  # what brings an address's library; all else is fsspec's own
SAVE_SECONDS = 30.0  # at least, between two checkpoints that are sent away: an epoch may take less than sending one


class Place(Protocol):
    """Files that lie together. All but `read` raise OSError when it cannot be done."""

    address: str

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none. Raises InputError when it cannot be read."""
        ...

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """As `read`, of several at once: those that are there, by name."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put a file in its place, whole, whatever is there."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Put a file in its place, whole, if there is none; whether it was. Of two at once, one is told so."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        ...

    def set_aside(self, name: str) -> str | None:
        """Rename a damaged file so that it is never read again; its new name, None where it is no longer there."""
        ...

    def keys(self) -> Iterator[str]:
        """The folders."""
        ...

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name within it."""
        ...

    def tidy(self, key: str) -> None:
        """Delete what killed processes left half written in a folder."""
        ...

    def check(self, key: str) -> None:
        """Raises OSError where nothing can be written."""
        ...

    def checkpoint(self, name: str, warn: Callable[[str], None]) -> Checkpoint:
        """Where a training saves its state."""
        ...


def place(address: str | Path) -> Place:
    """The place of this address. Raises InputError for an unknown kind, or where its library is not installed."""
    return Bucket(str(address)) if is_address(address) else Folder(Path(address))


def is_address(root: str | Path) -> bool:
    """Whether this is an address for fsspec, and no folder."""
    return "://" in str(root) and not isinstance(root, Path)


class Folder:
    """Files in a folder of this machine, or in one that machines share.

    What it must offer: whole renames, as every file system does, and hard links, without which two writers that finish
    within milliseconds of each other may not both notice it.
    """

    def __init__(self, root: Path):
        self.root, self.address = root, str(root)

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        return read_if_there(self.root / name)

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """See `Place`."""
        found = {name: self.read(name) for name in names}
        return {name: content for name, content in found.items() if content is not None}

    def write(self, name: str, content: bytes) -> None:
        """See `Place`."""
        atomic_write(self.root / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """See `Place`: a link to a file that was written under another name fails where the name is taken."""
        path = self.root / name
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(part, 0o644)
            return _linked(part, path)
        finally:
            Path(part).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """See `Place`."""
        (self.root / name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> str | None:
        """See `Place`."""
        aside = set_aside(self.root / name)
        return None if aside is None else aside.name

    def keys(self) -> Iterator[str]:
        """See `Place`."""
        there = sorted(self.root.iterdir()) if self.root.is_dir() else []
        yield from (path.name for path in there if path.is_dir() and not path.name.startswith("."))

    def sizes(self, key: str) -> dict[str, int]:
        """See `Place`."""
        found = {}
        for path in sorted((self.root / key).glob("*")):
            try:
                found[path.name] = path.stat().st_size
            except OSError:  # another process has removed it
                continue
        return found

    def tidy(self, key: str) -> None:
        """See `Place`."""
        remove_stale(self.root / key, ".*.part")

    def check(self, key: str) -> None:
        """See `Place`."""
        try_folder(self.root / key)

    def checkpoint(self, name: str, warn: Callable[[str], None]) -> Checkpoint:
        """See `Place`."""
        return Checkpoint(self.root / name, warn=warn)


def _linked(part: str, path: Path) -> bool:
    """Whether this process gave the written file its name."""
    try:
        os.link(part, path)
        return True
    except FileExistsError:
        return os.stat(part).st_nlink == 2  # a network drive may have lost the answer and asked twice
    except OSError:  # no hard links here
        if path.exists():
            return False
        os.replace(part, path)
        return True


class Bucket:
    """Files at an address, through fsspec; who may read and write there is settled as its library says."""

    def __init__(self, address: str):
        self.address = address.rstrip("/") if not address.endswith("://") else address
        kind = address.partition("://")[0]
        fsspec = needed("fsspec", EXTRAS.get(kind, "s3"), f"The store {address}")
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.address, **_uncached(fsspec, kind))
        except ImportError:
            raise InputError(
                f"The store {address} needs fsspec's library for {kind}: pip install 'kdrepro[{EXTRAS[kind]}]'."
                if kind in EXTRAS
                else f"The store {address}: fsspec names its library."
            ) from None
        except ValueError as error:
            raise InputError(f"The store {address} is at no kind of address that fsspec knows ({error}).") from None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        try:
            with self._readable(f"/{name}"):
                return self.files.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    @contextmanager
    def _readable(self, name: str = "") -> Iterator[None]:
        """Raises FileNotFoundError for what is not there, and InputError for what cannot be read or listed."""
        try:
            with _as_os_errors():
                yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(f"{self.address}{name} cannot be read ({error}): see to who may read it.") from error

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """See `Place`."""
        if not names:
            return {}
        by_path = {self._path(name).lstrip("/"): name for name in names}
        with self._readable():
            found = self.files.cat([self._path(name) for name in names], on_error="omit")
        return {by_path[path.lstrip("/")]: content for path, content in found.items()}

    def write(self, name: str, content: bytes) -> None:
        """See `Place`."""
        with _as_os_errors():
            self.files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """See `Place`: the storage itself refuses a name that is taken."""
        try:
            with _as_os_errors():
                self.files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """See `Place`."""
        with suppress(FileNotFoundError), _as_os_errors():
            self.files.rm_file(self._path(name))

    def set_aside(self, name: str) -> str | None:
        """See `Place`; a copy under the new name, since no such storage renames."""
        content, n = self.read(name), 1
        if content is None:
            return None
        while not self.create(f"{name}.damaged-{n}", content):
            n += 1
        self.remove(name)
        return PurePosixPath(f"{name}.damaged-{n}").name

    def _listed(self, path: str) -> list[dict[str, Any]]:
        try:
            with self._readable():
                self.files.invalidate_cache()
                return self.files.ls(path, detail=True)
        except FileNotFoundError:
            return []

    def keys(self) -> Iterator[str]:
        """See `Place`."""
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in self._listed(self.root) if _is_folder(entry)]
        yield from sorted(name for name in names if not name.startswith("."))

    def sizes(self, key: str) -> dict[str, int]:
        """See `Place`."""
        files = [entry for entry in self._listed(self._path(key)) if not _is_folder(entry)]
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in files}

    def tidy(self, key: str) -> None:
        """See `Place`: nothing is ever half written here."""

    def check(self, key: str) -> None:
        """See `Place`: what is put there first, a lease, says it soon enough."""

    def checkpoint(self, name: str, warn: Callable[[str], None]) -> Checkpoint:
        """See `Place`."""
        return PlacedCheckpoint(self, name, warn)


def _uncached(fsspec: Any, kind: str) -> dict[str, Any]:
    """Options by which a file system asks its storage each time, as far as its kind has them."""
    remote = fsspec.get_filesystem_class(kind).async_impl  # as those of all clouds
    return {"use_listings_cache": False, "skip_instance_cache": True} if remote else {}


def _is_folder(entry: dict[str, Any]) -> bool:
    return entry["type"] == "directory"


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Libraries of storages have errors of their own, some of which are no OSError."""
    try:
        yield
    except (OSError, InputError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class PlacedCheckpoint(Checkpoint):
    """A checkpoint at an address. It is sent at most every `SAVE_SECONDS`, for sending it may take as long as an epoch.

    So a killed training loses up to that much more, and ends where it would have.
    """

    def __init__(self, bucket: Bucket, name: str, warn: Callable[[str], None] = print, seconds: float = SAVE_SECONDS):
        super().__init__(PurePosixPath(name), warn)
        self.bucket, self.name, self.seconds = bucket, name, seconds
        self._saved_at: float | None = None

    def _due(self, now: float) -> bool:
        if self._saved_at is not None and now - self._saved_at < self.seconds:
            return False
        self._saved_at = now
        return True

    def _read(self) -> bytes | None:
        return self.bucket.read(self.name)

    def _write(self, content: bytes) -> None:
        self.bucket.write(self.name, content)

    def _set_aside(self) -> str | None:
        return self.bucket.set_aside(self.name)

    def remove(self) -> None:
        """See `Checkpoint`."""
        self.bucket.remove(self.name)
