"""The one door: what is taken, as what, and the sentence for what is not."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdrepro import biases, checks, ensembles, losses, specialists
from kdrepro.checks import as_classes, as_labels, as_logits, as_tensor

INTEGERS = ["int64", "int32", "int16", "int8", "uint8", "uint16", ">i4", "bool"]
CONTAINERS = {
    "tensor": torch.from_numpy,
    "array": lambda a: a,
    "read-only": lambda a: (a.setflags(write=False), a)[1],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "series": lambda a: pd.Series(a),
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "tensors": lambda a: list(torch.from_numpy(a)),
    "every second": lambda a: np.repeat(a, 2)[::2],
}


@st.composite
def labels_of_any_kind(draw):
    """Labels in some dtype and container, and what they are."""
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    most = 1 if dtype.kind == "b" else 4
    values = draw(st.lists(st.integers(0, most), min_size=1, max_size=6))
    container = draw(st.sampled_from(sorted(CONTAINERS)))
    array = np.array(values, dtype)
    if container in ("tensor", "tensors") and not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return CONTAINERS[container](array), values


@given(labels_of_any_kind())
@settings(max_examples=150, deadline=None)
def test_labels_of_every_integer_and_container_are_the_same_labels(case):
    given, values = case
    found = as_labels(given, len(values), 5)
    assert (found.dtype, found.tolist()) == (torch.int64, values)
    z = torch.arange(5.0 * len(values)).view(-1, 5).sin()
    assert losses.cross_entropy(z, given) == losses.cross_entropy(z, torch.tensor(values))


@given(st.sampled_from(["float16", "float32", "float64", ">f4", "bfloat16"]), st.sampled_from(["tensor", "array"]))
@settings(deadline=None)
def test_logits_of_every_float_and_container_give_the_same_loss(dtype, container):
    exact = [[0.5, -1.0, 2.0], [0.0, 0.25, -3.0]]
    if dtype == "bfloat16":
        z = torch.tensor(exact, dtype=torch.bfloat16)
    else:
        z = np.array(exact, dtype)
        z = torch.from_numpy(z.astype(z.dtype.newbyteorder("="))) if container == "tensor" else z
    v = torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0]])
    expected = losses.distillation_loss(torch.tensor(exact), v, torch.tensor([0, 2]), temperature=3, soft_weight=0.5)
    found = losses.distillation_loss(z, v, np.array([0, 2]), temperature=3, soft_weight=0.5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.dtype == (torch.float64 if dtype == "float64" else torch.float32)


LABELS = {
    "a column": (torch.zeros(4, 1, dtype=torch.int64), r"labels is \[4, 1\] where \[cases\].*squeeze\(1\)"),
    "one-hot": (torch.eye(3)[[0, 1, 2, 0]], r"one-hot.*labels.argmax\(1\)"),
    "one-hot integers": (torch.eye(3, dtype=torch.int64)[[0, 1, 2, 0]], r"one-hot.*labels.argmax\(1\)"),
    "soft": (torch.full((4, 3), 1 / 3), "probabilities are soft targets.*teacher_logits"),
    "floats": (torch.tensor([0.0, 1.0, 2.0, 0.0]), r"must be class indices.*labels.long\(\)"),
    "too many": (torch.zeros(5, dtype=torch.int64), "there are 4 cases"),
    "above": ([0, 1, 2, 3], "number 3 is 3"),
    "below": ([0, -1, 2, 1], "or be -100 where a case has none, but number 1 is -1"),
    "none": ([0, None, 2, 1], r"labels must hold numbers, not None \(number 1\)"),
    "words": (["a", "b", "c", "a"], "labels must hold numbers"),
    "ragged": ([[0], [1, 2], [0], [1]], "rows of different lengths"),
    "a dict": ({"labels": 1}, "must be a tensor or an array, not a dict"),
    "masked": (np.ma.masked_array([0, 1, 2, 0], [0, 1, 0, 0]), "masked"),
    "sparse": (torch.tensor([0, 1, 2, 0]).to_sparse(), r"labels.to_dense\(\)"),
    "complex": (torch.zeros(4, dtype=torch.complex64), "complex"),
}


@pytest.mark.parametrize(("given", "sentence"), LABELS.values(), ids=LABELS)
def test_labels_that_are_none_get_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        as_labels(given, 4, 3)
    assert str(error.value).count(". ") == 0


LOGITS = {
    "integers": (torch.zeros(2, 3, dtype=torch.int64), 2, "logits must be floating point"),
    "empty": (torch.zeros(0, 3), 2, "no case"),
    "one number": (torch.tensor(1.0), None, "single number"),
    "other dimensions": (torch.zeros(3), 2, r"must be \[cases, classes\]"),
    "objects": (np.array([[None, 1.0]], object), 2, "must hold numbers"),
    "tensors of two shapes": ([torch.zeros(2, 3), torch.zeros(3, 3)], 3, "of one shape"),
    "text": ("1.0", 2, "not a str"),
}


@pytest.mark.parametrize(("given", "dims", "sentence"), LOGITS.values(), ids=LOGITS)
def test_what_is_no_logits_gets_one_sentence(given, dims, sentence):
    with pytest.raises(ValueError, match=sentence):
        as_logits(given, "logits", dims)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), "4", True, None, [4], torch.ones(2)])
def test_a_temperature_is_a_positive_number(temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        checks.check_temperature(temperature)


@pytest.mark.parametrize("temperature", [4, 4.0, np.float32(4), np.int64(4), torch.tensor(4)])
def test_any_kind_of_number_is_a_temperature(temperature):
    assert checks.check_temperature(temperature) == 4.0


def test_a_temperature_is_not_learned_in_silence():
    with pytest.raises(ValueError, match="temperature requires a gradient"):
        losses.distillation_loss(torch.zeros(2, 3), torch.ones(2, 3), temperature=nn.Parameter(torch.tensor(4.0)))


@pytest.mark.parametrize("soft_weight", [90, -0.1, "0.5", False, None, float("nan")])
def test_a_soft_weight_lies_between_0_and_1(soft_weight):
    with pytest.raises(ValueError, match="soft_weight must"):
        checks.check_soft_weight(soft_weight)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "at least one"),
        ([0, 3], "holds 3, but the classes are 0 to 2"),
        ([1, 1], "more than once"),
        ([0, 1, 2], "leave one out"),
        ([0.5], "integers"),
        ([True, False], "integers"),
        (np.array([[0]]), "at least one"),
    ],
)
def test_classes_are_some_of_those_there(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        as_classes(given, 3, "special")


def test_a_teacher_that_is_sure_can_be_given_as_soft_targets_but_not_be_matched():
    v = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert losses.distillation_loss(torch.zeros(1, 3), v, temperature=2.0).isfinite()
    with pytest.raises(ValueError, match="teacher_logits holds -inf"):
        losses.logit_matching_loss(torch.zeros(1, 3), v)


def test_an_ensemble_of_sure_members_has_finite_logits():
    class Certain(nn.Module):
        def forward(self, x):
            return torch.tensor([200.0, 0, 0, 0]).expand(len(x), 4)

    logits = ensembles.Average([Certain(), Certain()])(torch.zeros(3, 1))
    assert logits[0].tolist() == [0, -200, -200, -200]


ROOMS = {
    "soften": lambda wrap: losses.soften(wrap([[1.0, 2.0]]), 2.0),
    "logit matching": lambda wrap: losses.logit_matching_loss(wrap([[1.0, 2.0]]), wrap([[0.0, 2.0]])),
    "gradient": lambda wrap: losses.soft_target_gradient(wrap([[1.0, 2.0]]), wrap([[0.0, 2.0]]), 2.0),
    "average": lambda wrap: ensembles.average(wrap([[[1.0, 2.0]], [[0.0, 1.0]]])),
    "combine": lambda wrap: specialists.combine(wrap([[0.2, 0.3, 0.5]]), [wrap([[0.9, 0.1]])], [wrap([2])]),
    "clusters": lambda wrap: specialists.cluster_classes(wrap([[0.9, 0.1, 0], [0.2, 0.8, 0]]), 1, 2, seed=0)[0],
    "dustbin": lambda wrap: specialists.correct_dustbin(wrap([[1.0, 2.0]]), 3.0),
    "specialist's labels": lambda wrap: specialists.specialist_labels(wrap([0, 2, 1]), wrap([2, 1]), 3),
    "biases": lambda wrap: biases.shifted(wrap([[1.0, 2.0, 0.0]]), [0], 1.5),
    "errors": lambda wrap: biases.error_curve(wrap([[1.0, 2.0], [1.0, 0.0]]), wrap([0, 1]), [0])[1],
}


@pytest.mark.parametrize("call", ROOMS.values(), ids=ROOMS)
def test_arrays_are_as_good_as_tensors_in_every_room(call):
    torch.testing.assert_close(
        call(lambda v: np.array(v, np.float32) if _floats(v) else np.array(v)), call(torch.tensor)
    )


def _floats(value):
    return isinstance(functools.reduce(lambda v, _: v[0] if isinstance(v, list) else v, range(4), value), float)


def test_logits_in_place_of_probabilities_are_noticed():
    with pytest.raises(ValueError, match="negative entry in case 0: give probabilities, not logits"):
        specialists.cluster_classes(torch.tensor([[2.0, -1.0, 0.0], [1.0, 1.0, 1.0]]), 1, 2, seed=0)


def test_cases_without_a_label_are_left_out_by_specialists_and_biases():
    labels, special = torch.tensor([0, -100, 2, 1]), torch.tensor([2])
    assert specialists.specialist_labels(labels, special, 150).tolist() == [1, -100, 0, 1]
    half = specialists.HalfSpecial(labels, special)
    assert sorted(half.rest.tolist()) == [0, 3]
    z = torch.eye(4, 150)
    row = biases.compare(z, torch.tensor([0, -100, 2, 0]), [3], {"none": 0.0})[0]
    assert row["errors"] == 1  # of three cases


def test_sparse_and_nested_inputs_are_refused():
    with pytest.raises(ValueError, match="to_dense"):
        as_tensor(torch.eye(3).to_sparse(), "inputs")
