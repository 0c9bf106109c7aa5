"""Where things are: in the book's repository, of which this package is part, whatever the working directory.

An installed copy of the package is away from the book, of which its wheel holds the presets and the claims. It then
reads and writes data below the working directory, and `need_book` refuses what asks for the rest of the book.
"""

import os
from pathlib import Path

from kdrepro.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
_IN_WHEEL = Path(__file__).resolve().parent / "from_book"  # what a wheel holds of the book: presets and claims
PRESETS = _IN_WHEEL / "presets" if _IN_WHEEL.exists() else NOTEBOOKS / "presets"
BOOK = ROOT / "book"
RESULTS = BOOK / "results"
SEARCHES = RESULTS / "searches"
WEIGHTS = RESULTS / "weights"
PUBLISHED = BOOK / "chapters"
CLAIMS = _IN_WHEEL / "claims.yaml" if _IN_WHEEL.exists() else BOOK / "claims.yaml"
README = ROOT / "README.md"
LOCK = ROOT / "requirements.lock"


def need_book() -> None:
    """Raises InputError where the package is away from the book's notebooks, claims and records."""
    if not _in_repository():
        raise InputError(
            f"The book is not beside this package, which is installed in {Path(__file__).parent}: chapters, claims and "
            "pages are in the book's repository alone, so clone it, or unpack the source archive that the book's site "
            "carries, `pip install -e .` there, and give the command again; the package itself and `kdrepro data "
            "fetch` need no clone."
        )


def runs(preset: str) -> Path:
    """The only folder that a run at this preset writes to; KDREPRO_RUNS moves it. Raises InputError."""
    return expanded(os.environ.get("KDREPRO_RUNS") or _home() / "runs") / preset


def store(preset: str) -> Path | str:
    """Where the networks of a preset are kept: a folder of its runs, unless KDREPRO_STORE names a folder or an address.

    Several runs, each with a KDREPRO_RUNS of its own, may share that one. Raises InputError.
    """
    given = os.environ.get("KDREPRO_STORE")
    if not given:
        return runs(preset) / "store"
    return f"{given.rstrip('/')}/{preset}" if "://" in given else expanded(given) / preset


def checkpoints() -> bool:
    """Whether runs keep the states of their trainings, to go on from; KDREPRO_CHECKPOINTS=off says no.

    For a GPU on which a small network takes less time than its states take to be written.
    """
    return os.environ.get("KDREPRO_CHECKPOINTS") != "off"


def data_root(given: str | None = None) -> Path:
    """The folder of the data sets: the argument, else KDREPRO_DATA, else `data/` in the project.

    In the working directory where the package is away from the book. Raises InputError.
    """
    return expanded(given or os.environ.get("KDREPRO_DATA") or _home() / "data")


def expanded(path: str | Path) -> Path:
    """A path with a home folder in the place of `~`. Raises InputError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~somebody, or a user without a home
        raise InputError(f"{path} begins with a home folder that is not known here: give the whole path.") from None


def _home() -> Path:
    """Never where packages are installed."""
    return ROOT if _in_repository() else Path()


def _in_repository() -> bool:
    return (ROOT / "book" / "claims.yaml").exists() or (ROOT / "notebooks" / "presets").exists()
