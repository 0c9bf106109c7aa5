"""Faults of a loss, found in the gradient that it sends to the student.

At random logits the gradient of a distillation loss is a sum of known directions: Eq. 2's T (q - p) for the soft
targets, q - y for the labels, others for known faults. Least squares tell how much of each there is, and how much is
none of them. A loss of another kind (DKD, DIST, matched logits) fits none of them, and none of this is said of it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from kdrepro.checks import with_float64
from kdrepro.diagnosis.finding import (
    ALPHA,
    CLASS_MEAN,
    HALF,
    NO_T2,
    NO_TEACHER,
    NOT_FINITE,
    ONE_LOG,
    RELU,
    SIGN,
    SWAPPED,
    Finding,
)

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
CASES, SCALE = 64, 3.0  # of the random logits
LOW, HIGH = 2.0, 8.0  # two temperatures between which the soft targets' weight must stay
FITS = 0.01  # a gradient fits where no more of it than this is left over
EXACT = 1e-3  # what float32 leaves over is less
ROUNDED = 3.0  # times the rounding of a gradient itself; measured: 1 of a loss in float32, 4 to 12 of others at T = 20
SHIFT = 40.0  # added to all logits, which no softmax notices


class _NotFiniteError(Exception):
    """A gradient that nothing can be fitted to. Its text: where it was met."""


@dataclass(frozen=True)
class Fit:
    """The share of a gradient in each way that soft targets are known to be used: weight, and what is left over."""

    soft: float  # weight of the direction
    hard: float  # of the labels'
    rest: float  # of the gradient without its hard part, relative


def examine(
    loss: Loss, classes: int, temperature: float, soft_weight: float | None, device: torch.device
) -> Iterator[Finding]:
    """The faults of a loss. soft_weight: what its user means it to be, None where that was not said."""
    try:
        yield from _of_fits(Tried(loss, device), classes, temperature, soft_weight)
    except _NotFiniteError as error:
        yield Finding(
            NOT_FINITE,
            f"at ordinary logits ({error}) the loss's gradient holds NaN or infinities.",
            "Look for the log of 0, a division by 0, or a weight that is no number.",
        )


def _of_fits(tried: "Tried", classes: int, temperature: float, soft_weight: float | None) -> Iterator[Finding]:
    """What fits tell. Raises _NotFiniteError where there are none."""
    at_low = tried.fits(classes, LOW)
    if at_low is None:
        yield from _without_gradient(tried, classes)
        return
    yield from _not_finite(tried, classes, temperature)
    known = min(at_low, key=lambda name: at_low[name].rest)
    if at_low[known].rest > FITS:
        yield from _clipped(tried, classes) if not tried.ignores_the_teacher(classes) else _ignored()
        return
    if known != "soft":
        yield _of_kind(known)
        return
    yield from _scales(tried, classes, at_low["soft"], soft_weight)


def rounding(loss: Loss, classes: int, dtype: torch.dtype, device: torch.device) -> Iterator[Finding]:
    """Whether a loss computes in half precision where networks give it such logits. dtype: of the student's."""
    if dtype not in (torch.float16, torch.bfloat16):
        return
    tried = Tried(loss, device)
    z, v, labels = tried.cases(classes)
    z, v = z.to(dtype), v.to(dtype)
    exact, found = (tried.gradient(*logits, labels, 20.0) for logits in ((z.float(), v.float()), (z, v)))
    if exact is None or found is None:
        return
    floor = (exact.to(dtype).float() - exact).norm()  # such logits have such a gradient, whatever computes it
    lost = (found.float() - exact).norm().nan_to_num(torch.inf)  # beyond what half precision holds, all of it
    if lost > ROUNDED * floor:
        name = str(dtype).removeprefix("torch.")
        yield Finding(
            HALF,
            f"the student's logits are {name}, and at T = 20 the loss loses {100 * lost / exact.norm():.1g} % of their "
            "gradient to rounding.",
            "Widen the logits before the softmax: z.float(), v.float().",
        )


