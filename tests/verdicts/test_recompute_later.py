"""What mistakes cost, from small arrays whose answers can be worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import biases
from kdrepro.verdicts.recompute import later


def bits(rows):
    return np.packbits(np.array(rows, bool), axis=1)


def test_the_mean_over_a_teachers_students():
    arrays = {
        "cases": np.array(4),
        "a, student 1.right": bits([[1, 1, 1, 0], [1, 0, 0, 0]]),
        "a, student 2.right": bits([[1, 0, 0, 0], [1, 1, 1, 1]]),
        "a, moved, student 1.right": bits([[0, 0, 0, 0], [0, 0, 0, 0]]),
    }
    assert later.of_students(arrays, "a").tolist() == [2, 1.5]
    with pytest.raises(KeyError):
        later.of_students(arrays, "b")


def test_the_best_epoch_of_one_half_counted_on_the_other():
    # The first half is best in the second epoch, where the other has 7 for its own best 4; that one's best costs 5 - 2.
    table = np.array([[[5, 2, 3], [4, 7, 6]], [[1, 1, 1], [2, 2, 2]]])
    assert later.hidden_by_epoch(table).tolist() == [(7 - 4) + (5 - 2), 0]


@given(st.integers(0, 10_000))
def test_a_choice_never_looks_worse_than_it_is(seed):
    table = np.random.default_rng(seed).integers(0, 20, (3, 2, 6))
    assert (later.hidden_by_epoch(table) >= 0).all()


@given(st.integers(0, 10_000))
def test_a_shift_fitted_to_one_half_is_the_packages(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 40, 4, generator=generator)
    labels = torch.randint(4, (40,), generator=generator)
    sides = [biases.right_on_each_side(z, labels, [3]) for z in logits]
    arrays = {f"{later.SHIFTED}.needed": torch.stack([biases.needed(z, [3]) for z in logits]).numpy()}
    for i, kind in enumerate(("seen", "unseen")):
        arrays[f"{later.SHIFTED}.{kind} right"] = bits([side[i].numpy() for side in sides])
    found = later.hidden_by_shift(arrays)

    def wrong(z, part, shift):
        return int((biases.shifted(z[part], [3], shift).argmax(1) != labels[part]).sum())

    parts = later.halves(40)
    for z, hidden in zip(logits, found, strict=True):
        shifts = [biases.best_shift(z[part], labels[part], [3]) for part in parts]
        expected = sum(wrong(z, parts[h], shifts[1 - h]) - wrong(z, parts[h], shifts[h]) for h in (0, 1))
        assert hidden == pytest.approx(expected, abs=1)  # ranges of equal width may fall either way
        assert hidden >= 0
