"""Soft targets and the losses of Section 2 (Eq. 1-4); below them, losses that others proposed since.

Every function takes logits, never probabilities: the soft targets are formed in log space, so
nothing overflows or turns NaN at a logit of 1e4 or a temperature of 0.01. A teacher that only has
probabilities p (an average of several networks, say) enters as the logits ``log p``, or
``T * log p`` if p was already softened at T.

Half-precision logits (a network under autocast) are widened to float32 first: at T = 20 the
softened logits differ by less than a bfloat16 can tell.

Tensors and NumPy arrays are taken, and labels of any integers. A case whose label is -100 has none: the hard losses
are means over the cases that have one (0 where none has), the soft ones over all cases.

check, of each loss: whether values are looked at, for NaN and for labels that are no class. That makes a GPU wait for
all that it was given to do, and the program for the GPU. Without it NaN makes the loss NaN, and of labels that are no
class PyTorch raises an error of its own.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from kdrepro.checks import (
    NO_LABEL,
    as_labels,
    as_logits,
    as_tensor,
    check_not_negative,
    check_numbers,
    check_soft_weight,
    check_temperature,
    wide,
)

# In nats, for float32: above the first, sum p (log p - log q) itself is right to about 1e-5; above the second, so is
# sum p (e^-x - 1 + x).
LARGE_KL, SMALL_KL = 0.05, 1e-4


def soften(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Eq. 1: the probabilities ``exp(z_i / T) / sum_j exp(z_j / T)``.

    logits: [..., C]. temperature: T > 0, without unit; 1 is the ordinary softmax, higher is softer.
    Returns probabilities of the same shape.
    Raises ValueError that names the argument if T is not a positive number or a logit is NaN.
    """
    temperature, logits = check_temperature(temperature), as_logits(logits, "logits")
    check_numbers(logits, "logits")
    return torch.softmax(_scaled(wide(logits), temperature), dim=-1)


def with_label(teacher_logits: torch.Tensor, labels: torch.Tensor, temperature: float, weight: float) -> torch.Tensor:
    """Section 2, the other way to use labels: soft targets that the correct label modifies.

    The targets are ``(1 - weight) * soften(teacher_logits, T) + weight * y`` with y the label as a one-hot vector; a
    case whose label is -100 keeps its own. The paper found a weighted average of two losses better
    (`distillation_loss`).

    teacher_logits: [B, C]. labels: [B] class indices. weight: in [0, 1]. Returns logits [B, C] that give these targets
    at T, infinite where a target is 0.
    Raises ValueError, naming the argument, for what does not fit.
    """
    temperature, weight = check_temperature(temperature), check_soft_weight(weight, "weight")
    targets = soften(as_logits(teacher_logits, "teacher_logits", dims=2), temperature)
    labels = as_labels(labels, *targets.shape).to(targets.device)
    labelled = labels >= 0
    modified = (1 - weight) * targets
    modified[labelled, labels[labelled]] += weight
    return temperature * torch.where(labelled[:, None], modified, targets).log()


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperature: float,
    soft_weight: float = 1.0,
    check: bool = True,
) -> torch.Tensor:
    """Section 2: soft targets at T, and hard labels at T = 1, as one weighted loss.

        soft_weight * T^2 * mean over cases of KL(teacher_T || student_T)
        + (1 - soft_weight) * cross-entropy at T = 1

    The KL divergence differs from the paper's cross-entropy with the soft targets by the teacher's
    entropy, which does not depend on the student, so the gradient is the same (Eq. 2 times T^2).
    T^2 undoes the 1/T^2 by which that gradient shrinks, so that the balance of the two terms
    stays where soft_weight put it when T changes.

    student_logits, teacher_logits: [B, C]; no gradient flows into the teacher.
    labels: [B] class indices, -100 where a case has none; may be None only when soft_weight is 1.
    check: whether values are looked at, which makes a GPU wait.
    Returns a scalar in nats.
    Raises ValueError, naming the argument, for a shape mismatch, a NaN, a temperature that is not
    positive, a soft_weight outside [0, 1], or, where soft_weight is below 1, labels that are missing or out of range
    (at 1 they are not looked at).
    """
    temperature, soft_weight = check_temperature(temperature), check_soft_weight(soft_weight)
    student, teacher = _pair(student_logits, teacher_logits, check=check)
    _check_labels_given(soft_weight, labels)
    terms = []
    if soft_weight > 0:
        terms.append(soft_weight * temperature**2 * _divergence(student, teacher, temperature))
    if soft_weight < 1:
        terms.append((1 - soft_weight) * cross_entropy(student, labels, check=check))
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def distillation_losses(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperatures: Sequence[float],
    soft_weights: Sequence[float],
    check: bool = True,
) -> torch.Tensor:
    """`distillation_loss` of M networks at once, each with its own temperature and weight.

    student_logits, teacher_logits: [M, B, C]. labels: [M, B], or None when every weight is 1.
    temperatures, soft_weights: M numbers. check: whether values are looked at, which makes a GPU wait.
    Returns [M], in nats.
    Raises ValueError as `distillation_loss` does.
    """
    return DistillationLosses(temperatures, soft_weights)(student_logits, teacher_logits, labels, check=check)


