"""Files by name, in a folder or in a zip that is read in place."""

import hashlib
import os
import stat
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

from kdrepro.errors import InputError

LARGEST = 2**30  # bytes of a member; a damaged list of members may state any size


class Folder:
    """The files under a folder. Threads may read from one at once."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        """Every file, sorted, "/" between folders."""
        walk = os.walk(self.path, followlinks=True)
        return sorted(
            (Path(folder, file).relative_to(self.path)).as_posix() for folder, _, files in walk for file in files
        )

    def read(self, name: str) -> bytes:
        """A file's content. Raises nearly anything where it is damaged."""
        return (self.path / name).read_bytes()

    def about(self, name: str) -> tuple[int, int]:
        """What changes when the file does. Size and time: reading every file would take as long as decoding."""
        try:
            about = (self.path / name).stat()
        except OSError:  # a link that leads nowhere: reading it will say so
            return 0, 0
        return about.st_size, about.st_mtime_ns


class Zip:
    """The same in a folder of a zip, or in all of it where `within` is "".

    Nothing is ever extracted, so no member is written outside of a folder.

    Raises InputError when the file is not a whole zip, and when a member points outside of its folder all the same.
    """

    def __init__(self, path: Path, within: str):
        self.path, self.reading = path, threading.Lock()
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(
                f"{path} is not a whole zip ({error}): its download was cut short or it is damaged; download it again."
            ) from error
        members, start = self.archive.infolist(), f"{within}/" if within else ""
        if outside := [member.orig_filename for member in members if _points_outside(member)]:
            raise InputError(
                f"{path} holds a member that points outside of its folder ({outside[0]!r}): this is not the archive "
                "that it should be; download it again."
            )
        inside = [member for member in members if member.filename.startswith(start) and not member.is_dir()]
        self.members = {member.filename.removeprefix(start): member for member in inside}

    def names(self) -> list[str]:
        """The members' names, sorted."""
        return sorted(self.members)

    def read(self, name: str) -> bytes:
        """A member's content. Raises BadZipFile for a size that no picture has."""
        member = self.members[name]
        if max(member.compress_size, member.file_size) > LARGEST:
            raise zipfile.BadZipFile("it states a size that no picture has")
        # One at a time: Python 3.13's zipfile seeks from where another thread has left the file.
        with self.reading:
            return self.archive.read(member)

    def about(self, name: str) -> tuple[int, int]:
        """A member's size in bytes, and its checksum."""
        return self.members[name].file_size, self.members[name].CRC


def _points_outside(member: zipfile.ZipInfo) -> bool:
    """Whether a program that extracts this member could write outside of its folder, on any system."""
    name = member.orig_filename
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    return is_link or name.startswith("/") or "\\" in name or name[1:2] == ":" or ".." in name.split("/")


Source = Folder | Zip


def digest(source: Source, names: Sequence[str]) -> str:
    """Of these files: changes with their names and contents."""
    return hashlib.sha256("".join(repr((name, *source.about(name))) for name in names).encode()).hexdigest()
