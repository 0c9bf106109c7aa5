"""Correcting the biases of classes that a student saw too rarely, or never (Section 3).

A student whose transfer set lacks a class learns that the class does not occur: its bias is much too low.
The paper adds one number to the logits of such classes. Adding it to them or taking it from all the others
gives the same answers, so one `shift` covers both of the paper's experiments.

Every function raises ValueError for logits that hold NaN or +inf, and for classes that are not there, that come twice,
or that are all there are. A logit of -inf is taken where a case has a finite one on the same side: among `classes`, or
among the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kdrepro.checks import as_classes, as_labels, as_logits, as_tensor, check_numbers


def shifted(logits: torch.Tensor, classes: Sequence[int], shift: float) -> torch.Tensor:
    """Logits [N, C] with `shift` added to the columns of `classes`, which may hold -inf alone.

    The paper's shifts: +3.5 for class 3; -7.6 for 7 and 8, which is +7.6 for the eight others.
    """
    logits, inside = _inside(logits, classes)
    return logits + shift * inside.to(logits.dtype)


def needed(logits: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """For each case [N], the shift from which on the answer is one of `classes`.

    That is its best logit among the other classes, less its best one among `classes`.
    """
    others, own = _sides(*_inside(logits, classes))
    return others.amax(1) - own.amax(1)


def error_curve(
    logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of errors at every shift of `classes`, exactly.

    logits: [N, C]; labels: [N], cases of -100 left out. Returns the shifts [N] at which an answer changes, ascending,
    and the errors [N + 1]: errors[0] below the first of them, errors[i] from shifts[i - 1] on.
    Raises ValueError for labels and classes that are not there.
    """
    logits, labels = _labelled(logits, labels)
    right_before, right_after = right_on_each_side(logits, labels, classes)
    shifts, order = needed(logits, classes).sort()
    change = (right_before.long() - right_after.long())[order]
    errors = torch.cat([(~right_before).sum().view(1), change]).cumsum(0)
    return shifts, errors


def right_on_each_side(
    logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether the best answer among the other classes is right, and whether the best among `classes` is, boolean [N].

    logits: [N, C]; labels: [N]; of a case of -100 neither is. Raises ValueError for labels and classes that are not
    there.
    """
    logits, inside = _inside(logits, classes)
    _sides(logits, inside)
    labels = as_labels(labels, *logits.shape).to(logits.device)
    masked = torch.finfo(logits.dtype).min
    others, own = (logits.masked_fill(left_out, masked).argmax(1) == labels for left_out in (inside, ~inside))
    return others, own


def best_shift(logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[int]) -> float:
    """The shift with the fewest errors on these very cases, as the paper chose its own (on the test set).

    Among equally good ones, the middle of the widest range. Raises ValueError for no cases.
    """
    shifts, errors = error_curve(logits, labels, classes)
    edges = _edges(shifts)
    widths = edges.diff()
    widths[errors != errors[widths > 0].min()] = 0
    widest = int(widths.argmax())
    return float((edges[widest] + edges[widest + 1]) / 2)


def frequency_shift(logits: torch.Tensor, classes: Sequence[int], frequency: float) -> float:
    """The shift at which `classes` are answered for this share of the cases; needs no label.

    logits: [N, C] of unlabelled cases in which the classes do occur. frequency: their known share, in (0, 1).
    Raises ValueError for a frequency outside of it and for no cases.
    """
    if not 0 < frequency < 1:
        raise ValueError(f"frequency must lie in (0, 1), not {frequency}.")
    edges = _edges(needed(logits, classes).sort().values)
    count = round(frequency * len(logits))  # of the cases, those that need the smallest shifts
    return float((edges[count] + edges[count + 1]) / 2)


def compare(
    logits: torch.Tensor,
    labels: torch.Tensor,
    classes: Sequence[int],
    shifts: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What each shift of `classes` does to these cases.

    logits: [N, C]; labels: [N], cases of -100 left out. Returns a row a shift: how (its name), shift,
    errors, and errors_inside, those on cases that are of `classes` themselves.
    """
    logits, labels = _labelled(logits, labels)
    inside = _inside(logits, classes)[1][labels]
    rows = []
    for how, shift in shifts.items():
        wrong = shifted(logits, classes, shift).argmax(1) != labels
        rows.append(
            {"how": how, "shift": shift, "errors": int(wrong.sum()), "errors_inside": int((wrong & inside).sum())}
        )
    return rows


def _edges(shifts: torch.Tensor) -> torch.Tensor:
    """The ends [N + 2] of the ranges between sorted shifts [N]; no answer changes within a range.

    The two open ranges reach one unit past the outermost shift, so that they have a middle too.
    """
    if len(shifts) == 0:
        raise ValueError("logits is empty: there is nothing to fit a shift to.")
    return torch.cat([shifts[:1] - 1, shifts, shifts[-1:] + 1])


def _labelled(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cases that have a label."""
    logits = as_logits(logits, "logits", 2)
    labels = as_labels(labels, len(logits), logits.shape[1]).to(logits.device)
    kept = labels >= 0
    return logits[kept], labels[kept]


def _inside(logits: torch.Tensor, classes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, C], of no cases too, and boolean [C]: which classes are meant."""
    logits = as_tensor(logits, "logits")
    if logits.dim() != 2 or len(logits):
        logits = as_logits(logits, "logits", 2)
        check_numbers(logits, "logits")
    inside = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    inside[as_classes(classes, logits.shape[1], "classes").to(logits.device)] = True
    return logits, inside


def _sides(logits: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the other classes, and of those that are meant: each case has a finite one on both sides."""
    others, own = logits[:, ~inside], logits[:, inside]
    check_numbers(others, "logits of the other classes")
    check_numbers(own, "logits of `classes`")
    return others, own