class DistillationLosses:
    """`distillation_losses` of temperatures and weights that stay: a device gets them once, not in each step.

    temperatures, soft_weights: M numbers. Raises ValueError for those that cannot be.
    """

    def __init__(self, temperatures: Sequence[float], soft_weights: Sequence[float]):
        self.temperatures = _one_a_network(temperatures, "temperatures", check_temperature)
        self.soft_weights = _one_a_network(soft_weights, "soft_weights", check_soft_weight)
        self._tensors: dict[tuple[torch.dtype, torch.device], _Mixture] = {}

    def __call__(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        check: bool = True,
    ) -> torch.Tensor:
        """The losses [M] of logits [M, B, C], as of `distillation_losses`."""
        student, teacher = _pair(student_logits, teacher_logits, dims=3, check=check)
        for name, given in (("temperatures", self.temperatures), ("soft_weights", self.soft_weights)):
            if len(given) != len(student):
                raise ValueError(f"{name} has {len(given)} numbers for {len(student)} networks: give one a network.")
        _check_labels_given(min(self.soft_weights), labels)
        mixture = self._mixture(student)
        soft = None
        if mixture.soft is not None:
            soft = mixture.soft * _divergence(student, teacher, mixture.temperature)
        if mixture.hard is None:
            return soft
        labels = _labels_of_many(labels, student)
        if mixture.labelled is None:
            hard = mixture.hard * cross_entropies(student, labels, check=check)
            return hard if soft is None else soft + hard
        which = mixture.labelled
        hard = cross_entropies(student[which], labels[which.to(labels.device)], check=check)
        return soft.index_add(0, which, mixture.hard * hard)

    def _mixture(self, student: torch.Tensor) -> "_Mixture":
        kind = student.dtype, student.device
        if kind not in self._tensors:
            self._tensors[kind] = _Mixture.of(self.temperatures, self.soft_weights, *kind)
        return self._tensors[kind]


