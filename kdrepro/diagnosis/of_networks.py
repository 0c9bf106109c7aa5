"""Faults of networks, of stored logits, and of cases that were chosen by: none of them is in the loss."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from kdrepro.checks import are_probabilities, logits_of, wide
from kdrepro.diagnosis.finding import (
    INTO_TEACHER,
    MOVED,
    PROBABILITIES,
    RELU,
    SHUFFLED,
    SMOOTHED,
    TEST_CHOICE,
    TRAIN_MODE,
    Finding,
)
from kdrepro.diagnosis.of_losses import Loss

CLOSE = 1e-3  # logits of one network at one image, however it is computed
ZEROS = 0.05  # share of exact zeros that only a ReLU gives
# Smoothed labels ask for equal logits of all classes but one, and bound how sure a teacher may be. Measured: the spread
# of the other logits over the best one's lead is .09 to .21 with them and .26 to .36 without.
ALIKE, NEVER_SURER = 0.24, 0.998
TRAINED = 0.7  # share of right answers below which a teacher's logits say nothing of the labels that it learned from


def asked(network: nn.Module, inputs: torch.Tensor, mode: str) -> torch.Tensor:
    """A copy's logits [B, C], "eval" or "as it is", so that the network itself keeps its statistics and its mode.

    In the precision that the network gives them.
    """
    network = copy.deepcopy(network)
    if mode == "eval":
        network.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return logits_of(network(inputs), network, len(inputs))


def outputs(v: torch.Tensor, z: torch.Tensor) -> Iterator[Finding]:
    """What the outputs of teacher and student themselves show."""
    for name, logits in (("teacher", v), ("student", z)):
        if are_probabilities(logits):
            yield Finding(
                PROBABILITIES, f"the {name} returns probabilities.", "Leave its last softmax out, or return log p."
            )
        elif bool((logits >= 0).all()) and (logits == 0).float().mean() > ZEROS:
            yield Finding(
                RELU,
                f"none of the {name}'s outputs is negative, {100 * (logits == 0).float().mean():.0f} % are 0.",
                "Leave the activation of its last layer out.",
            )


def mode(teacher: nn.Module, inputs: torch.Tensor, v: torch.Tensor) -> Iterator[Finding]:
    """Whether the teacher answers otherwise than in eval mode. v: its logits [B, C] in eval mode."""
    if not any(module.training for module in teacher.modules()):
        return
    apart = (wide(asked(teacher, inputs, "as it is")) - v).abs().max().item()
    if apart > CLOSE * v.abs().max().item():
        yield Finding(
            TRAIN_MODE,
            f"its logits are up to {apart:.2g} from those in eval mode (dropout, batch statistics).",
            "Call teacher.eval() before you ask it.",
        )


def gradient(
    loss: Loss, teacher: nn.Module, inputs: torch.Tensor, z: torch.Tensor, labels: torch.Tensor, temperature: float
) -> Iterator[Finding]:
    """Whether the loss moves the teacher, were its logits computed with gradients."""
    parameters = [p for p in teacher.parameters() if p.requires_grad]
    if not parameters:
        return
    teacher = copy.deepcopy(teacher).eval()
    parameters = [p for p in teacher.parameters() if p.requires_grad]
    with torch.enable_grad():
        v = logits_of(teacher(inputs), teacher, len(inputs))
        value = loss(z.detach().clone().requires_grad_(), v, labels, temperature)
        if not value.requires_grad:
            return
        found = torch.autograd.grad(value, parameters, allow_unused=True)
    if any(one is not None and bool(one.any()) for one in found):
        yield Finding(
            INTO_TEACHER,
            "the loss has a gradient for the teacher's weights; eval() does not stop it.",
            "Call teacher.requires_grad_(False), or ask it under torch.no_grad(), and say no_grad=True here.",
        )


def smoothing(v: torch.Tensor, labels: torch.Tensor) -> Iterator[Finding]:
    """Whether a teacher's other logits are nearly alike, and it is never quite sure, as smoothed labels ask."""
    right = v.argmax(1) == labels
    if v.shape[1] < 3 or float(right.float().mean()) < TRAINED:
        return
    ordered = v[right].sort(1).values
    others, best = ordered[:, :-1], ordered[:, -1]
    alike = float((others.std(1, correction=0) / (best - others.mean(1)).clamp(min=1e-6)).mean())
    surest = float(v[right].softmax(1).amax(1).quantile(0.99))
    if alike < ALIKE and surest < NEVER_SURER:
        yield Finding(
            SMOOTHED,
            f"its other logits spread by {alike:.2g} of the best one's lead, and it is never surer than {surest:.3g}.",
            "Train the teacher on the labels as they are.",
        )


def stored(teacher_logits: torch.Tensor, v: torch.Tensor) -> Iterator[Finding]:
    """Whether stored logits [B, C] are those of the images beside them. v: the teacher's own of these."""
    if teacher_logits.shape != v.shape:
        raise ValueError(
            f"The batch's stored logits are {list(teacher_logits.shape)} but the teacher gives {list(v.shape)}."
        )
    size = v.abs().max().item()
    apart = (teacher_logits - v).abs().amax(1)
    if float(apart.max()) <= CLOSE * size:
        return
    nearest = torch.cdist(teacher_logits, v, p=torch.inf)
    if bool((nearest.amin(1) <= CLOSE * size).all()):
        moved = int((apart > CLOSE * size).sum())
        yield Finding(
            SHUFFLED,
            f"{moved} of {len(v)} stored logits are those of another image of the batch.",
            "Store them without shuffling, or by each case's index.",
        )
    else:
        yield Finding(
            MOVED,
            f"stored logits are up to {float(apart.max()):.2g} from the teacher's for these images.",
            "Ask the teacher for the very image that the student gets, or do not move the images.",
        )


def choice(chosen_on: torch.Tensor, judged_on: torch.Tensor) -> Iterator[Finding]:
    """Whether cases by which something was chosen (an epoch, a shift, T) are among those that judge it."""
    judges = set(map(_bytes, judged_on))
    shared = sum(_bytes(case) in judges for case in chosen_on)
    if shared:
        yield Finding(
            TEST_CHOICE,
            f"{shared} of the {len(chosen_on)} cases that were chosen by are among those that judge.",
            "Choose epochs, shifts and temperatures on cases held out of the training set.",
        )


def _bytes(case: torch.Tensor) -> bytes:
    """What two cases have in common that hold the same numbers, whatever kind of numbers that is."""
    return case.detach().cpu().double().numpy().tobytes()
