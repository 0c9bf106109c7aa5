"""What a command needs of the machine that it runs on: a terminal, a working directory, a home."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdrepro.errors import InputError

# Where Jupyter, IPython and matplotlib keep what is theirs; all below the home unless these say otherwise.
FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")


def write_anything() -> None:
    r"""Let no character end a command: what a terminal cannot show is written as `\u2013`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def check_working_directory() -> None:
    """Raises InputError where it has been deleted: Jupyter, and every relative path, would end in a traceback."""
    try:
        os.getcwd()
    except OSError:
        raise InputError("The working directory is no longer there: go to another one (`cd`) and try again.") from None


@contextmanager
def usable_home() -> Iterator[None]:
    """Give Jupyter a folder of its own where the user has no home or may not write there, as `docker run --user 12345`.

    For this process and the kernels that it starts. Raises InputError where nothing temporary can be written either.
    """
    if _home_is_writable():
        yield
        return
    with _temporary_folder() as folder:
        given = {name: folder for name in FOLDERS if name not in os.environ}
        os.environ.update(given)
        try:
            yield
        finally:
            for name in given:
                os.environ.pop(name, None)


def _temporary_folder() -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory(prefix="kdrepro-", ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"Nothing temporary can be written ({error}): set TMPDIR to a folder that is writable."
        ) from None


def _home_is_writable() -> bool:
    try:
        home = Path.home()
    except RuntimeError:
        return False
    return home.is_dir() and os.access(home, os.W_OK)
