"""The examination as a whole."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kdrepro.checks import (
    as_labels,
    as_logits,
    as_tensor,
    check_device,
    check_network,
    check_numbers,
    check_soft_weight,
    check_temperature,
    wide,
)
from kdrepro.diagnosis import of_losses, of_networks
from kdrepro.diagnosis.finding import Finding
from kdrepro.diagnosis.of_losses import Loss


def doctor(
    teacher: nn.Module,
    student: nn.Module,
    batch: Sequence[Any],
    *,
    loss: Loss,
    temperature: float = 4.0,
    soft_weight: float | None = None,
    no_grad: bool = False,
    chosen_on: Any = None,
    judged_on: Any = None,
) -> list[Finding]:
    """Look for the usual faults of distillation code; returns what was found, nothing where nothing is wrong.

    Numbers alone are looked at, not code: the gradient that the loss sends to random logits at several temperatures and
    numbers of classes, what teacher and student answer to the batch, in which mode, and where gradients arrive. Neither
    network is changed.

    teacher, student: networks that take the batch's inputs to logits [B, C], or to something with `logits` in it. The
        teacher in the mode that it is asked in.
    batch: inputs as the networks take them, labels [B], and, where they were computed before, the teacher's stored
        logits [B, C]. A few dozen cases.
    loss: (student_logits [B, C], teacher_logits [B, C], labels [B], temperature) to a scalar.
    temperature: that you train at. soft_weight: the share that you mean the soft targets to have of both weights; only
        then can the doctor tell that it is the other way round.
    no_grad: whether you ask the teacher under `torch.no_grad()` (or `inference_mode`), so that it needs no freezing. A
        batch with stored logits asks no teacher.
    chosen_on, judged_on: the cases that an epoch, a shift or a temperature was chosen by, and those that the result is
        reported on, [N, ...] each.
    Each finding has a fault's name, what was measured, and what to do; `print(*findings, sep="\\n")` shows them.
    Raises ValueError for networks, a batch or a loss that cannot be examined.
    """
    temperature = check_temperature(temperature)
    soft_weight = None if soft_weight is None else check_soft_weight(soft_weight)
    inputs, labels, stored = _parts(batch)
    for name, network in (("teacher", teacher), ("student", student)):
        check_device(check_network(network, name), inputs.device, name)
    given = [of_networks.asked(network, inputs, "eval") for network in (teacher, student)]
    v, z = (_numbers(one, f"the {name}'s output", 2) for one, name in zip(given, ("teacher", "student"), strict=True))
    if v.shape != z.shape:
        raise ValueError(
            f"teacher gives {list(v.shape)} and student {list(z.shape)}: both must be of the same classes."
        )
    labels = as_labels(labels, len(inputs), v.shape[1]).to(v.device)
    stored = None if stored is None else _numbers(stored, "stored teacher logits").to(v)
    of_outputs = list(of_networks.outputs(v, z))
    reachable = stored is None and not no_grad
    found = [
        *of_outputs,
        *of_networks.mode(teacher, inputs, v),
        *(() if of_outputs else of_networks.smoothing(v, labels)),
        *(of_networks.stored(stored, v) if stored is not None else ()),
        *of_losses.examine(loss, v.shape[1], temperature, soft_weight, v.device),
        *of_losses.rounding(loss, v.shape[1], given[1].dtype, v.device),
        *(of_networks.gradient(loss, teacher, inputs, z, labels, temperature) if reachable else ()),
    ]
    if chosen_on is not None and judged_on is not None:
        found += of_networks.choice(as_tensor(chosen_on, "chosen_on"), as_tensor(judged_on, "judged_on"))
    return found


def _numbers(value: Any, name: str, dims: int | None = None) -> torch.Tensor:
    """Logits that can be compared: at least float32, no NaN among them. Raises ValueError."""
    logits = as_logits(value, name, dims).detach()
    check_numbers(logits, name)
    return wide(logits)


def _parts(batch: Sequence[Any]) -> tuple[torch.Tensor, Any, Any]:
    """Inputs, labels, and stored logits or None."""
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
        raise ValueError("batch must be (inputs, labels), or (inputs, labels, stored teacher logits).")
    inputs = as_tensor(batch[0], "inputs")
    if len(inputs) == 0:
        raise ValueError("inputs is empty: give a few dozen cases.")
    return inputs, batch[1], None if len(batch) == 2 else batch[2]
