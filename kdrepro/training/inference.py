"""A network's logits over many cases."""

from typing import Any

import torch
from torch import nn

from kdrepro.checks import (
    check_device,
    check_inputs,
    check_network,
    check_whole,
    logits_of,
    network_dtype,
    unwrapped,
    warn_of_probabilities,
    wide,
)
from kdrepro.networks import MLP, Composed, ConvNet, MixtureOfExperts
from kdrepro.training.datasets import as_cases
from kdrepro.training.modes import evaluating


def as_inputs(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Stored cases as a network takes them: uint8 pixels become floats in [0, 1], floats get the dtype.

    All else, token ids say, stays as it is.
    """
    if x.dtype == torch.uint8:
        return x.to(dtype).div_(255)
    return x.to(dtype) if x.is_floating_point() else x


def input_dtype(network: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the floats that a network is given when its hidden layers multiply in `dtype`.

    This package's networks take that itself; all others their own, and autocast does the rest.
    """
    own = network_dtype(network)
    return dtype if _is_ours(network) and own == torch.float32 else own


def _is_ours(network: nn.Module) -> bool:
    network = unwrapped(network)
    if isinstance(network, Composed):
        return all(_is_ours(member) for member in network.members)
    return isinstance(network, MLP | ConvNet | MixtureOfExperts)


@torch.no_grad()
def logits(
    network: nn.Module, inputs: Any, chunk: int = 4096, dtype: torch.dtype = torch.float32, *, check: bool = True
) -> torch.Tensor:
    """A network's logits [N, C] in eval mode, in chunks; each of its layers gets its mode back.

    inputs: a tensor or an array [N, ...], or a dataset or loader of them (see `Batches`); of integers only uint8 images
    are turned into floats. The network gets floats in its own precision.
    chunk: the most cases that the network is given at once.
    dtype: of the hidden layers' matrix products, float32 or bfloat16, or the network's own.
    check: whether it is looked at whether these are probabilities, of which a warning tells; a GPU has to be waited for
        then.
    Returns float32, or float64 from a network in float64.
    Raises ValueError for a network that returns no logits [cases, classes] or is on another device than the inputs, a
    chunk below 1, and another dtype.
    """
    check_network(network)
    chunk = check_whole(chunk, "chunk", least=1)
    if dtype not in (torch.float32, torch.bfloat16, network_dtype(network)):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, not {dtype}.")
    inputs = as_cases(inputs, "inputs", ordered=True).inputs
    check_device(network, inputs.device)
    check_inputs(network, inputs)
    given = input_dtype(network, dtype)
    autocast = dtype == torch.bfloat16 and network_dtype(network) == torch.float32
    found = []
    with evaluating(network), torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast):
        for x in inputs.split(chunk):
            found.append(wide(logits_of(network(as_inputs(x, given)), network, len(x))))
    if check:
        warn_of_probabilities(found[0], network)
    return torch.cat(found)
