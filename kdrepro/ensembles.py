"""An ensemble's soft targets: the arithmetic or the geometric mean of its members (Section 2)."""

from collections.abc import Sequence

import torch
from torch import nn

from kdrepro.losses import soften


def average(logits: torch.Tensor, how: str = "arithmetic", temperature: float = 1.0) -> torch.Tensor:
    """Average the softened predictions of M networks into one distribution per case.

    logits: [M, B, C]. how: "arithmetic", the mean of the probabilities at T, or "geometric", their
    normalised geometric mean, which is the softmax of the mean logits.
    Returns probabilities [B, C]. To use them as soft targets at the same T, pass
    ``temperature * log(p)`` as teacher logits.
    Raises ValueError if logits is not [M, B, C] or `how` is neither of the two.
    """
    if logits.dim() != 3 or logits.shape[0] == 0:
        raise ValueError(f"logits must be [members, cases, classes], not {list(logits.shape)}.")
    if how == "arithmetic":
        return soften(logits, temperature).mean(0)
    if how == "geometric":
        return soften(logits.mean(0), temperature)
    raise ValueError(f'how must be "arithmetic" or "geometric", not {how!r}.')


class Average(nn.Module):
    """An ensemble as one network: inputs to the log of its members' arithmetic mean [B, C], to be used as logits."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return average(torch.stack([member(x).float() for member in self.members])).log()
