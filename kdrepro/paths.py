"""Where things are: every path of the project comes from here, never from the working directory."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PRESETS = NOTEBOOKS / "presets"
BOOK = ROOT / "book"
RESULTS = BOOK / "results"
PUBLISHED = BOOK / "chapters"
CLAIMS = BOOK / "claims.yaml"
README = ROOT / "README.md"


def runs(preset: str) -> Path:
    """The only folder that a run at this preset writes to; KDREPRO_RUNS moves it."""
    return Path(os.environ.get("KDREPRO_RUNS") or ROOT / "runs").expanduser() / preset


def data_root(given: str | None = None) -> Path:
    """The folder of the data sets: the argument, else KDREPRO_DATA, else `data/` in the project."""
    return Path(given or os.environ.get("KDREPRO_DATA") or ROOT / "data").expanduser()
