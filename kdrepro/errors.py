"""The one error that a user's bad input raises, and the hint that goes with a wrong name."""

import difflib
from collections.abc import Collection


class InputError(ValueError):
    """Something given from outside is wrong: one sentence says what, where, and what to do."""


def nearest(word: object, known: Collection[str]) -> str:
    """ " (did you mean 'x'?)" with the known word that is most like this one, whatever its case, or nothing."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=0.4)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