class Tried:
    """A loss at random logits."""

    def __init__(self, loss: Loss, device: torch.device):
        self.loss, self.device = loss, device

    def cases(self, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Student's and teacher's logits, float32 [64, C], and labels [64]."""
        generator = torch.Generator().manual_seed(seed)
        z, v = SCALE * torch.randn(2, CASES, classes, generator=generator)
        labels = torch.randint(classes, (CASES,), generator=generator)
        return tuple(t.to(self.device) for t in (z, v, labels))

    def gradient(self, z: torch.Tensor, v: torch.Tensor, labels: torch.Tensor, t: float) -> torch.Tensor | None:
        """Of the loss for the student's logits; None where none reaches them."""
        z = z.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self.loss(z, v.detach().clone(), labels, t)
        if not isinstance(value, torch.Tensor) or value.dim() > 0:
            what = f"{list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"loss returned {what} where a scalar tensor is expected: take the mean over cases.")
        if not value.requires_grad:
            return None
        (found,) = torch.autograd.grad(value, z, allow_unused=True)
        return found

    def fits(self, classes: int, t: float, shift: float = 0.0) -> Mapping[str, Fit] | None:
        """By name of the direction, how well the gradient is made of it and of the labels'; None without gradient.

        Raises _NotFiniteError.
        """
        z, v, labels = self.cases(classes)
        found = self.gradient(z + shift, v + shift, labels, t)
        if found is None or not bool(found.any()):
            return None
        if not bool(found.isfinite().all()):
            raise _NotFiniteError(f"{classes} classes, T = {t:g}")
        found, z, v, labels = (with_float64(one) for one in (found, z, v, labels))
        return least_squares(
            found.double(), directions(z.double(), v.double(), t), labels_directions(z.double(), labels)
        )

    def ignores_the_teacher(self, classes: int) -> bool:
        """Whether two teachers give one gradient."""
        z, v, labels = self.cases(classes)
        found = [self.gradient(z, teacher, labels, LOW) for teacher in (v, v.flip(0))]
        return bool(torch.equal(*found))


def directions(z: torch.Tensor, v: torch.Tensor, t: float) -> dict[str, torch.Tensor]:
    """What soft targets send to the student, T² included, [B, C] each: rightly, swapped, and without the log."""
    log_q, log_p = (z / t).log_softmax(1), (v / t).log_softmax(1)
    q, p = log_q.exp(), log_p.exp()
    gap = log_q - log_p
    found = {
        "soft": q - p,
        "swapped": q * (gap - (q * gap).sum(1, keepdim=True)),  # KL(student || teacher)
        "one log": -q * (p - (q * p).sum(1, keepdim=True)),  # - sum p q: `kl_div` of probabilities
    }
    return {name: t * direction / len(z) for name, direction in found.items()}


def labels_directions(z: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """What hard targets send: the cross-entropy's, and what label smoothing adds to it."""
    y = torch.nn.functional.one_hot(labels, z.shape[1]).to(z)
    return [(z.softmax(1) - y) / len(z), (y - 1 / z.shape[1]) / len(z)]


def least_squares(found: torch.Tensor, ways: Mapping[str, torch.Tensor], hard: list[torch.Tensor]) -> dict[str, Fit]:
    """Least squares of a gradient on each direction together with those of the labels."""
    of_labels = torch.stack([one.flatten() for one in hard], 1)
    basis, _ = torch.linalg.qr(of_labels)
    fits = {}
    for name, direction in ways.items():
        columns = torch.cat([direction.flatten()[:, None], of_labels], 1)
        weights = torch.linalg.lstsq(columns, found.flatten()[:, None]).solution[:, 0]
        left = found.flatten() - columns @ weights
        soft_part = found.flatten() - basis @ (basis.T @ found.flatten())
        rest = float(left.norm() / soft_part.norm().clamp(min=1e-30))
        fits[name] = Fit(float(weights[0]), float(weights[1]), rest)
    return fits


def _without_gradient(tried: Tried, classes: int) -> Iterator[Finding]:
    z, v, labels = tried.cases(classes)
    v = v.requires_grad_()
    with torch.enable_grad():
        value = tried.loss(z, v, labels, LOW)
    reaches = value.requires_grad and torch.autograd.grad(value, v, allow_unused=True)[0] is not None
    if reaches:
        yield Finding(
            SWAPPED,
            "the gradient reaches the teacher's logits and not the student's.",
            "Call the loss with the student's logits first.",
        )
    else:
        yield Finding(
            NO_TEACHER, "no gradient reaches the student's logits.", "Compute the loss from them, without detach."
        )


def _not_finite(tried: Tried, classes: int, temperature: float) -> Iterator[Finding]:
    """Whether a teacher that is sure beyond float32, whose other probabilities are 0, breaks the loss."""
    z, v, labels = tried.cases(classes)
    v[:, 0] += 250 * temperature
    found = tried.gradient(z, v, labels, temperature)
    value = tried.loss(z, v, labels, temperature)
    if not bool(value.isfinite()) or found is None or not bool(found.isfinite().all()):
        yield Finding(
            NOT_FINITE,
            f"where a teacher's probability is 0 the loss is {value.item():g}.",
            "Use F.kl_div(log_q, p) or torch.xlogy(p, p) in the place of p * p.log().",
        )


def _of_kind(known: str) -> Finding:
    if known == "swapped":
        return Finding(
            SWAPPED,
            "the gradient is that of KL(student || teacher).",
            "Soft targets are the teacher's: F.kl_div(student's log-softmax, teacher's softmax).",
        )
    return Finding(
        ONE_LOG,
        "the gradient is that of -Σ p q: the student's side has no log.",
        "F.kl_div takes log-probabilities first: F.kl_div(z.log_softmax(1), p).",
    )


def _ignored() -> Iterator[Finding]:
    yield Finding(
        NO_TEACHER, "two teachers give the student one gradient.", "Is distillation on? Give the soft term its weight."
    )


def _clipped(tried: Tried, classes: int) -> Iterator[Finding]:
    """A ReLU on the logits: nothing of it is seen where all of them are far above 0."""
    above = tried.fits(classes, LOW, shift=SHIFT)
    if above and above["soft"].rest < FITS:
        yield Finding(
            RELU,
            "negative logits do not count, as they do once all are raised.",
            "Logits are the last linear layer's outputs, negative ones included.",
        )
        return
    # Swapped and clipped at once, or a loss of another kind: nothing that can be told.


def _scales(tried: Tried, classes: int, low: Fit, soft_weight: float | None) -> Iterator[Finding]:
    """What the weight of the soft targets depends on."""
    if low.soft < 0:
        yield Finding(SIGN, f"the soft targets' weight is {low.soft:.2g}.", "Turn the soft term's sign.")
        return
    scaled = False
    high = tried.fits(classes, HIGH)
    if high is not None and high["soft"].rest < FITS:
        power = float(torch.log(torch.tensor(high["soft"].soft / low.soft)) / torch.log(torch.tensor(HIGH / LOW)))
        if abs(power) > 0.2:
            scaled = True
            yield Finding(
                NO_T2,
                f"the soft targets' weight goes with T to the power of {power:.1f}.",
                "Multiply the soft term by T², so that its weight stays when T changes.",
            )
    wider = _wider(tried, classes)
    if wider is not None and wider["soft"].rest < FITS and wider["soft"].soft < 0.75 * low.soft:
        scaled = True
        yield Finding(
            CLASS_MEAN,
            f"with {2 * classes} classes for {classes} the soft targets' weight is {wider['soft'].soft / low.soft:.2g} "
            "times as large.",
            'Give KLDivLoss reduction="batchmean".',
        )
    yield from _precision(tried, classes)
    share = low.soft / (low.soft + low.hard) if low.soft + low.hard > 0 else 1.0
    if soft_weight is not None and not scaled and abs(share - soft_weight) > 0.02:
        yield Finding(
            ALPHA,
            f"the soft targets have {share:.2g} of the weight, where {soft_weight:g} is meant.",
            "Look which term `alpha` stands at: libraries differ.",
        )


def _wider(tried: Tried, classes: int) -> Mapping[str, Fit] | None:
    """The fits with twice as many classes; None where the loss is made for one number of them."""
    try:
        return tried.fits(2 * classes, LOW)
    except (RuntimeError, ValueError, IndexError):
        return None


def _precision(tried: Tried, classes: int) -> Iterator[Finding]:
    at_20 = tried.fits(classes, 20.0)
    if at_20 is not None and EXACT < at_20["soft"].rest < 0.5:
        yield Finding(
            HALF,
            f"at T = 20, {100 * at_20['soft'].rest:.1g} % of the soft targets' gradient is rounding.",
            "Widen the logits before the softmax: z.float(), v.float().",
        )
