"""Averages of an ensemble against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdrepro.ensembles import Average, average, log_average


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.5, 1.0, 2.0, 20.0]))
@settings(max_examples=40)
def test_definitions(seed, temperature):
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4
    members = torch.softmax(logits / temperature, -1)
    arithmetic = sum(members) / 3
    product = members[0] * members[1] * members[2]
    geometric = product ** (1 / 3) / (product ** (1 / 3)).sum(-1, keepdim=True)
    torch.testing.assert_close(average(logits, "arithmetic", temperature), arithmetic)
    torch.testing.assert_close(average(logits, "geometric", temperature), geometric)


def test_one_member_is_itself():
    logits = torch.tensor([[[1.0, 2.0, 3.0]]])
    for how in ("arithmetic", "geometric"):
        torch.testing.assert_close(average(logits, how, 2.0), torch.softmax(logits[0] / 2, -1))


def test_bad_input():
    with pytest.raises(ValueError, match="members"):
        average(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="how"):
        average(torch.zeros(1, 2, 3), "harmonic")
    with pytest.raises(ValueError, match="temperature"):
        average(torch.zeros(1, 2, 3), temperature=0)
    with pytest.raises(ValueError, match="logits holds NaN"):
        average(torch.full((1, 2, 3), torch.nan))
    assert log_average(torch.full((1, 2, 3), torch.nan)).isnan().all()


def test_members_of_different_classes():
    with pytest.raises(ValueError, match=r"what the members return has one of \[5, 4\] beside \[5, 2\]"):
        Average([nn.Linear(3, 2), nn.Linear(3, 4)])(torch.zeros(5, 3))


def test_an_average_as_one_network(generator):
    members = [nn.Linear(4, 3) for _ in range(3)]
    x = torch.randn(5, 4, generator=generator)
    expected = average(torch.stack([member(x) for member in members]))
    torch.testing.assert_close(Average(members)(x).softmax(1), expected)
