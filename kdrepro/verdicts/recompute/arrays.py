"""What is read of the arrays beside a record: of every test case, in packed bits, whether a network got it right."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
Metrics = dict[str, Any]  # one value a seed, or one number for all seeds
Errors = Mapping[float, np.ndarray]  # test errors [seeds] by what was varied


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays beside a record; none where there are no such."""
    beside = path.with_suffix(".npz")
    if not beside.exists():
        return {}
    with np.load(beside, allow_pickle=False) as arrays:
        return dict(arrays)


def right(arrays: Arrays, net: str, kind: str = "right", cases: int | None = None) -> np.ndarray:
    """How many cases each seed's network gets right, [seeds].

    cases: how many bits of `net.kind` [seeds, cases / 8] mean something; None for all test images.
    """
    count = _cases(arrays) if cases is None else cases
    return np.unpackbits(arrays[f"{net}.{kind}"], axis=1, count=count).sum(1).astype(int)


def errors(arrays: Arrays, net: str) -> np.ndarray:
    """Errors on all test images, [seeds]."""
    return _cases(arrays) - right(arrays, net)


def accuracy(arrays: Arrays, net: str) -> np.ndarray:
    """Share of the test images that each seed's network gets right, [seeds]."""
    return right(arrays, net) / _cases(arrays)


def errors_by(arrays: Arrays, start: str) -> dict[float, np.ndarray]:
    """Errors [seeds] of the networks named `start` and a number, by that number. Raises KeyError for none."""
    names = [name.removesuffix(".right") for name in arrays if name.endswith(".right") and name.startswith(start)]
    found = {}
    for name in names:
        try:
            found[float(name.removeprefix(start))] = errors(arrays, name)
        except ValueError:
            continue  # another kind of network, whose name begins alike
    if not found:
        raise KeyError(start)
    return dict(sorted(found.items()))


def share(gained: np.ndarray, of: np.ndarray) -> np.ndarray:
    """What share of something was gained; not finite where it is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return gained / of


def _cases(arrays: Arrays) -> int:
    return int(arrays.get("cases", 10_000))  # the first published arrays do not say
