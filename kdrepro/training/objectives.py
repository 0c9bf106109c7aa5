"""What a training minimises: an objective takes a batch's logits to a loss, for one network or for many at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kdrepro.losses import cross_entropies, distillation_loss, distillation_losses, logit_matching_loss
from kdrepro.training.batches import Batch

Objective = Callable[[torch.Tensor, Batch], torch.Tensor]  # (logits [B, C], batch) -> scalar loss


def hard_targets(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the labels: ordinary training."""
    return F.cross_entropy(student_logits, batch.labels)


@dataclass(frozen=True)
class Distillation:
    """Distillation (Section 2): `losses.distillation_loss` of a batch's teacher logits and labels."""

    temperature: float
    soft_weight: float = 1.0

    def __call__(self, student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return distillation_loss(
            student_logits,
            batch.teacher_logits,
            batch.labels,
            temperature=self.temperature,
            soft_weight=self.soft_weight,
        )


def soft_targets(temperature: float, soft_weight: float = 1.0) -> Objective:
    """Distillation (Section 2) as an objective; the arguments are those of `losses.distillation_loss`."""
    return Distillation(temperature, soft_weight)


def matched_logits(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logit matching (Section 2.1): `losses.logit_matching_loss` of the batch's teacher logits."""
    return logit_matching_loss(student_logits, batch.teacher_logits)


def of_many(objectives: Sequence[Objective], logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    """The loss of each of several networks: logits [M, B, C] and M batches to losses [M].

    In a few operations for all those whose objective is `hard_targets`, for all those of `soft_targets` with labels,
    whatever their temperatures and weights, and for those without; all others one after the other. So a network's loss
    is computed in the same way whatever the others' are.
    """
    losses: dict[int, torch.Tensor] = {}
    for way, members in _by_way(objectives, batches).items():
        z = logits if len(members) == len(logits) else logits[members]
        found = way([objectives[m] for m in members], z, [batches[m] for m in members])
        losses |= dict(zip(members, found, strict=True))
    return torch.stack([losses[m] for m in range(len(logits))])


def _by_way(objectives: Sequence[Objective], batches: Sequence[Batch]) -> dict[Callable, list[int]]:
    """How losses are computed, with the positions of the networks whose are."""
    ways: dict[Callable, list[int]] = {}
    for m, (objective, batch) in enumerate(zip(objectives, batches, strict=True)):
        way = _one_by_one
        if objective is hard_targets:
            way = _hard
        elif isinstance(objective, Distillation):
            way = _unlabelled if batch.labels is None else _labelled
        ways.setdefault(way, []).append(m)
    return ways


def _one_by_one(objectives: Sequence[Objective], logits: torch.Tensor, batches: Sequence[Batch]) -> list[torch.Tensor]:
    return [objective(z, batch) for objective, z, batch in zip(objectives, logits, batches, strict=True)]


def _hard(objectives: Sequence[Objective], logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    labels = torch.cat([batch.labels for batch in batches])
    return cross_entropies(logits.flatten(0, 1), labels).view(logits.shape[:2]).mean(1)


def _labelled(objectives: Sequence[Distillation], logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    return _soft(objectives, logits, batches, torch.stack([batch.labels for batch in batches]))


def _unlabelled(objectives: Sequence[Distillation], logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    return _soft(objectives, logits, batches, None)


def _soft(
    objectives: Sequence[Distillation], logits: torch.Tensor, batches: Sequence[Batch], labels: torch.Tensor | None
) -> torch.Tensor:
    return distillation_losses(
        logits,
        torch.stack([batch.teacher_logits for batch in batches]),
        labels,
        temperatures=[o.temperature for o in objectives],
        soft_weights=[o.soft_weight for o in objectives],
    )
