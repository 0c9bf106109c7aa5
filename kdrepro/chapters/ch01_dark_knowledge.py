"""Chapter 1: gradients of single cases, without forming them, for what Section 2 says of their variance."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from kdrepro.losses import soften
from kdrepro.networks import MLP


def relative_variance(network: MLP, inputs: torch.Tensor, losses: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Variance of the cases' gradients relative to the squared mean: mean |g - mean g|^2 / |mean g|^2.

    inputs: [B, ...] floats. losses: logits [B, C] -> the loss of each case [B]. g runs over all weights and
    biases; dropout is off.

    A case's gradient for a layer's weights is the outer product of the layer's input h and the loss's
    gradient d at its output, so its squared norm is |h|^2 |d|^2 and needs no matrix of its own.
    """
    network.eval()
    layers = [*network.hidden, network.output]
    h, seen, outputs = inputs.flatten(1), [], []
    for layer in layers:
        seen.append(h)
        outputs.append(F.linear(h, layer.weight, layer.bias))
        h = F.relu(outputs[-1])
    deltas = torch.autograd.grad(losses(outputs[-1]).sum(), outputs)
    mean_square = sum((h.square().sum(1) + 1) * d.square().sum(1) for h, d in zip(seen, deltas, strict=True)).mean()
    count = len(inputs)
    square_of_mean = sum(
        (d.T @ h / count).square().sum() + d.mean(0).square().sum() for h, d in zip(seen, deltas, strict=True)
    )
    return ((mean_square - square_of_mean) / square_of_mean).item()


def soft_losses(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The paper's cross-entropy with the soft targets for each case: [B, C], [B, C] -> [B]."""
    log_q = F.log_softmax(student_logits / temperature, dim=-1)
    return -(soften(teacher_logits, temperature) * log_q).sum(-1)
