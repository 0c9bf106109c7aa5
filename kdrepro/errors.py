"""The one error that a user's bad input raises, and the hint that goes with a wrong name."""

import difflib
import importlib
import os
from collections.abc import Collection
from typing import Any


class InputError(ValueError):
    """Something given from outside is wrong: one sentence says what, where, and what to do.

    The sentence can be printed and stays on one line, whatever the names of files in it hold.
    """

    def __init__(self, *said: object):
        super().__init__(*(_on_one_line(part) if isinstance(part, str) else part for part in said))


class NotInstalledError(InputError):
    """A library is missing that not every use of the package needs."""


class DivergedError(InputError):
    """A training's numbers are no longer numbers: its recipe, or its data, is wrong."""


def printable(name: str) -> str:
    r"""A file's name as UTF-8 can hold it: bytes that are not UTF-8, as unzip leaves them, are written `\xe9`."""
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:  # not a name that this file system could have given
        raw = name.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def _on_one_line(sentence: str) -> str:
    return "".join(c if c >= " " else repr(c)[1:-1] for c in printable(sentence))


def nearest(word: object, known: Collection[str]) -> str:
    """ " (did you mean 'x'?)" with the known word that is most like this one, whatever its case, or nothing."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=0.4)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def needed(module: str, extra: str, what: str) -> Any:
    """A module of a library that not every use of the package needs. what: is being done with it.

    Raises NotInstalledError, with the command that installs it, where it is not there.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise NotInstalledError(
            f"{what} needs {missing}, which is not installed: pip install 'kdrepro[{extra}]'."
        ) from None
