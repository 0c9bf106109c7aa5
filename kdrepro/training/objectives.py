"""What a training minimises: an objective takes a batch's logits to a loss, for one network or for many at once."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kdrepro.checks import check_soft_weight, check_temperature
from kdrepro.losses import (
    DistillationLosses,
    cross_entropies,
    cross_entropy,
    decoupled_loss,
    distillation_loss,
    logit_matching_loss,
)
from kdrepro.training.batches import Batch

Objective = Callable[[torch.Tensor, Batch], torch.Tensor]  # (logits [B, C], batch) -> scalar loss


def hard_targets(student_logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the labels, over the cases that have one: ordinary training.

    student_logits: [B, C]. Returns a scalar. Raises ValueError for a batch without labels.
    """
    return cross_entropy(student_logits, labels_of(batch), check=batch.check)


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
            teacher_logits_of(batch),
            batch.labels,
            temperature=self.temperature,
            soft_weight=self.soft_weight,
            check=batch.check,
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
    return logit_matching_loss(student_logits, teacher_logits_of(batch), check=batch.check)


def taught(loss: Callable[..., torch.Tensor], **settings: float) -> Objective:
    """A loss of `kdrepro.losses` as an objective, of the batch's teacher logits and labels, with these settings.

    loss: (student_logits [B, C], teacher_logits [B, C], labels [B], **settings) to a scalar, `losses.decoupled_loss`
    say. A loss of one's own is called with these alone; one of `kdrepro.losses` also gets the batch's `check`.
    Raises ValueError for a loss that does not take these, or settings that it does not have, and, when it is asked, for
    a batch without a teacher.
    """
    name = getattr(loss, "__name__", type(loss).__name__)
    if not callable(loss):
        raise ValueError(f"loss must be a function, such as losses.decoupled_loss, not {loss!r}.")
    try:
        inspect.signature(loss).bind(*(None,) * 3, **settings, **_also(loss, check=True))
    except TypeError as error:
        raise ValueError(
            f"taught calls {name}(student_logits, teacher_logits, labels, **settings), which does not fit ({error}): "
            "mend the settings, or for a loss of other arguments see training.hard_targets and matched_logits, or "
            "write lambda logits, batch: ..."
        ) from None
    except ValueError:  # a function of C's, which says nothing of its arguments
        pass
    return functools.partial(_taught, loss, settings)


def _taught(loss: Callable, settings: dict[str, float], logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return loss(logits, teacher_logits_of(batch), batch.labels, **settings, **_also(loss, batch.check))


def _also(loss: Callable, check: bool) -> dict[str, bool]:
    """What this package's own losses are told beside their settings."""
    return {"check": check} if getattr(loss, "__module__", None) == decoupled_loss.__module__ else {}


def needs_labels(objective: Objective) -> bool:
    """Whether an objective of this package takes each label but -100 for a class; of others that is not known.

    One that is made elsewhere says so by its attribute `needs_labels`.
    """
    if isinstance(objective, Distillation):
        return objective.soft_weight < 1
    if isinstance(objective, functools.partial) and objective.func is _taught:
        loss, settings = objective.args
        return loss is decoupled_loss or settings.get("soft_weight", 1.0) < 1
    return objective is hard_targets or getattr(objective, "needs_labels", False)


def of_labels_alone(objective: Objective) -> bool:
    """Whether an objective of this package gives nothing for a case without a label; of others that is not known."""
    return objective is hard_targets or (isinstance(objective, Distillation) and objective.soft_weight == 0)


def labels_of(batch: Batch) -> torch.Tensor:
    """A batch's labels [B]. Raises ValueError where it has none."""
    if batch.labels is None:
        raise ValueError("This objective needs labels, and the batches have none: pass labels to training.Batches.")
    return batch.labels


def teacher_logits_of(batch: Batch) -> torch.Tensor:
    """A batch's teacher logits [B, C]. Raises ValueError where it has none."""
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
        raise ValueError(
            "The objective's loss has no gradient: compute it from the logits, without detach, item or no_grad."
        )
    return loss


class LossesOfMany:
    """The losses of several networks at once: logits [M, B, C] and M batches to losses [M].

    In a few operations for all those whose objective is `hard_targets`, for all those of `soft_targets` with labels,
    whatever their temperatures and weights, and for those without; all others one after the other. So a network's loss
    is computed in the same way whatever the others' are. What the operations need is made once, not in each step.
    """

    def __init__(self, objectives: Sequence[Objective]):
        self.objectives = list(objectives)
        self._plans: dict[tuple[bool, ...], _Plan] = {}  # by which batches have labels

    def __call__(self, logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        """The losses [M]."""
        labelled = tuple(batch.labels is not None for batch in batches)
        if labelled not in self._plans:
            self._plans[labelled] = _Plan(self.objectives, labelled, logits.device)
        plan = self._plans[labelled]
        if len(plan.parts) == 1:
            return plan.parts[0].way(logits, batches)
        found = [part.way(logits[part.index], [batches[m] for m in part.members]) for part in plan.parts]
        return torch.cat(found)[plan.order]


Way = Callable[[torch.Tensor, Sequence[Batch]], torch.Tensor]  # (logits [m, B, C], m batches) -> losses [m]


@dataclass(frozen=True)
class _Part:
    """Networks whose losses are computed together: how, their positions, and these on the device."""

    way: Way
    members: list[int]
    index: torch.Tensor


class _Plan:
    """Networks by how their losses are computed. order: where the networks' losses are among the parts'."""

    def __init__(self, objectives: Sequence[Objective], labelled: Sequence[bool], device: torch.device):
        kinds: dict[tuple[Callable[[list], Way], bool], list[int]] = {}
        for m, (objective, has_labels) in enumerate(zip(objectives, labelled, strict=True)):
            distils = isinstance(objective, Distillation)
            kind = _hard if objective is hard_targets else _soft if distils else _one_by_one
            kinds.setdefault((kind, has_labels), []).append(m)
        self.parts = [
            _Part(kind([objectives[m] for m in members]), members, torch.tensor(members, device=device))
            for (kind, _), members in kinds.items()
        ]
        self.order = torch.cat([part.index for part in self.parts]).argsort()


def _one_by_one(objectives: Sequence[Objective]) -> Way:
    def way(logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        return torch.stack([loss_of(*each) for each in zip(objectives, logits, batches, strict=True)])

    return way


def _hard(objectives: Sequence[Objective]) -> Way:
    def way(logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        return cross_entropies(logits, torch.stack([labels_of(batch) for batch in batches]), check=batches[0].check)

    return way


def _soft(objectives: Sequence[Distillation]) -> Way:
    losses = DistillationLosses([o.temperature for o in objectives], [o.soft_weight for o in objectives])

    def way(logits: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        given = [teacher_logits_of(batch) for batch in batches]
        if any(one.shape != logits.shape[1:] for one in given):
            return _one_by_one(objectives)(logits, batches)  # which raises that one's own sentence
        teachers = torch.stack(given)
        labels = None if batches[0].labels is None else torch.stack([batch.labels for batch in batches])
        return losses(logits, teachers, labels, check=batches[0].check)

    return way
