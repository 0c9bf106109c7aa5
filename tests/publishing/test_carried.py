"""What the site carries: a wheel that has the package, an archive that has the source."""

import io
import subprocess
import sys
import tarfile
import zipfile

import pytest

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.publishing import carried


def test_site_carries_wheel_source_and_records(tmp_path):
    carried.carry(tmp_path, paths.BOOK)
    files = tmp_path / "files"
    wheel = zipfile.ZipFile(files / carried.WHEEL).namelist()
    assert {"kdrepro/__init__.py", "kdrepro/cli.py", "kdrepro/losses.py"} <= set(wheel)
    assert not any(name.startswith(("tests/", "book/")) for name in wheel)
    with tarfile.open(files / carried.SOURCE) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    needed = {
        "Makefile",
        "pyproject.toml",
        "book/claims.yaml",
        "notebooks/02-mnist.ipynb",
        "notebooks/presets/smoke.yaml",
    }
    assert needed <= names
    assert not any(name.startswith(("_build/", "runs/", ".git/", ".venv/")) for name in names)
    for path in paths.RESULTS.glob("*.*"):
        assert (files / "results" / path.name).read_bytes() == path.read_bytes()
    for name in ("claims.yaml", "CITATION.cff"):
        assert (files / name).exists()
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=files, capture_output=True)
    assert check.returncode == 0


def test_an_archive_of_the_same_files_is_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "run").write_text("#!/bin/sh")
    (tmp_path / "run").chmod(0o755)
    first = carried.archive(tmp_path, ["a.txt", "run"], "top")
    (tmp_path / "a.txt").touch()
    assert carried.archive(tmp_path, ["a.txt", "run"], "top") == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert tar.extractfile("top/a.txt").read() == b"a"
        assert tar.getmember("top/run").mode & 0o100


def test_without_git_builds_and_data_stay_out(tmp_path):
    for name in ("pyproject.toml", "kdrepro/a.py", ".ci/run", "_build/x.html", "data/big", ".venv/y", "k.egg-info/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert carried.source_files(tmp_path) == [".ci/run", "kdrepro/a.py", "pyproject.toml"]


def test_a_wheel_that_does_not_build_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="wheel could not be built"):
        carried._wheel(paths.ROOT, ["pyproject.toml"], tmp_path)
