"""Published figures computed again from the arrays that lie beside a record, with no network and no training.

Most arrays say of every test case, in packed bits, whether a network got it right: [seeds, cases / 8]. Of the figures
of a claim, those that its arrays do not hold are reported by name.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdrepro.verdicts.recompute import digits, later, specialists, speech, theory
from kdrepro.verdicts.recompute.arrays import Arrays, Metrics, load
from kdrepro.verdicts.recompute.digits import narrow_temperatures, wide_temperatures
from kdrepro.verdicts.recompute.specialists import (
    class_correlation,
    class_p,
    overfit,
    rank_correlation,
    within_over_between,
)
from kdrepro.verdicts.recompute.speech import (
    AS_LONG,
    CANDIDATE,
    LONGER,
    gained_by_voices,
    kept_and_last,
    saved_by_voices,
)
from kdrepro.verdicts.recompute.theory import (
    data_ratio,
    highest_rates,
    means,
    relative_variance,
    small_student,
    softened,
)

WAYS: dict[str, Callable[[Arrays], Metrics]] = theory.WAYS | digits.WAYS | speech.WAYS | specialists.WAYS | later.WAYS

__all__ = [
    "AS_LONG",
    "CANDIDATE",
    "LONGER",
    "Arrays",
    "Metrics",
    "claimed",
    "class_correlation",
    "class_p",
    "data_ratio",
    "figures",
    "gained_by_voices",
    "highest_rates",
    "kept_and_last",
    "load",
    "means",
    "narrow_temperatures",
    "overfit",
    "rank_correlation",
    "relative_variance",
    "saved_by_voices",
    "small_student",
    "softened",
    "wide_temperatures",
    "within_over_between",
]


def claimed(claim_id: str, arrays: Arrays) -> dict[str, Any]:
    """What the arrays to be published give of a claim's metrics, as `Experiment.claim` takes it.

    So the figures of a record are those that `verify` computes again. Raises KeyError where an array is not there.
    """
    found = WAYS[claim_id](arrays)
    pooled = {name: value for name, value in found.items() if np.ndim(value) == 0}
    return {name: value for name, value in found.items() if name not in pooled} | {"pooled": pooled}


def figures(record: Mapping[str, Any], arrays: Arrays) -> dict[str, Metrics]:
    """What the arrays beside a record give of its claims' metrics; nothing of claims whose arrays are not there."""
    found = {}
    for claim in record["claims"].keys() & WAYS.keys():
        with contextlib.suppress(KeyError):
            found[claim] = WAYS[claim](arrays)
    return found
