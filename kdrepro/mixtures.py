"""Mixtures of experts (Section 7): experts and a gate that are trained together, and what that exchanges."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kdrepro.networks import ConvNet, parameter_count

FLOAT = 4  # bytes of a number that is sent


class MixtureOfExperts(nn.Module):
    """Several convolutional experts and a gate, itself a small one: images to float32 log-probabilities [B, classes].

    p(class) = sum over experts of gate(expert) p_expert(class), every factor a softmax of its own, so that
    cross-entropy with these "logits" is the mixture's negative log-likelihood (softmax leaves log p as it is).
    experts: how many. channels: stages of each expert; gate_channels: of the gate. generator: draws initial weights.
    Raises ValueError for fewer than two experts.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        experts: int,
        gate_channels: Sequence[int],
        in_channels: int,
        classes: int,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if experts < 2:
            raise ValueError(f"A mixture needs at least 2 experts, not {experts}.")
        common = {"in_channels": in_channels, "generator": generator}
        self.experts = nn.ModuleList(
            ConvNet(channels, classes=classes, dropout=dropout, **common) for _ in range(experts)
        )
        self.gate = ConvNet(gate_channels, classes=experts, **common)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate(x).log_softmax(1)  # [B, experts]
        opinions = torch.stack([expert(x).log_softmax(1) for expert in self.experts], dim=1)  # [B, experts, classes]
        return (gate.unsqueeze(2) + opinions).logsumexp(1)

    def shares(self, x: torch.Tensor) -> torch.Tensor:
        """How much the gate trusts each expert, [B, experts]."""
        return self.gate(x).softmax(1)


@dataclass(frozen=True)
class Exchange:
    """What machines that each train one network must tell each other.

    synchronisations: moments at which all wait for all. bytes_sent: in all, by all machines together.
    """

    synchronisations: int
    bytes_sent: int


def exchange_of_mixture(mixture: MixtureOfExperts, steps: int, batch_size: int) -> Exchange:
    """Of a mixture with every expert, and the gate, on a machine of its own, over a whole training.

    In a step the likelihood of a case needs every expert's probability of its class, and every expert and the gate need
    the gradient with respect to what they sent: each of B cases sends a number from each expert, E from the gate, and
    as many come back. That is the least that can be sent; two waits a step, for the sum and for the gradients.
    """
    experts = len(mixture.experts)
    a_step = 2 * batch_size * (experts + experts) * FLOAT
    return Exchange(2 * steps, a_step * steps)


def exchange_of_specialists(generalist: nn.Module, specialists: int, classes_per_specialist: int) -> Exchange:
    """Of specialists with a machine each: before they begin, the generalist's weights and their lists of classes.

    While they train they exchange nothing and wait for nobody.
    """
    return Exchange(0, specialists * FLOAT * (parameter_count(generalist) + classes_per_specialist))
