"""Files by name, in a folder or in a zip that is read in place."""

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from kdrepro.errors import InputError

Read = Callable[[str], bytes]
LARGEST = 2**30  # bytes of a member; a damaged list of members may state any size


class Source(Protocol):
    """Files by name, "/" between folders."""

    path: Path

    def names(self) -> list[str]:
        """Every file, sorted."""

    def digest(self, names: Sequence[str]) -> str:
        """Of these files: changes with their names and contents."""

    def reader(self) -> AbstractContextManager[Read]:
        """Opens what one thread needs to read files."""


class Folder:
    """The files under a folder."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        found = []
        for folder, _, files in os.walk(self.path, followlinks=True):
            within = Path(folder).relative_to(self.path)
            found += [(within / file).as_posix() for file in files]
        return sorted(found)

    def digest(self, names: Sequence[str]) -> str:
        """By size and time of change: reading every file would take as long as decoding."""
        digest = hashlib.sha256()
        for name in names:
            digest.update(repr((name, *_size_and_time(self.path / name))).encode())
        return digest.hexdigest()

    @contextmanager
    def reader(self) -> Iterator[Read]:
        yield lambda name: (self.path / name).read_bytes()


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except OSError:  # a link that leads nowhere: reading it will say so
        return 0, 0
    return about.st_size, about.st_mtime_ns


class Zip:
    """The files in a folder of a zip. Nothing is ever extracted, so no member is written outside of a folder.

    Raises InputError when the file is not a whole zip, and when a member points outside of its folder all the same.
    """

    def __init__(self, path: Path, within: str):
        self.path = path
        start = f"{within}/"
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            inside = [m for m in members if m.filename.startswith(start) and not m.is_dir()]
            self.members = {info.filename.removeprefix(start): info for info in inside}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(
                f"{path} is not a whole zip ({error}): its download was cut short or it is damaged; download it again."
            ) from error
        if outside := [member.orig_filename for member in members if _points_outside(member)]:
            raise InputError(
                f"{path} holds a member that points outside of its folder ({outside[0]!r}): this is not the archive "
                "that it should be; download it again."
            )

    def names(self) -> list[str]:
        return sorted(self.members)

    def digest(self, names: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(repr((name, self.members[name].file_size, self.members[name].CRC)).encode())
        return digest.hexdigest()

    @contextmanager
    def reader(self) -> Iterator[Read]:
        with ExitStack() as opened:
            try:
                file = opened.enter_context(open(self.path, "rb"))
            except OSError as error:
                raise InputError(
                    f"{self.path} cannot be read ({error.strerror}), and it could a moment ago: put it back, or "
                    "download it again."
                ) from error
            yield lambda name: _member(file, self.members[name])


def _points_outside(member: zipfile.ZipInfo) -> bool:
    """Whether a program that extracts this member could write outside of its folder, on any system."""
    name = member.orig_filename
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    return is_link or name.startswith("/") or "\\" in name or name[1:2] == ":" or ".." in name.split("/")


def _member(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    """One member of a zip. A ZipFile of its own for each thread would read the whole list of members each time."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise zipfile.BadZipFile("compressed or encrypted in a way that is not read here")
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile("no file header where the list of members says")
    name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    file.seek(name_and_extra, os.SEEK_CUR)
    if max(info.compress_size, info.file_size) > LARGEST:
        raise zipfile.BadZipFile("it states a size that no picture has")
    content = file.read(info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-15).decompress(content, info.file_size + 1)
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("its checksum is wrong")
    return content