class _Mixture(NamedTuple):
    """What M losses are mixed with, on their device.

    temperature: [M, 1, 1]. soft: weight * T^2 [M], None where no network has soft targets. hard: 1 - weight, of those
    that have a hard loss; None where none has. labelled: their positions, where they are not all: the others have soft
    targets then.
    """

    temperature: torch.Tensor
    soft: torch.Tensor | None
    hard: torch.Tensor | None
    labelled: torch.Tensor | None

    @classmethod
    def of(
        cls, temperatures: list[float], soft_weights: list[float], dtype: torch.dtype, device: torch.device
    ) -> "_Mixture":
        t = torch.tensor(temperatures, dtype=dtype, device=device)
        weight = torch.tensor(soft_weights, dtype=dtype, device=device)
        labelled = [m for m, soft_weight in enumerate(soft_weights) if soft_weight < 1]
        which = torch.tensor(labelled, dtype=torch.int64, device=device)
        return cls(
            t.view(-1, 1, 1),
            weight * t**2 if max(soft_weights) > 0 else None,
            1 - weight[which] if labelled else None,
            which if 0 < len(labelled) < len(soft_weights) else None,
        )


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, check: bool = True) -> torch.Tensor:
    """Mean cross-entropy with the labels at T = 1, in nats, over the cases that have one.

    logits: [B, C]. labels: [B] class indices, -100 where a case has none. check: whether labels are looked at, which
    makes a GPU wait. Returns a scalar, 0 where no case has a label.
    Raises ValueError for shapes and labels that do not fit.
    """
    logits = wide(as_logits(logits, "logits", dims=2))
    if check and isinstance(labels, torch.Tensor) and labels.dtype == torch.int64 and labels.device.type == "cpu":
        # PyTorch looks at each label itself; a second look would take a small network two per cent of a step.
        with contextlib.suppress(IndexError, RuntimeError, ValueError):
            loss = F.cross_entropy(logits, labels)
            if labels.dim() == 1 and not math.isnan(loss.item()):  # as it is where no case has a label
                return loss
    labels = as_labels(labels, len(logits), logits.shape[1], check=check).to(logits.device)
    labelled = labels >= 0
    if check and bool(labelled.all()):
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, reduction="sum", ignore_index=NO_LABEL) / labelled.sum().clamp(min=1)


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor, *, check: bool = True) -> torch.Tensor:
    """`cross_entropy` of M networks at once: logits [M, B, C] and class indices [M, B] to [M].

    For many cases of few classes, as many networks together have them: there a processor takes a quarter of the time of
    `F.cross_entropy`. check: whether labels are looked at, which makes a GPU wait.
    Raises ValueError for shapes and labels that do not fit.
    """
    logits = wide(as_logits(logits, "logits", dims=3))
    flat = _labels_of_many(labels, logits).flatten()
    flat = as_labels(flat, len(flat), logits.shape[2], check=check)
    labels = flat.view(logits.shape[:2]).to(logits.device)
    if not check:  # few operations, each of which takes a GPU as long as a large one
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=NO_LABEL)
        return each.view(labels.shape).sum(1) / (labels >= 0).sum(1).clamp(min=1)
    scaled = logits - logits.detach().amax(-1, keepdim=True)
    chosen = scaled.gather(2, labels.clamp(min=0)[:, :, None]).squeeze(2)
    losses = scaled.exp().sum(-1).log() - chosen
    labelled = labels >= 0
    if bool(labelled.all()):
        return losses.mean(1)
    # A loss that does not count may be infinite (a logit of -inf), and 0 * inf is NaN.
    return torch.where(labelled, losses, 0.0).sum(1) / labelled.sum(1).clamp(min=1)


def logit_matching_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, check: bool = True
) -> torch.Tensor:
    """Section 2.1: Caruana's logit matching, the limit of distillation at high T.

    ``mean over cases of 1/2 * sum_i (z_i - v_i)^2, divided by the number of classes N``, with both
    logit vectors made zero-mean per case, as Eq. 4 assumes. Then its gradient is (z - v) / N, which
    is what distillation_loss (with its T^2) tends to.

    student_logits, teacher_logits: [B, C]; no gradient flows into the teacher. check: whether values are looked at,
    which makes a GPU wait. Returns a scalar in squared logits, which have no unit, as what it is the limit of.
    Raises ValueError, naming the argument, for a shape mismatch, a NaN or an infinite logit.
    """
    z, v = _pair(student_logits, teacher_logits, infinite=False, check=check)
    difference = (z - z.mean(-1, keepdim=True)) - (v - v.mean(-1, keepdim=True))
    return difference.square().sum(-1).mean() / (2 * z.shape[-1])


