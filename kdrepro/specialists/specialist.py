"""A specialist's cases, labels, dustbin and loss (Sections 5.2 and 6.1)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kdrepro.losses import distillation_loss
from kdrepro.training import Batch, Objective


def oversampling(share: float) -> float:
    """By how much half a training set of special cases oversamples them against the dustbin.

    share: of all cases that are of special classes, f. Trained on equal parts, a network's odds of special against
    dustbin are too high by (1 - f) / f; adding the logarithm of that to the dustbin's logit makes its prior right.
    (The paper's "proportion by which the special class is oversampled" may also be read as 0.5 / f.)
    Raises ValueError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}: all or none of the cases are special.")
    return (1 - share) / share


def correct_dustbin(logits: torch.Tensor, oversampling: float) -> torch.Tensor:
    """Logits [B, S + 1] with log(oversampling) added to the last column, the dustbin's (Section 5.2).

    Raises ValueError when oversampling is not a positive number.
    """
    if not (oversampling > 0 and math.isfinite(oversampling)):
        raise ValueError(f"oversampling must be a positive number, not {oversampling}.")
    corrected = logits.clone()
    corrected[:, -1] += math.log(oversampling)
    return corrected


def specialist_labels(labels: torch.Tensor, special: torch.Tensor, classes: int) -> torch.Tensor:
    """Labels [N] as a specialist has them: the position in `special`, or len(special), the dustbin."""
    position = torch.full((classes,), len(special), dtype=torch.int64, device=labels.device)
    position[special.to(labels.device)] = torch.arange(len(special), device=labels.device)
    return position[labels]


@torch.no_grad()
def with_dustbin(output: nn.Linear, special: torch.Tensor) -> nn.Linear:
    """A generalist's last layer cut down to the special classes and a dustbin, where a specialist starts.

    output: a layer to C classes; special: [S]. The dustbin gets the mean of the other classes' weights and biases, and
    the logarithm of their number on top: the logarithm of their summed odds, if they were equal.
    """
    others = torch.ones(len(output.bias), dtype=torch.bool)
    others[special] = False
    layer = nn.utils.skip_init(nn.Linear, output.in_features, len(special) + 1)
    layer.weight.copy_(torch.cat([output.weight[special], output.weight[others].mean(0, keepdim=True)]))
    dustbin = output.bias[others].mean() + math.log(int(others.sum()))
    layer.bias.copy_(torch.cat([output.bias[special], dustbin.view(1)]))
    return layer


def kept_knowledge(special: torch.Tensor, classes: int, temperature: float, by: str = "class") -> Objective:
    """Section 6.1's loss of a specialist with a full softmax, whose batches carry the generalist's logits.

    special: [S] class indices. by: "class", the labels of all cases and, on every case, the generalist's soft targets
    among the non-special classes (both distributions renormalised over them); or "case", the labels of the special
    cases and the generalist's whole soft targets for the others.
    Raises ValueError for another `by`.
    """
    if by not in ("class", "case"):
        raise ValueError(f'by must be "class" or "case", not {by!r}.')
    inside = torch.zeros(classes, dtype=torch.bool)
    inside[special] = True

    def by_class(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        others = ~inside.to(logits.device)
        soft = distillation_loss(logits[:, others], batch.teacher_logits[:, others], temperature=temperature)
        return F.cross_entropy(logits, batch.labels) + soft

    def by_case(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        hard = inside.to(logits.device)[batch.labels]
        loss = logits.new_zeros(())
        if hard.any():
            loss = loss + F.cross_entropy(logits[hard], batch.labels[hard], reduction="sum")
        if not hard.all():
            soft = distillation_loss(logits[~hard], batch.teacher_logits[~hard], temperature=temperature)
            loss = loss + soft * (~hard).sum()
        return loss / len(logits)

    return by_class if by == "class" else by_case


def correct_full(logits: torch.Tensor, special: torch.Tensor, oversampling: float) -> torch.Tensor:
    """As `correct_dustbin`, for logits [B, C]: log(oversampling) is added to all classes that are not special."""
    corrected = logits + math.log(oversampling)
    corrected[:, special] = logits[:, special]
    return corrected


class HalfSpecial:
    """An epoch of a specialist: all cases of its special classes, and as many drawn at random from the rest.

    labels: of all training cases, [N]. special: class indices. The rest is drawn anew for each epoch, without
    replacement; where it is the smaller half, all of it is taken.
    Raises ValueError when either half is empty.
    """

    def __init__(self, labels: torch.Tensor, special: torch.Tensor):
        inside = torch.isin(labels, special.to(labels.device))
        self.special, self.rest = inside.nonzero().flatten(), (~inside).nonzero().flatten()
        if len(self.special) == 0 or len(self.rest) == 0:
            raise ValueError("A specialist needs training cases of its special classes and of others.")
        self.count = min(len(self.special), len(self.rest))  # of the rest

    @property
    def share(self) -> float:
        """Special cases among all, f."""
        return len(self.special) / (len(self.special) + len(self.rest))

    def __len__(self) -> int:
        return len(self.special) + self.count

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Indices of an epoch's cases, the special ones first."""
        order = torch.randperm(len(self.rest), generator=generator, device=self.rest.device)
        return torch.cat([self.special, self.rest[order[: self.count]]])
