"""What the site carries beside its pages, so that a reader with nothing but the site can run it all again.

`files/` in the site: the package as a wheel, the whole source as an archive, claims.yaml, CITATION.cff, and the records
with predictions, weights and checksums.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kdrepro import __version__, paths
from kdrepro.errors import InputError
from kdrepro.files import atomic_write

WHEEL = f"kdrepro-{__version__}-py3-none-any.whl"
SOURCE = f"kdrepro-{__version__}-source.tar.gz"
# Where git is not there to say what belongs to the source.
OF_NO_SOURCE = {"_build", "runs", "data", "build", "dist", "__pycache__"}


def carry(site: Path, book: Path) -> None:
    """Put everything into `site/files`. book: the folder of claims and records. Raises InputError."""
    files = site / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    shutil.copy(book / "claims.yaml", files / "claims.yaml")
    shutil.copy(paths.ROOT / "CITATION.cff", files / "CITATION.cff")
    shutil.copytree(book / "results", files / "results")
    names = source_files(paths.ROOT)
    atomic_write(files / SOURCE, archive(paths.ROOT, names, f"kdrepro-{__version__}"))
    _wheel(paths.ROOT, names, files)
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in (files / WHEEL, files / SOURCE)]
    atomic_write(files / "SHA256SUMS", ("\n".join(sums) + "\n").encode())


def source_files(root: Path) -> list[str]:
    """The project's files below `root`: what git tracks or would; where git is not there, all but builds and data."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, timeout=60)
        listed = done.stdout.decode("utf-8", "replace").split("\0") if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        listed = []
    names = [name for name in listed if name and (root / name).is_file()]
    return sorted(set(names)) if "pyproject.toml" in names else sorted(_walked(root))


def _walked(root: Path) -> Iterable[str]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name in (".ci", ".github") or not _no_source(name)]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in names)


def _no_source(folder: str) -> bool:
    return folder in OF_NO_SOURCE or folder.startswith(".") or folder.endswith(".egg-info")


def archive(root: Path, names: Iterable[str], top: str) -> bytes:
    """These files as a .tar.gz in which they lie in the folder `top`; the same files give the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in names:
            entry = tarfile.TarInfo(f"{top}/{name}")
            content = (root / name).read_bytes()
            entry.size, entry.mode = len(content), 0o755 if os.access(root / name, os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def _wheel(root: Path, names: Iterable[str], into: Path) -> None:
    """Build the wheel in a copy of what it is made of: setuptools writes beside its sources."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if name.startswith("kdrepro/") or "/" not in name:
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, Path(folder) / name)
        code = f"from setuptools import build_meta; build_meta.build_wheel({str(into.resolve())!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    if done.returncode != 0 or not (into / WHEEL).exists():
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no wheel"])[-1]
        raise InputError(f"The site's wheel could not be built ({last}): pip install 'kdrepro[book]' and build again.")
