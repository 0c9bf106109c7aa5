"""Layers' modes belong to their owner: what is frozen stays so."""

import pytest
import torch
from torch import nn
from training_cases import here

from kdrepro import training
from kdrepro.training import Batches, Recipe

X, Y = here(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5), here(torch.arange(64) % 4)
RECIPE = Recipe(epochs=2, precision="fp32")


def frozen():
    """A network whose first two layers, a batch normalisation among them, their owner has frozen."""
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4))
    for p in net[:2].parameters():
        p.requires_grad_(False)
    net[1].eval()
    return here(net)


def fit(net):
    training.fit(net, Batches(X, Y), training.hard_targets, RECIPE)


def test_logits_give_every_layer_its_mode_back():
    net = frozen()
    before = [layer.training for layer in net.modules()]
    training.logits(net, X)
    assert [layer.training for layer in net.modules()] == before


def test_a_network_that_fails_gets_its_modes_back_too():
    net = frozen()
    before = [layer.training for layer in net.modules()]
    with pytest.raises(RuntimeError):
        training.logits(net, here(torch.zeros(3, 5)))
    assert [layer.training for layer in net.modules()] == before


def test_frozen_layers_stay_frozen_through_one_training_and_the_next():
    net = frozen()
    before = {name: t.clone() for name, t in net[:2].state_dict().items()}
    head = net[3].weight.detach().clone()
    for _ in range(2):
        fit(net)
        assert all(torch.equal(t, before[name]) for name, t in net[:2].state_dict().items())
        assert [p.requires_grad for p in net.parameters()] == [False] * 4 + [True] * 2
    assert not torch.equal(head, net[3].weight)


def test_a_network_in_eval_mode_as_a_whole_is_trained_in_train_mode():
    net = here(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)).eval())
    fit(net)
    assert net[1].num_batches_tracked == 2
    assert not net[1].training


def test_a_network_of_which_nothing_is_trained_is_refused():
    net = here(nn.Linear(8, 4).requires_grad_(False))
    with pytest.raises(ValueError, match="No parameter of the network requires a gradient"):
        fit(net)
