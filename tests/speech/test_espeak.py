"""espeak-ng's data behind a path that is longer than it can take."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from recordings import wrong

from kdrepro import paths
from kdrepro.speech import espeak

SAY = """
import sys
import espeakng_loader
espeakng_loader.get_data_path = lambda: sys.argv[1]
from kdrepro.speech import espeak
print(len(espeak.Espeak().say("the cat sat.", espeak.Voice("en-us", "m1")).waveform))
"""


def said_with(data: Path) -> str:
    """How many samples a process of its own makes with this data: a process has one espeak-ng."""
    where = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    return subprocess.run([sys.executable, "-c", SAY, str(data)], capture_output=True, text=True, env=where).stdout


@pytest.mark.parametrize("length", [100, 159, 160, 161, 400])
def test_data_behind_a_path_of_any_length(tmp_path, length):
    import espeakng_loader

    short, folder = Path(espeakng_loader.get_data_path()), tmp_path
    while len(str(folder)) < length - 80:
        folder = folder / ("n" * 60)
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / ("n" * (length - len(str(folder)) - 1))
    link.symlink_to(short)
    assert len(str(link)) == length
    assert said_with(link) == said_with(short) != ""


def test_no_shorter_link_can_be_made(tmp_path, monkeypatch):
    long = tmp_path / ("n" * 100) / ("m" * 100)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    wrong("takes paths of less than 160 bytes.* shorter path, or set TMPDIR to one", espeak._short, str(long / "data"))
