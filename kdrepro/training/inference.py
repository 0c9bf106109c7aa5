"""A network's logits over many cases."""

import torch
from torch import nn


def as_inputs(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Stored cases as a network takes them: uint8 pixels become floats in [0, 1]; floats stay."""
    return x.to(dtype).div_(255) if x.dtype == torch.uint8 else x.to(dtype)


@torch.no_grad()
def logits(
    network: nn.Module, inputs: torch.Tensor, chunk: int = 4096, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """A network's logits [N, C] in float32 and eval mode, in chunks; its mode is restored.

    dtype: of the hidden layers' matrix products, float32 or bfloat16.
    """
    was_training = network.training
    network.eval()
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = torch.cat([network(as_inputs(x, dtype)).float() for x in inputs.split(chunk)])
    network.train(was_training)
    return found
