"""Many `MLP`s of one shape as one network of batched matrix products."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from kdrepro.networks import MLP, Dropout, draw_bytes, scaled_mask

FEW_ROWS = 64  # of a product, so few that its threads may get parts that are computed in different ways


def shape_of(network: MLP) -> tuple:
    """What networks must share to be stacked: their layers' sizes and their dropout rates."""
    sizes = tuple(tuple(p.shape) for p in network.parameters())
    return sizes, network.input_dropout.dropped, network.hidden_dropout.dropped


class SideBySide(nn.Module):
    """M networks whose parameters are, while this lives, views of its own stacks of them, each [M, ...].

    Training it trains them, and a member can be evaluated or saved at any time. `release` gives each its own memory.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = tuple(members)  # not a ModuleList: their parameters are this module's already
        self.stacked = nn.ParameterList(
            nn.Parameter(torch.stack([p.detach() for p in same]))
            for same in zip(*(member.parameters() for member in members), strict=True)
        )
        for m, member in enumerate(members):
            for own, stacked in zip(member.parameters(), self.stacked, strict=True):
                own.data = stacked.data[m]

    @torch.no_grad()
    def release(self) -> None:
        """Give the members' parameters memory of their own again."""
        for member in self.members:
            for own in member.parameters():
                own.data = own.data.clone()


class Stack(SideBySide):
    """M `MLP`s of one shape, side by side: [M, B, ...] is flattened to [M, B, inputs]; float32 logits [M, B, C].

    Hidden layers multiply in the precision of what they are given, float32 or bfloat16, the output layer in float32.
    Dropout masks come from each member's own generator (`networks.use_generator`), in the order in which the member
    alone would draw them.
    Raises ValueError for members of different shapes.
    """

    def __init__(self, members: Sequence[MLP]):
        if len({shape_of(member) for member in members}) != 1:
            raise ValueError("Only networks of one shape and one dropout can be stacked.")
        super().__init__(members)

    @property
    def layers(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Weights [M, out, in] and biases [M, out] of each layer, the output layer last."""
        stacked = list(self.stacked)  # torch.compile cannot slice a ParameterList
        return list(zip(stacked[::2], stacked[1::2], strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs [M, B, ...] to logits [M, B, C]."""
        *hidden, (weight, bias) = self.layers
        x = self._dropped([member.input_dropout for member in self.members], x.flatten(2))
        for w, b in hidden:
            x = F.relu(_Linear.apply(x, w, b))
            x = self._dropped([member.hidden_dropout for member in self.members], x)
        return _Linear.apply(x.float(), weight, bias)

    def _dropped(self, layers: Sequence[Dropout], x: torch.Tensor) -> torch.Tensor:
        rate = layers[0].dropped
        if not self.training or rate == 0:
            return x
        words = torch.empty(len(x), (math.prod(x.shape[1:]) + 7) // 8, dtype=torch.int64, device=x.device)
        for own, layer in zip(words, layers, strict=True):
            draw_bytes(own, layer.generator)
        return x * scaled_mask(words, x.shape, rate, x.dtype)

    @torch.no_grad()
    def clip_max_norm(self, limit: float) -> None:
        """As `networks.clip_max_norm`, for all members at once."""
        for weight, _ in self.layers[:-1]:
            rows = weight.data.view(-1, weight.shape[-1])
            rows.copy_(torch.renorm(rows, p=2, dim=0, maxnorm=limit))


class _Linear(torch.autograd.Function):
    """M linear layers: x [M, B, in], weight [M, out, in], bias [M, out] to [M, B, out] in x's precision.

    Autograd's own gradient of `torch.baddbmm` has the weight's two axes the other way round, and turning them costs
    as much as half of a product; here it is computed as it is needed.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        to_x = torch.bmm(grad, weight) if ctx.needs_input_grad[0] else None
        return to_x, _product(grad.transpose(1, 2), x).float(), grad.sum(1).float()


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """As `torch.bmm`, but of a lone network just what it would be among others.

    A lone product is shared out among the processor's threads, several ones one by one; where there are few rows, their
    sums then differ in the last digit. So of few rows a lone product is computed twice.
    """
    if len(a) > 1 or a.shape[1] > FEW_ROWS:
        return torch.bmm(a, b)
    return torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1]
