"""Train and eval mode of a network's layers, which belong to its owner."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def frozen_layers(network: nn.Module) -> list[nn.Module]:
    """The layers that their owner keeps in eval mode, so that their statistics and dropout stay as they are.

    In a network in train mode, those in eval mode. In one that is in eval mode as a whole, as `fit` leaves it, those
    with parameters of which none is trained.
    """
    if network.training:
        return [layer for layer in network.modules() if not layer.training]
    return [layer for layer in network.modules() if not layer.training and _untrained(layer)]


def _untrained(layer: nn.Module) -> bool:
    own = list(layer.parameters())
    return bool(own) and not any(p.requires_grad for p in own)


def to_train(network: nn.Module, frozen: list[nn.Module]) -> None:
    """Put a network in train mode, but for these layers."""
    network.train()
    for layer in frozen:
        layer.training = False


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """In here the network is in eval mode; afterwards every layer is in the mode that it was in."""
    if not any(layer.training for layer in network.modules()):
        yield  # nothing to change: other threads may use the same network
        return
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode
