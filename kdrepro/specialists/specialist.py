"""A specialist's cases, labels, dustbin and loss (Sections 5.2 and 6.1)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kdrepro.checks import NO_LABEL, as_classes, as_labels, as_logits, check_temperature
from kdrepro.losses import cross_entropy, distillation_loss
from kdrepro.training import Batch, Objective
from kdrepro.training.objectives import labels_of, teacher_logits_of


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

    Raises ValueError for logits of another shape, and when oversampling is not a positive number.
    """
    added = _log(oversampling)
    corrected = as_logits(logits, "logits", 2).clone()
    corrected[:, -1] += added
    return corrected


def _log(oversampling: float) -> float:
    if not (oversampling > 0 and math.isfinite(oversampling)):
        raise ValueError(f"oversampling must be a positive number, not {oversampling}.")
    return math.log(oversampling)


def specialist_labels(labels: torch.Tensor, special: torch.Tensor, classes: int) -> torch.Tensor:
    """Labels [N] as a specialist has them: the position in `special`, or len(special), the dustbin; -100 stays.

    Raises ValueError for labels and special classes that are none of the `classes`.
    """
    labels, special = as_labels(labels, len(labels), classes), as_classes(special, classes, "special")
    position = torch.full((classes,), len(special), dtype=torch.int64, device=labels.device)
    position[special.to(labels.device)] = torch.arange(len(special), device=labels.device)
    return torch.where(labels == NO_LABEL, labels, position[labels.clamp(min=0)])


@torch.no_grad()
def with_dustbin(output: nn.Linear, special: torch.Tensor) -> nn.Linear:
    """A generalist's last layer cut down to the special classes and a dustbin, where a specialist starts.

    output: a layer to C classes; special: [S]. The dustbin gets the mean of the other classes' weights and biases, and
    the logarithm of their number on top: the logarithm of their summed odds, if they were equal.
    Raises ValueError for a layer without a bias and for special classes that are none of its own.
    """
    if output.bias is None:
        raise ValueError("output has no bias, which a dustbin needs: make the layer with bias=True, zeros at first.")
    special = as_classes(special, len(output.bias), "special").to(output.bias.device)
    others = torch.ones_like(output.bias, dtype=torch.bool)
    others[special] = False
    kind = {"device": output.weight.device, "dtype": output.weight.dtype}
    layer = nn.utils.skip_init(nn.Linear, output.in_features, len(special) + 1, **kind)
    layer.weight.copy_(torch.cat([output.weight[special], output.weight[others].mean(0, keepdim=True)]))
    dustbin = output.bias[others].mean() + math.log(int(others.sum()))
    layer.bias.copy_(torch.cat([output.bias[special], dustbin.view(1)]))
    return layer


def kept_knowledge(special: torch.Tensor, classes: int, temperature: float, by: str = "class") -> Objective:
    """Section 6.1's loss of a specialist with a full softmax, whose batches carry the generalist's logits.

    special: [S] class indices. by: "class", the labels of all cases and, on every case, the generalist's soft targets
    among the non-special classes (both distributions renormalised over them); or "case", the labels of the special
    cases and the generalist's whole soft targets for the others.
    A case without a label (-100) has the soft part alone.
    Raises ValueError for another `by`, a temperature that is not positive, and special classes that are not there; and
    the loss itself for batches without labels or a teacher, and for another number of classes.
    """
    if by not in ("class", "case"):
        raise ValueError(f'by must be "class" or "case", not {by!r}.')
    temperature = check_temperature(temperature)
    inside = torch.zeros(classes, dtype=torch.bool)
    inside[as_classes(special, classes, "special").cpu()] = True

    def by_class(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels, teacher = _given(logits, batch, len(inside))
        others = (~inside).nonzero().flatten().to(logits.device, non_blocking=True)
        soft = distillation_loss(logits[:, others], teacher[:, others], temperature=temperature, check=batch.check)
        return cross_entropy(logits, labels, check=batch.check) + soft

    def by_case(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels, teacher = _given(logits, batch, len(inside))
        labels = as_labels(labels, len(logits), len(inside), check=batch.check)
        hard = inside.to(logits.device, non_blocking=True)[labels.clamp(min=0)] & (labels >= 0)
        if not batch.check:  # how many are special stays unknown here: in a part, the others' share is 0
            of_hard = F.cross_entropy(logits, labels.masked_fill(~hard, NO_LABEL), reduction="sum")
            z, v = (one.masked_fill(hard[:, None], 0.0) for one in (logits, teacher))
            return of_hard / len(logits) + distillation_loss(z, v, temperature=temperature, check=False)
        loss = logits.new_zeros(())
        if hard.any():
            loss = loss + F.cross_entropy(logits[hard], labels[hard], reduction="sum")
        if not hard.all():
            soft = distillation_loss(logits[~hard], teacher[~hard], temperature=temperature)
            loss = loss + soft * (~hard).sum()
        return loss / len(logits)

    chosen = by_class if by == "class" else by_case
    chosen.needs_labels = True  # so that a training on a GPU looks at all of them
    return chosen


def _given(logits: torch.Tensor, batch: Batch, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch's labels [B] and teacher logits [B, C], once it is known that all have these classes."""
    labels, teacher = labels_of(batch), teacher_logits_of(batch)
    for name, given in (("logits", logits), ("teacher_logits", teacher)):
        if given.shape != (len(logits), classes):
            raise ValueError(
                f"{name} is {list(given.shape)} but must be {[len(logits), classes]}: kept_knowledge was made for "
                f"{classes} classes."
            )
    return labels, teacher


def correct_full(logits: torch.Tensor, special: torch.Tensor, oversampling: float) -> torch.Tensor:
    """As `correct_dustbin`, for logits [B, C]: log(oversampling) is added to all classes that are not special."""
    logits = as_logits(logits, "logits", 2)
    corrected = logits + _log(oversampling)
    special = as_classes(special, logits.shape[1], "special").to(corrected.device)
    corrected[:, special] = logits[:, special]
    return corrected


class HalfSpecial:
    """An epoch of a specialist: all cases of its special classes, and as many drawn at random from the rest.

    labels: of all training cases, [N], those of -100 left out. special: class indices. The rest is drawn anew for each
    epoch, without replacement; where it is the smaller half, all of it is taken.
    Raises ValueError when either half is empty, and for a special class above all labels.
    """

    def __init__(self, labels: torch.Tensor, special: torch.Tensor):
        labels = as_labels(labels, len(labels))
        classes = int(labels.max()) + 1 if len(labels) else 0
        if classes < 2:
            raise ValueError("labels has no case of a class above 0: give cases of special classes and of others.")
        special = as_classes(special, classes, f"special (labels end at {classes - 1})").to(labels.device)
        inside = torch.isin(labels, special)
        self.special, self.rest = inside.nonzero().flatten(), (~inside & (labels >= 0)).nonzero().flatten()
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
