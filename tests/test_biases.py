"""Shifts of the biases of unseen classes, against trying them one by one."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from kdrepro import biases


def cases(seed: int, count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (count,), generator=generator)


def count_errors(logits, labels, classes, shift: float) -> int:
    """The reference: shift, answer, count."""
    return int((biases.shifted(logits, classes, shift).argmax(1) != labels).sum())


some_cases = st.tuples(st.integers(0, 10**6), st.integers(1, 60), st.integers(3, 6))
some_classes = st.sampled_from([[0], [2], [0, 1], [2, 0]])


@settings(max_examples=60)
@given(some_cases, some_classes)
def test_the_error_curve_is_what_trying_each_shift_gives(drawn, classes):
    logits, labels = cases(*drawn)
    shifts, errors = biases.error_curve(logits, labels, classes)
    edges = torch.cat([shifts[:1] - 1, shifts, shifts[-1:] + 1])
    for i, middle in enumerate(((edges[1:] + edges[:-1]) / 2).tolist()):
        assert errors[i] == count_errors(logits, labels, classes, middle)


@settings(max_examples=60)
@given(some_cases, some_classes)
def test_no_shift_beats_the_best_one(drawn, classes):
    logits, labels = cases(*drawn)
    best = count_errors(logits, labels, classes, biases.best_shift(logits, labels, classes))
    assert best <= min(count_errors(logits, labels, classes, s) for s in torch.linspace(-25, 25, 301).tolist())


@settings(max_examples=60)
@given(some_cases, some_classes, st.floats(0.05, 0.95))
def test_the_frequency_is_met_to_one_case(drawn, classes, frequency):
    logits, _ = cases(*drawn)
    shift = biases.frequency_shift(logits, classes, frequency)
    answered = torch.isin(biases.shifted(logits, classes, shift).argmax(1), torch.tensor(classes)).sum()
    assert answered == round(frequency * len(logits))


@given(some_cases, some_classes, st.floats(-5, 5))
def test_raising_some_classes_is_lowering_the_others(drawn, classes, shift):
    logits, _ = cases(*drawn)
    others = [c for c in range(logits.shape[1]) if c not in classes]
    raised = biases.shifted(logits, classes, shift)
    lowered = biases.shifted(logits, others, -shift)
    torch.testing.assert_close(raised - lowered, torch.full_like(logits, shift))


def test_compare_counts_inside_and_in_all():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    labels = torch.tensor([0, 1, 2])
    assert biases.compare(logits, labels, [2], {"none": 0.0, "raised": 1.5, "too far": 3.0}) == [
        {"how": "none", "shift": 0.0, "errors": 1, "errors_inside": 1},
        {"how": "raised", "shift": 1.5, "errors": 2, "errors_inside": 0},
        {"how": "too far", "shift": 3.0, "errors": 2, "errors_inside": 0},
    ]


def test_ties_are_one_step_and_the_widest_best_range_is_taken():
    logits = torch.tensor([[0.0, -1.0], [0.0, -1.0], [0.0, -5.0]])
    labels = torch.tensor([1, 1, 0])
    assert biases.best_shift(logits, labels, [1]) == pytest.approx(3.0)


@pytest.mark.parametrize("classes", [[], [0, 1, 2], [3], [-1], [1, 1], torch.tensor([1, 1]), 1, {1}])
def test_classes_that_are_not_there(classes):
    with pytest.raises(ValueError, match=r"classes (is|holds|must)"):
        biases.needed(torch.zeros(2, 3), classes)


@pytest.mark.parametrize("classes", [range(2), (1, 0), torch.tensor([0, 1]), np.array([1, 0])])
def test_classes_of_any_kind_in_any_order(classes):
    logits, _ = cases(0, 9, 4)
    assert torch.equal(biases.needed(logits, classes), biases.needed(logits, [0, 1]))


INFINITE = torch.tensor([[0.0, -torch.inf, 1.0], [2.0, 1.0, 0.0]])
ASKED = {
    "shifted": lambda z: biases.shifted(z, [1], 1.0),
    "needed": lambda z: biases.needed(z, [1]),
    "error_curve": lambda z: biases.error_curve(z, [0, 1], [1]),
    "right_on_each_side": lambda z: biases.right_on_each_side(z, [0, 1], [1]),
    "best_shift": lambda z: biases.best_shift(z, [0, 1], [1]),
    "frequency_shift": lambda z: biases.frequency_shift(z, [1], 0.5),
    "compare": lambda z: biases.compare(z, [0, 1], [1], {"none": 0.0}),
}


@pytest.mark.parametrize("name", ASKED)
def test_logits_that_are_no_numbers(name):
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"logits holds NaN or .inf"):
            ASKED[name](torch.tensor([[0.0, wrong, 1.0], [2.0, 1.0, 0.0]]))
    if name in ("shifted", "compare"):  # where a class that is out of the question changes nothing
        ASKED[name](INFINITE)
    else:
        with pytest.raises(ValueError, match=r"logits of `classes` holds .* no finite logit"):
            ASKED[name](INFINITE)
    ASKED[name](INFINITE[:, [0, 2, 1]])  # class 1 is finite, and so is another


@pytest.mark.parametrize(
    "labels", [torch.zeros(6, 1).long(), torch.zeros(1).long(), torch.full((6,), 4), torch.zeros(6)]
)
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="labels"):
        biases.right_on_each_side(cases(0, 6, 4)[0], labels, [1])


def test_sides_of_labels_of_any_kind():
    logits, labels = cases(0, 6, 4)
    for found, expected in zip(
        biases.right_on_each_side(logits, [*labels[:5].tolist(), -100], [1]),
        biases.right_on_each_side(logits, labels, [1]),
        strict=True,
    ):
        assert found.tolist() == [*expected[:5].tolist(), False]


def test_of_no_cases_nothing_is_shifted():
    assert biases.shifted(np.zeros((0, 3)), [1], 3.5).shape == (0, 3)
    assert biases.needed(torch.zeros(0, 3), [1]).shape == (0,)
    with pytest.raises(ValueError, match=r"must be \[cases, classes\]"):
        biases.shifted(torch.zeros(0), [1], 3.5)


def test_nothing_to_fit():
    with pytest.raises(ValueError, match="empty"):
        biases.best_shift(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), [0])
    with pytest.raises(ValueError, match="frequency"):
        biases.frequency_shift(torch.zeros(2, 3), [0], 1.0)
