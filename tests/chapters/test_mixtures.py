"""Mixtures of experts: the likelihood, that both parts learn, and what a parallel training exchanges."""

import pytest
import torch

from kdrepro import store, training
from kdrepro.chapters import ch06_mixtures
from kdrepro.networks import MixtureOfExperts, parameter_count

NETWORK = {"channels": [4, 8], "experts": 3, "gate_channels": [4], "in_channels": 1, "classes": 5}


def mixture(seed=0) -> MixtureOfExperts:
    return MixtureOfExperts(**NETWORK, generator=torch.Generator().manual_seed(seed))


def test_its_logits_are_the_log_of_the_gates_mean(generator):
    net, x = mixture().eval(), torch.rand(6, 8, 8, generator=generator)
    gate = net.gate(x).softmax(1)
    expected = sum(gate[:, e : e + 1] * expert(x).softmax(1) for e, expert in enumerate(net.experts))
    torch.testing.assert_close(net(x).exp(), expected)
    torch.testing.assert_close(net(x).softmax(1), expected)  # a softmax leaves log-probabilities as they are
    torch.testing.assert_close(net.shares(x).sum(1), torch.ones(6))


def test_experts_differ_and_seeds_repeat():
    net = mixture()
    first, second = (next(expert.parameters()) for expert in net.experts[:2])
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), mixture().parameters(), strict=True))


def test_the_store_builds_mixtures():
    built = store.build({"network": NETWORK, "seed": 4})
    assert isinstance(built, MixtureOfExperts)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), mixture(4).parameters(), strict=True))


def test_gate_and_experts_learn_together(digits):
    net = MixtureOfExperts(**{**NETWORK, "classes": 10}, generator=torch.Generator().manual_seed(0))
    before = [next(part.parameters()).clone() for part in (net.gate, *net.experts)]
    batches = training.Batches(digits.train_images, digits.train_labels, batch_size=64)
    recipe = training.Recipe(epochs=6, batch_size=64, learning_rate=1e-2, precision="fp32")
    training.fit(net, batches, training.hard_targets, recipe)
    assert all(
        not torch.equal(a, next(part.parameters())) for a, part in zip(before, (net.gate, *net.experts), strict=True)
    )
    right = training.logits(net, digits.test_images).argmax(1) == digits.test_labels
    assert right.float().mean() > 0.7


def test_a_mixture_of_one_is_none():
    with pytest.raises(ValueError, match="at least 2 experts, not 1"):
        MixtureOfExperts(**{**NETWORK, "experts": 1})


def test_what_is_exchanged():
    found = ch06_mixtures.exchange_of_mixture(mixture(), steps=10, batch_size=32)
    # There and back: a number from each of three experts and three from the gate, for every case.
    assert found == ch06_mixtures.Exchange(20, 10 * 2 * 32 * (3 + 3) * 4)
    generalist = mixture().experts[0]
    alone = ch06_mixtures.exchange_of_specialists(generalist, specialists=7, classes_per_specialist=2)
    assert alone == ch06_mixtures.Exchange(0, 7 * 4 * (parameter_count(generalist) + 2))