def soft_target_gradient(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Eq. 2: ``(q - p) / T`` per case, the gradient of the paper's C before any T^2.

    student_logits, teacher_logits: [B, C]. Returns [B, C].
    Raises ValueError as `distillation_loss` does.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    return (soften(student, temperature) - soften(teacher, temperature)) / check_temperature(temperature)


# --- after 2015: each in the place of the soft term, with the same arguments -----------------------------------------


def decoupled_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float,
    soft_weight: float = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    check: bool = True,
) -> torch.Tensor:
    """DKD, decoupled knowledge distillation (Zhao et al., CVPR 2022, and the code of megvii-research/mdistiller).

        soft_weight * T^2 * mean over cases of [alpha * KL(b_teacher || b_student) + beta * KL(r_teacher || r_student)]
        + (1 - soft_weight) * cross-entropy at T = 1

    b: the softened probabilities of the label and of all else together; r: those of the other classes alone, so that
    they sum to one. With alpha 1, and 1 - b_teacher of the label as each case's beta, this is `distillation_loss`.
    The source has alpha 1, beta 8, T 4 and a cross-entropy of weight 1 beside it: soft_weight 1/2, but for the scale.
    Its warm-up, min(epoch / 20, 1) on the first line, is left to the training.

    student_logits, teacher_logits: [B, C], C at least 2; no gradient flows into the teacher. labels: [B] class indices;
    a case of -100 has no target class and is left out of both terms. check: whether values are looked at, which makes a
    GPU wait.
    Returns a scalar in nats, 0 where no case has a label.
    Raises ValueError as `distillation_loss` does, and for an alpha or beta that is negative, and, unless check is
    False, for a case whose label alone has a finite logit: it has no r.
    """
    temperature, soft_weight = check_temperature(temperature), check_soft_weight(soft_weight)
    alpha, beta = check_not_negative(alpha, "alpha"), check_not_negative(beta, "beta")
    student, teacher = _pair(student_logits, teacher_logits, check=check)
    _check_at_least_two(student, 1)
    if labels is None:
        raise ValueError("labels is missing: this loss splits the soft targets at each case's label.")
    labels = as_labels(labels, len(student), student.shape[1], check=check).to(student.device)
    kept = labels != NO_LABEL
    if not check:  # how many are kept stays unknown here: cases without a label agree with their teacher
        left_out = ~kept
        z, v = (logits.masked_fill(left_out[:, None], 0.0) for logits in (student, teacher))
        soft = _decoupled_divergence(z, v, labels.masked_fill(left_out, 0), temperature, alpha, beta, check=False)
        soft = soft * len(kept) / kept.sum().clamp(min=1)
        return soft_weight * temperature**2 * soft + (1 - soft_weight) * cross_entropy(student, labels, check=False)
    if not bool(kept.any()):
        return student.sum() * 0
    z, v, y = student[kept], teacher[kept], labels[kept]
    soft = _decoupled_divergence(z, v, y, temperature, alpha, beta, check=True)
    return soft_weight * temperature**2 * soft + (1 - soft_weight) * cross_entropy(z, y)


def _decoupled_divergence(
    z: torch.Tensor, v: torch.Tensor, labels: torch.Tensor, temperature: float, alpha: float, beta: float, check: bool
) -> torch.Tensor:
    """Mean over cases, all of which have a label, of DKD's two divergences, without T^2."""
    (z_rest, z_pair), (v_rest, v_pair) = (_decoupled(logits, labels, temperature) for logits in (z, v))
    if check:
        check_numbers(z_rest, "student_logits without each case's label")
        check_numbers(v_rest, "teacher_logits without each case's label")
    return alpha * _divergence(z_pair, v_pair, 1.0) + beta * _divergence(z_rest, v_rest, temperature)


def _decoupled(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the classes that are not the label [B, C - 1], and of the label and all else together at T [B, 2]."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    rest = logits.gather(1, others + (others >= labels[:, None]))
    label = logits.gather(1, labels[:, None]) / temperature
    return rest, torch.cat([label, (rest / temperature).logsumexp(1, keepdim=True)], 1)


def standardised_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperature: float,
    soft_weight: float = 1.0,
    check: bool = True,
) -> torch.Tensor:
    """Logit standardisation (Sun et al., CVPR 2024, and the code of sunshangquan/logit-standardization-KD).

    `distillation_loss`, whose soft term gets each case's logits less their mean and over their standard deviation
    (n - 1 in the denominator, as PyTorch has it, and 1e-7 added), teacher and student alike: so the student need not
    match how large its teacher's logits are. The cross-entropy is that of the logits themselves.
    The source has T 2, weight 9 on the soft term and 0.1 on the cross-entropy: soft_weight 0.989, but for the scale.

    Arguments, result and errors are those of `distillation_loss`; logits of -inf, which have no deviation, are refused,
    and so is a single class. Equal logits in a case become zeros; a student's then get a gradient of the order of 1e6,
    for it is divided by that 1e-7.
    """
    temperature, soft_weight = check_temperature(temperature), check_soft_weight(soft_weight)
    student, teacher = _pair(student_logits, teacher_logits, infinite=False, check=check)
    _check_at_least_two(student, 1)
    _check_labels_given(soft_weight, labels)
    soft = _divergence(_standardised(student), _standardised(teacher), temperature)
    loss = soft_weight * temperature**2 * soft
    return loss if soft_weight == 1 else loss + (1 - soft_weight) * cross_entropy(student, labels, check=check)


def _standardised(logits: torch.Tensor) -> torch.Tensor:
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)


