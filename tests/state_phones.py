"""The phone that each HMM state belongs to."""

import numpy as np

from kdrepro.speech.states import States


def phone_of(states: States) -> np.ndarray:
    """int64 [states]."""
    found = np.zeros(len(states), np.int64)
    for (phone, *_), state in states.index.items():
        found[state] = phone
    return found
