"""What a training minimises: an objective takes a batch's logits to a loss, for one network or for many at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kdrepro.batches import Batch
from kdrepro.losses import cross_entropies, distillation_loss, distillation_losses, logit_matching_loss

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

    In a few operations for all where every objective is `hard_targets`, or every one is of `soft_targets`, whatever
    its temperature and weight; otherwise one network after the other.
    """
    if all(o is hard_targets for o in objectives):
        labels = torch.cat([batch.labels for batch in batches])
        return cross_entropies(logits.flatten(0, 1), labels).view(logits.shape[:2]).mean(1)
    if all(isinstance(o, Distillation) for o in objectives) and _labelled_alike(batches):
        labels = None if batches[0].labels is None else torch.stack([batch.labels for batch in batches])
        return distillation_losses(
            logits,
            torch.stack([batch.teacher_logits for batch in batches]),
            labels,
            temperatures=[o.temperature for o in objectives],
            soft_weights=[o.soft_weight for o in objectives],
        )
    return torch.stack([o(z, batch) for o, z, batch in zip(objectives, logits, batches, strict=True)])


def _labelled_alike(batches: Sequence[Batch]) -> bool:
    return len({batch.labels is None for batch in batches}) == 1