def correlation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperature: float = 1.0,
    soft_weight: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    check: bool = True,
) -> torch.Tensor:
    """DIST (Huang et al., NeurIPS 2022, and the code of hunto/DIST_KD; its T as torchdistill has it).

        soft_weight * T^2 * [beta * (1 - mean over cases of r(case)) + gamma * (1 - mean over classes of r(class))]
        + (1 - soft_weight) * cross-entropy at T = 1

    r: Pearson's correlation of student's and teacher's softened probabilities, of one case over the classes, or of one
    class over the batch. It asks for the teacher's order and proportions, not for its probabilities.

    student_logits, teacher_logits: [B, C], B and C at least 2, for one number alone correlates with nothing.
    beta, gamma: the weights of cases and of classes, at least 0. Other arguments, result and errors are those of
    `distillation_loss`.
    """
    temperature, soft_weight = check_temperature(temperature), check_soft_weight(soft_weight)
    beta, gamma = check_not_negative(beta, "beta"), check_not_negative(gamma, "gamma")
    student, teacher = _pair(student_logits, teacher_logits, check=check)
    _check_at_least_two(student, 0, 1)
    _check_labels_given(soft_weight, labels)
    q, p = (torch.softmax(_scaled(logits, temperature), -1) for logits in (student, teacher))
    soft = beta * (1 - _pearson(q, p).mean()) + gamma * (1 - _pearson(q.T, p.T).mean())
    loss = soft_weight * temperature**2 * soft
    return loss if soft_weight == 1 else loss + (1 - soft_weight) * cross_entropy(student, labels, check=check)


