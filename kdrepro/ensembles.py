"""An ensemble's soft targets: the arithmetic or the geometric mean of its members (Section 2)."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from kdrepro.checks import as_logits, as_tensor, check_network, logits_of, wide
from kdrepro.losses import soften
from kdrepro.networks import Composed


def average(logits: torch.Tensor, how: str = "arithmetic", temperature: float = 1.0) -> torch.Tensor:
    """Average the softened predictions of M networks into one distribution per case.

    logits: [M, B, C], or M of [B, C]. how: "arithmetic", the mean of the probabilities at T, or "geometric", their
    normalised geometric mean, which is the softmax of the mean logits. temperature: T > 0, 1 for the ordinary softmax.
    Returns probabilities [B, C]. To use them as soft targets at the same T, pass
    ``temperature * log(p)`` as teacher logits; where members are very sure, `log_average` keeps what p rounds to 0.
    Raises ValueError if logits is not [M, B, C] or holds NaN, T is not positive, or `how` is neither of the two.
    """
    logits = _of_members(logits)
    if how == "arithmetic":
        return soften(logits, temperature).mean(0)
    if how == "geometric":
        return soften(wide(logits).mean(0), temperature)
    raise ValueError(f'how must be "arithmetic" or "geometric", not {how!r}.')


def log_average(logits: torch.Tensor) -> torch.Tensor:
    """The log of the arithmetic mean at T = 1, formed in log space: finite logits [M, B, C] give finite ones [B, C].

    Raises ValueError if logits is not [M, B, C]; values are not looked at, so that no GPU waits, and NaN stays NaN.
    """
    logits = _of_members(logits)
    return wide(logits).log_softmax(-1).logsumexp(0) - math.log(len(logits))


def _of_members(logits: torch.Tensor) -> torch.Tensor:
    logits = as_logits(logits, "logits")
    if logits.dim() != 3:
        raise ValueError(f"logits must be [members, cases, classes], not {list(logits.shape)}.")
    return logits


class Average(Composed):
    """An ensemble as one network: inputs to the log of its members' arithmetic mean [B, C], to be used as logits.

    Raises ValueError for no members, for what is no network, and where they return different shapes.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        if len(members) == 0:
            raise ValueError("members is empty: an ensemble needs at least one network.")
        self.members = nn.ModuleList(check_network(member, f"members[{i}]") for i, member in enumerate(members))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs [B, ...] to log-probabilities [B, C]."""
        outputs = [wide(logits_of(member(x), member, len(x))) for member in self.members]
        return log_average(as_tensor(outputs, "what the members return"))
