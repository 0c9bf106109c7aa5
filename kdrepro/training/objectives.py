"""What a training minimises: an objective takes a batch's logits to a loss, for one network or for many at once."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kdrepro.checks import check_soft_weight, check_temperature
from kdrepro.losses import cross_entropies, cross_entropy, distillation_loss, distillation_losses, logit_matching_loss
from kdrepro.training.batches import Batch

Objective = Callable[[torch.Tensor, Batch], torch.Tensor]  # (logits [B, C], batch) -> scalar loss


def hard_targets(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the labels, over the cases that have one: ordinary training.

    student_logits: [B, C]. Returns a scalar. Raises ValueError for a batch without labels.
    """
    return cross_entropy(student_logits, _labels(batch))


@dataclass(frozen=True)
class Distillation:
    """Distillation (Section 2): `losses.distillation_loss` of a batch's teacher logits and labels.

    temperature, soft_weight: as there. Raises ValueError for values that cannot be, and for a batch without a teacher.
    """

    temperature: float
    soft_weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", check_temperature(self.temperature))
        object.__setattr__(self, "soft_weight", check_soft_weight(self.soft_weight))

    def __call__(self, student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of logits [B, C]: a scalar."""
        return distillation_loss(
            student_logits,
            _teacher_logits(batch),
            batch.labels,
            temperature=self.temperature,
            soft_weight=self.soft_weight,
        )


def soft_targets(temperature: float, soft_weight: float = 1.0) -> Objective:
    """Distillation (Section 2) as an objective; the arguments are those of `losses.distillation_loss`.

    Raises ValueError for a temperature that is not positive and a soft_weight outside [0, 1].
    """
    return Distillation(temperature, soft_weight)


def matched_logits(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logit matching (Section 2.1): `losses.logit_matching_loss` of the batch's teacher logits.

    student_logits: [B, C]. Returns a scalar. Raises ValueError for a batch without a teacher.
    """
    return logit_matching_loss(student_logits, _teacher_logits(batch))


def taught(loss: Callable[..., torch.Tensor], **settings: float) -> Objective:
    """A loss of `kdrepro.losses` as an objective, of the batch's teacher logits and labels, with these settings.

    loss: (student_logits [B, C], teacher_logits [B, C], labels [B], **settings) to a scalar, `losses.decoupled_loss`
    say. Raises ValueError for a batch without a teacher.
    """
    return functools.partial(_taught, loss, settings)


def _taught(loss: Callable, settings: dict[str, float], logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return loss(logits, _teacher_logits(batch), batch.labels, **settings)


def _labels(batch: Batch) -> torch.Tensor:
    if batch.labels is None:
        raise ValueError("hard_targets needs labels, and the batches have none: pass labels to training.Batches.")
    return batch.labels


def _teacher_logits(batch: Batch) -> torch.Tensor:
    if batch.teacher_logits is None:
        raise ValueError(
            "This objective needs a teacher, and the batches have none: pass teacher_logits or teacher to "
            "training.Batches."
        )
    return batch.teacher_logits


def loss_of(objective: Objective, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """An objective's loss. Raises ValueError where that is no scalar that depends on the logits."""
    loss = objective(logits, batch)
    if not isinstance(loss, torch.Tensor) or loss.dim() > 0:
        what = f"{list(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"The objective returned {what} where a scalar tensor is expected: take the mean over cases.")
    if not loss.requires_grad:
        raise ValueError("The objective's loss has no gradient: compute it from the logits, without detach or item.")
    return loss


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
    return [loss_of(objective, z, batch) for objective, z, batch in zip(objectives, logits, batches, strict=True)]


def _hard(objectives: Sequence[Objective], logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    return cross_entropies(logits, torch.stack([_labels(batch) for batch in batches]))


def _labelled(objectives: Sequence[Distillation], logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    return _soft(objectives, logits, batches, torch.stack([batch.labels for batch in batches]))


def _unlabelled(objectives: Sequence[Distillation], logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
    return _soft(objectives, logits, batches, None)


def _soft(
    objectives: Sequence[Distillation], logits: torch.Tensor, batches: Sequence[Batch], labels: torch.Tensor | None
) -> torch.Tensor:
    return distillation_losses(
        logits,
        torch.stack([_teacher_logits(batch) for batch in batches]),
        labels,
        temperatures=[o.temperature for o in objectives],
        soft_weights=[o.soft_weight for o in objectives],
    )