def _pearson(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The correlation of each row [n, m] to [n]; 0 where one of the two does not vary."""
    return F.cosine_similarity(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True), eps=1e-8)


# --- what they are made of --------------------------------------------------------------------------------------------


def _divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Mean over cases of KL(p || q) at T, in the way that suits the device; shapes as in `_SoftTargets`."""
    with_care = student.device.type in ("cpu", "mps")  # Apple's GPUs have no float64
    return (_SoftTargets if with_care else _SoftTargetsInDouble).apply(student, teacher, temperature)


class _SoftTargets(torch.autograd.Function):
    """Mean over cases of KL(p || q) at temperature T, with Eq. 2 itself as its gradient.

    Of logits [B, C] a scalar; of [M, B, C], with T a number or [M, 1, 1], each network's own mean [M].

    Left to autograd, the gradient of a careful KL would pass through every branch of its case
    distinctions; Eq. 2, (q - p) / T, is exact, finite for any logits, and one subtraction.
    """

    @staticmethod
    def forward(ctx, student, teacher, temperature):
        z, v = _scaled(student, temperature), _scaled(teacher, temperature)
        (q, of_student), (p, of_teacher) = _softmax(z), _softmax(v)
        ctx.save_for_backward(student, q, p)
        ctx.temperature = temperature
        # The gap log p - log q, from the logits themselves: log p and log q would each carry the rounding of log C.
        return _kl(p, q, (v - z) - (of_teacher - of_student))

    @staticmethod
    def backward(ctx, grad):
        student, q, p = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more, so not from what forward has computed
            q, _ = _softmax(_scaled(student, ctx.temperature))
        return grad[..., None, None] * (q - p) / (ctx.temperature * student.shape[-2]), None, None


class _SoftTargetsInDouble(torch.autograd.Function):
    """As `_SoftTargets`, in float64, where no divergence is so small that its terms' rounding would matter.

    For GPUs: a quarter of the operations that `_kl` takes in all three ways, and no value decides what is computed, for
    which a GPU would be waited for.
    """

    @staticmethod
    def forward(ctx, student, teacher, temperature):
        log_q, log_p = both = torch.log_softmax(torch.stack([student, teacher]).double().div_(temperature), -1)
        q, p = both.exp()
        ctx.save_for_backward(student, teacher, (q - p).to(student.dtype))
        ctx.temperature = temperature
        terms = (p * (log_p - log_q)).masked_fill_(p == 0, 0.0)  # 0 * inf is NaN
        return terms.sum(-1).mean(-1).to(student.dtype)

    @staticmethod
    def backward(ctx, grad):
        student, teacher, gap = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more, so not from what forward has computed
            q, p = (torch.softmax(logits.double() / ctx.temperature, -1) for logits in (student, teacher))
            gap = (q - p).to(student.dtype)
        return grad[..., None, None] * gap / (ctx.temperature * student.shape[-2]), None, None


def _kl(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean over cases of KL(p || q) in nats, of [..., B, C] with the gap x = log p - log q, to nearly full precision.

    At high T, p and q differ by little, the terms of sum p (log p - log q) nearly cancel, and T^2
    then multiplies their rounding: 2e-3 at T = 100 in float32. Written as
    sum [p (log p - log q) + q - p], which is the same since p and q both sum to one, every term is
    non-negative and of second order in the gap: p (e^-x - 1 + x). The smaller the
    divergence, the more care it takes, and time: three ways, each where it is exact enough.
    """
    plain = (p * x).sum(-1).mean(-1)
    large = plain > LARGE_KL  # false for the NaN of 0 * inf too
    if large.all():
        return plain
    gaps = (p * (torch.expm1(-x) + x)).sum(-1).mean(-1)
    middling = (gaps > SMALL_KL) & (gaps < torch.inf)
    if not (large | middling).all():
        gaps = torch.where(middling, gaps, _small_kl(p, q, x))
    return torch.where(large, plain, gaps)


def _small_kl(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """As `_kl`, for divergences of any size, at the price of time."""
    # A class with p = 0 (its logit may be -inf) contributes q alone: 0 * inf would be NaN.
    x = torch.where(p == 0, torch.zeros_like(x), x)
    series = x.square() * (1 / 2 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120 - x / 720))))
    middle = torch.expm1(-x.clamp(min=-1)) + x
    terms = torch.where(x.abs() < 0.05, p * series, p * middle)
    # Where q is far above p, e^-x may overflow, and p e^-x is just q.
    terms = torch.where((x < -1) | (p == 0), q - p + p * x, terms)
    return terms.sum(-1).mean(-1)


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits over T, the largest of each case at 0, subtracted *before* the division: at T = 0.01 a
    logit of 1e4 becomes 1e6, where float32 no longer holds the decimals that tell two classes apart."""
    return (logits - logits.detach().amax(-1, keepdim=True)) / temperature


def _softmax(scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of `_scaled` logits [..., C], and the log of its denominator [..., 1].

    With few classes, several times as fast as `torch.softmax` and `torch.logsumexp`, which look for the largest first.
    """
    e = scaled.exp()
    total = e.sum(-1, keepdim=True)
    return e / total, total.log()


def _pair(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    dims: int = 2,
    infinite: bool = True,
    check: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both, checked, on the student's device and at least in float32; no gradient flows into the teacher's."""
    student = as_logits(student_logits, "student_logits", dims)
    if teacher_logits is None:
        raise ValueError("teacher_logits is missing: this loss needs a teacher.")
    teacher = as_logits(teacher_logits, "teacher_logits").detach()
    if student.shape != teacher.shape:
        shape = {2: "[cases, classes]", 3: "[networks, cases, classes]"}[dims]
        raise ValueError(
            f"teacher_logits is {list(teacher.shape)} but student_logits is {list(student.shape)}: both must be "
            f"{shape} of the same cases."
        )
    if check:
        check_numbers(student, "student_logits", infinite)
        check_numbers(teacher, "teacher_logits", infinite)
    student = wide(student)
    return student, wide(teacher).to(student.device, student.dtype)


def _one_a_network(given: Any, name: str, check: Callable[[Any], float]) -> list[float]:
    try:
        numbers = list(given)
    except TypeError:
        raise ValueError(f"{name} must be a list of numbers, one a network, not {given!r}.") from None
    return [check(number) for number in numbers]


def _labels_of_many(labels: Any, logits: torch.Tensor) -> torch.Tensor:
    """Labels [M, B] of logits [M, B, C]: their values are not looked at."""
    labels = as_tensor(labels, "labels")
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels is {list(labels.shape)} but the logits are {list(logits.shape)}: it must be [networks, cases], "
            f"{list(logits.shape[:2])}."
        )
    return labels


def _check_at_least_two(logits: torch.Tensor, *dims: int) -> None:
    """Raises ValueError for logits [B, C] of one case (0) or one class (1) where a loss compares several."""
    for dim in dims:
        if logits.shape[dim] < 2:
            raise ValueError(
                f"student_logits is {list(logits.shape)}: this loss needs at least 2 {('cases', 'classes')[dim]}."
            )


def _check_labels_given(soft_weight: float, labels: torch.Tensor | None) -> None:
    if labels is None and soft_weight != 1:
        raise ValueError(f"labels must be given when soft_weight is {soft_weight}: only soft_weight=1 needs none.")
