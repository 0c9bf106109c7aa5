"""The losses against float64 references, Eq. 2, and what must be refused."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from kdrepro.losses import (
    _SoftTargets,
    _SoftTargetsInDouble,
    correlation_loss,
    cross_entropies,
    cross_entropy,
    decoupled_loss,
    distillation_loss,
    distillation_losses,
    logit_matching_loss,
    soft_target_gradient,
    soften,
    standardised_loss,
    with_label,
)

SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.floats(math.log(0.5), math.log(500)).map(math.exp)


def pair(seed: int, scale: float, dtype=torch.float64, cases: int = 7, classes: int = 5):
    """Random student and teacher logits, exactly representable in float32."""
    generator = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, cases, classes, generator=generator, dtype=torch.float32) * scale
    return z.to(dtype), v.to(dtype)


def reference(z, v, labels, temperature, soft_weight) -> float:
    """The loss as the paper's text says it, in long double."""
    z, v = (t.double().numpy().astype(np.longdouble) for t in (z, v))
    log_q, log_p = log_softmax(z / temperature, -1), log_softmax(v / temperature, -1)
    soft = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    hard = -log_softmax(z, -1)[np.arange(len(z)), labels.numpy()].mean()
    return float(soft_weight * temperature**2 * soft + (1 - soft_weight) * hard)


@given(SEEDS, TEMPERATURES, st.floats(0, 1), st.sampled_from([0.1, 1.0, 10.0, 50.0]))
@settings(max_examples=150)
def test_equals_reference_in_float64(seed, temperature, soft_weight, scale):
    z, v = pair(seed, scale)
    labels = torch.arange(7) % 5
    ours = distillation_loss(z, v, labels, temperature=temperature, soft_weight=soft_weight).item()
    assert ours == pytest.approx(reference(z, v, labels, temperature, soft_weight), rel=1e-6, abs=1e-12)


@given(SEEDS, TEMPERATURES.filter(lambda t: t <= 100), st.floats(0, 1), st.sampled_from([0.3, 1.0, 10.0, 50.0]))
@settings(max_examples=150)
def test_equals_reference_in_float32(seed, temperature, soft_weight, scale):
    z, v = pair(seed, scale, torch.float32)
    labels = torch.arange(7) % 5
    ours = distillation_loss(z, v, labels, temperature=temperature, soft_weight=soft_weight).item()
    assert ours == pytest.approx(reference(z, v, labels, temperature, soft_weight), rel=1e-4, abs=1e-7)


@given(SEEDS, TEMPERATURES)
@settings(max_examples=60)
def test_gradient_is_eq_2(seed, temperature):
    """Autograd through the plain cross-entropy, Eq. 2, and the loss's own derivative are one."""
    z, v = pair(seed, 4.0)
    student = z.clone().requires_grad_()
    (ours,) = torch.autograd.grad(distillation_loss(student, v, temperature=temperature), student)
    cross_entropy = -(torch.softmax(v / temperature, -1) * torch.log_softmax(student / temperature, -1)).sum(-1).mean()
    (automatic,) = torch.autograd.grad(cross_entropy, student)
    eq2 = soft_target_gradient(z, v, temperature) / len(z)
    torch.testing.assert_close(ours, temperature**2 * eq2, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(automatic, eq2, rtol=1e-6, atol=1e-10)


def test_second_derivative():
    z, v = pair(0, 2.0)
    assert torch.autograd.gradgradcheck(lambda s: distillation_loss(s, v, temperature=3.0), z.requires_grad_())


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_finite_at_the_extremes(temperature, dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    v = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 0.0, -1e4]], dtype=dtype)
    labels = torch.tensor([1, 0, 2])
    loss = distillation_loss(z, v, labels, temperature=temperature, soft_weight=0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(soften(z.detach(), temperature)).all()


def test_underflowing_teacher_is_no_nan():
    """p * (log p - log q) is 0 * -inf for a class of probability zero, given as a logit of -inf."""
    z = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    v = torch.tensor([[0.0, -math.inf, 0.0]])
    loss = distillation_loss(z, v, temperature=2.0)
    loss.backward()
    p, q = torch.tensor([0.5, 0.0, 0.5]), torch.softmax(z.detach()[0] / 2, -1)
    expected = 4 * (p[[0, 2]] * (p[[0, 2]].log() - q[[0, 2]].log())).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.isfinite(z.grad).all()


def test_zero_only_where_equal():
    z, v = pair(3, 2.0)
    assert distillation_loss(v.clone(), v, temperature=5.0).item() == 0
    assert distillation_loss(z, v, temperature=5.0).item() > 0
    assert logit_matching_loss(v + 7, v).item() == pytest.approx(0, abs=1e-20)


def test_high_temperature_limit_is_logit_matching():
    """Eq. 4: T² times the soft loss tends to the logit matching loss, and so do the gradients."""
    z, v = pair(1, 3.0)
    z.requires_grad_()
    gaps = []
    for temperature in (10.0, 100.0, 1000.0):
        (soft,) = torch.autograd.grad(distillation_loss(z, v, temperature=temperature), z)
        (matched,) = torch.autograd.grad(logit_matching_loss(z, v), z)
        gaps.append(((soft - matched).norm() / matched.norm()).item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01


@given(st.integers(0, 2**31), st.sampled_from([0.1, 10.0, 1e4]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_cross_entropies_are_those_of_torch(seed, scale, some_unlabelled):
    """Of many networks at once, and of one, over the cases that have a label."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(3, 20, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(7, (3, 20), generator=generator)
    if some_unlabelled:
        labels[torch.rand(3, 20, generator=generator) < 0.3] = -100
        labels[:, 0] = 1
    reference = torch.stack([F.cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)])
    alone = torch.stack([cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)])
    for mine in (cross_entropies(logits, labels), alone):
        torch.testing.assert_close(mine, reference)
        gradients = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (mine, reference)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_cross_entropies_take_labels_of_any_integer_type(dtype):
    labels = torch.tensor([0, 3], dtype=dtype)
    assert cross_entropy(torch.zeros(2, 4), labels).item() == pytest.approx(math.log(4))
    assert cross_entropies(torch.zeros(1, 2, 4), labels[None]).tolist() == pytest.approx([math.log(4)])


@pytest.mark.parametrize("labels", [[0, 4], [0, -1], [0, 1, 2], [0.0, 1.0]])
def test_cross_entropies_refuse_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="labels"):
        cross_entropy(torch.zeros(2, 4), torch.tensor(labels))
    with pytest.raises(ValueError, match="labels"):
        cross_entropies(torch.zeros(1, 2, 4), torch.tensor([labels]))


def test_cross_entropies_where_a_logit_is_infinite():
    for loss_of in (cross_entropy, lambda z, y: cross_entropies(z[None], y[None]).sum()):
        logits = torch.tensor([[0.0, -torch.inf, 1.0]], requires_grad=True)
        loss = loss_of(logits, torch.tensor([0]))
        loss.backward()
        assert loss.item() == pytest.approx(math.log(1 + math.e))
        assert logits.grad.isfinite().all()


def test_an_infinite_logit_of_a_case_without_a_label_counts_for_nothing():
    logits = torch.tensor([[[-torch.inf, 1.0, 2.0], [0.0, 1.0, 2.0]], [[-torch.inf, 1.0, 2.0]] * 2], requires_grad=True)
    labels = torch.tensor([[-100, 1], [-100, -100]])
    for check in (True, False):
        found = cross_entropies(logits, labels, check=check)
        torch.testing.assert_close(found, torch.stack([cross_entropy(logits[0], labels[0]), torch.zeros(())]))
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        assert gradient.isfinite().all()
        assert gradient[labels < 0].abs().max() == 0


@pytest.mark.parametrize("labels", [torch.zeros(3, 2), torch.zeros(1, 3), torch.zeros(6), torch.zeros(2, 3, 4)])
@pytest.mark.parametrize("soft_weights", [[0.5, 0.5], [1.0, 0.5], [0.0, 0.0]])
@pytest.mark.parametrize("check", [True, False])
def test_labels_of_many_lie_as_their_logits_do(labels, soft_weights, check):
    z, labels = torch.zeros(2, 3, 4), labels.long()
    sentence = r"labels is \[.*\] but the logits are \[2, 3, 4\]: it must be \[networks, cases\], \[2, 3\]"
    with pytest.raises(ValueError, match=sentence):
        cross_entropies(z, labels, check=check)
    with pytest.raises(ValueError, match=sentence):
        distillation_losses(z, z, labels, temperatures=[1.0, 2.0], soft_weights=soft_weights, check=check)


def test_without_any_label_the_hard_loss_is_zero_and_so_is_its_gradient():
    for loss_of in (cross_entropy, lambda z, y: cross_entropies(z[None], y[None]).sum()):
        logits = torch.randn(2, 3, requires_grad=True)
        loss = loss_of(logits, torch.tensor([-100, -100]))
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_a_case_without_a_label_counts_in_the_soft_loss_alone():
    z, v = pair(3, 2.0)
    labels = torch.tensor([0, -100, 2, 3, -100, 1, 4])
    soft = distillation_loss(z, v, temperature=4.0)
    hard = F.cross_entropy(z[labels >= 0], labels[labels >= 0])
    mixed = distillation_loss(z, v, labels, temperature=4.0, soft_weight=0.3)
    assert mixed.item() == pytest.approx((0.3 * soft + 0.7 * hard).item(), rel=1e-12)
    many = distillation_losses(z[None], v[None], labels[None], temperatures=[4.0], soft_weights=[0.3])
    assert many.item() == pytest.approx(mixed.item(), rel=1e-12)


@given(SEEDS, TEMPERATURES, st.floats(0, 1))
def test_labels_within_the_targets(seed, temperature, weight):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, -100])
    targets = soften(with_label(teacher, labels, temperature, weight), temperature)
    p = soften(teacher, temperature)
    torch.testing.assert_close(targets[:4], (1 - weight) * p[:4] + weight * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(targets[4], p[4])


def test_labels_within_the_targets_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="weight must lie between 0 and 1, not 2"):
        with_label(torch.zeros(2, 3), torch.tensor([0, 1]), 1.0, 2)
    with pytest.raises(ValueError, match="labels"):
        with_label(torch.zeros(2, 3), torch.tensor([0, 3]), 1.0, 0.5)


def test_logit_matching_reference():
    z, v = pair(2, 3.0)
    zc, vc = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    expected = (0.5 * ((zc - vc) ** 2).sum(1)).mean() / z.shape[1]
    assert logit_matching_loss(z, v).item() == pytest.approx(expected.item(), rel=1e-12)


def test_soften_is_a_distribution_that_softens():
    z, _ = pair(4, 5.0)
    entropies = []
    for temperature in (0.5, 1.0, 4.0, 100.0):
        q = soften(z, temperature)
        torch.testing.assert_close(q.sum(-1), torch.ones(7, dtype=z.dtype))
        entropies.append(-(q * q.log()).sum(-1).mean().item())
    assert entropies == sorted(entropies)


def test_no_gradient_into_the_teacher():
    z, v = (t.requires_grad_() for t in pair(5, 1.0))
    distillation_loss(z, v, temperature=2.0).backward()
    assert v.grad is None
    assert z.grad is not None


GOOD = torch.zeros(3, 4)
NAN = torch.full((3, 4), math.nan)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"student_logits": NAN}, "student_logits"),
        ({"teacher_logits": NAN}, "teacher_logits"),
        ({"teacher_logits": torch.full((3, 4), math.inf)}, "teacher_logits"),
        ({"teacher_logits": torch.zeros(3, 5)}, "teacher_logits"),
        ({"student_logits": torch.zeros(4)}, "student_logits"),
        ({"student_logits": torch.zeros(3, 4, dtype=torch.long)}, "student_logits"),
        ({"student_logits": torch.zeros(0, 4), "teacher_logits": torch.zeros(0, 4)}, "student_logits"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"soft_weight": 1.5}, "soft_weight"),
        ({"soft_weight": math.nan}, "soft_weight"),
        ({"soft_weight": 0.5, "labels": None}, "labels"),
        ({"soft_weight": 0.5, "labels": torch.zeros(2, dtype=torch.long)}, "labels"),
        ({"soft_weight": 0.5, "labels": torch.full((3,), 9)}, "labels"),
        ({"soft_weight": 0.5, "labels": torch.zeros(3)}, "labels"),
    ],
)
def test_bad_input_is_named(arguments, named):
    labels = torch.zeros(3, dtype=torch.long)
    given_all = {"student_logits": GOOD, "teacher_logits": GOOD, "labels": labels, "temperature": 2.0} | arguments
    with pytest.raises(ValueError, match=named):
        distillation_loss(**given_all)


def test_bad_input_of_the_others():
    with pytest.raises(ValueError, match="logits"):
        soften(NAN, 1.0)
    with pytest.raises(ValueError, match="temperature"):
        soften(GOOD, 0)
    with pytest.raises(ValueError, match="teacher_logits"):
        logit_matching_loss(GOOD, NAN)


# --- many networks at once --------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.lists(st.floats(0.05, 200), min_size=1, max_size=4), st.floats(-6, 2))
@settings(max_examples=60)
def test_losses_of_many_are_those_of_each(seed, temperatures, closeness):
    """From students that differ wildly from their teachers to ones that hardly do, in one call."""
    generator = torch.Generator().manual_seed(seed)
    count = len(temperatures)
    weights = torch.rand(count, generator=generator).round(decimals=1).tolist()
    teacher = 3 * torch.randn(count, 5, 4, generator=generator)
    gaps = 10 ** torch.linspace(closeness, 0, count).view(-1, 1, 1)
    student = (teacher + gaps * torch.randn(count, 5, 4, generator=generator)).requires_grad_()
    labels = torch.randint(4, (count, 5), generator=generator)
    together = distillation_losses(student, teacher, labels, temperatures=temperatures, soft_weights=weights)
    (gradient,) = torch.autograd.grad(together.sum(), student)
    alone = [
        distillation_loss(student[m], teacher[m], labels[m], temperature=t, soft_weight=weights[m])
        for m, t in enumerate(temperatures)
    ]
    (expected,) = torch.autograd.grad(sum(alone), student)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": [1.0, 0.0]}, "temperature must be a positive number"),
        ({"soft_weights": [1.0, 1.5]}, "soft_weight must lie between 0 and 1"),
        ({"soft_weights": [1.0, 0.5], "labels": None}, "labels must be given"),
        ({"teacher_logits": torch.zeros(2, 3, 5)}, "networks, cases, classes"),
        ({"student_logits": torch.zeros(3, 4)}, "networks, cases, classes"),
        ({"student_logits": torch.full((2, 3, 4), torch.nan)}, "student_logits holds NaN"),
        ({"labels": torch.full((2, 3), 4), "soft_weights": [0.5, 0.5]}, "labels must lie between 0 and 3"),
        ({"temperatures": [1.0]}, "temperatures has 1 numbers for 2 networks"),
        ({"temperatures": 2}, "temperatures must be a list of numbers, one a network, not 2"),
        ({"soft_weights": 0.5}, "soft_weights must be a list of numbers, one a network, not 0.5"),
    ],
)
def test_losses_of_many_refuse_bad_input(change, message):
    given = {
        "student_logits": torch.zeros(2, 3, 4),
        "teacher_logits": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, 3, dtype=torch.int64),
        "temperatures": [1.0, 2.0],
        "soft_weights": [1.0, 1.0],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        distillation_losses(**given)


def test_labels_that_are_not_needed_are_not_looked_at():
    """One network's soft targets alone, with labels that are none, beside another that needs its own."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    labels = torch.tensor([[-1, -1, -1], [0, 3, 2]], dtype=torch.int16)
    found = distillation_losses(student, teacher, labels, temperatures=[2.0, 2.0], soft_weights=[1.0, 0.5])
    assert found.isfinite().all()


# --- without a look at values -----------------------------------------------------------------------


@given(SEEDS, st.floats(-2, 3).map(lambda power: 10**power), st.floats(-2, 2), st.integers(2, 6), st.booleans())
@settings(max_examples=150)
def test_both_ways_of_the_soft_loss_agree(seed, temperature, scale, classes, close):
    """That with care, in the precision given, and that in float64, which a GPU takes: values and gradients.

    Beside the largest that a term of the loss can be, at low temperatures; there are students close to their teachers.
    """
    z, v = (10**scale * one for one in pair(seed, 1.0, torch.float32, classes=classes))
    z = v + z * 1e-3 if close else z
    found = []
    for way in (_SoftTargets, _SoftTargetsInDouble):
        student = z.clone().requires_grad_()
        loss = temperature**2 * way.apply(student, v, temperature)
        found.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    rounding = 1e-6 * 10**scale  # of logits; the loss's slope is T times a difference of probabilities
    (mine, gradient), (other, expected) = found
    torch.testing.assert_close(other, mine, rtol=1e-4, atol=temperature * rounding + 1e-9)
    torch.testing.assert_close(expected, gradient, rtol=1e-4, atol=temperature * 1e-6 + rounding)


@given(SEEDS, TEMPERATURES, st.sampled_from([0.3, 1.0, 10.0, 50.0]), st.booleans())
@settings(max_examples=100)
def test_the_way_in_float64_equals_the_reference(seed, temperature, scale, single):
    z, v = pair(seed, scale, torch.float32 if single else torch.float64)
    ours = temperature**2 * _SoftTargetsInDouble.apply(z, v, temperature)
    assert ours.dtype == z.dtype
    assert ours.item() == pytest.approx(reference(z, v, torch.zeros(7).long(), temperature, 1.0), rel=1e-6, abs=1e-7)


def test_the_way_in_float64_at_the_extremes():
    z = torch.tensor([[1e4, -1e4, 0.0], [0.0, -math.inf, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    v = torch.tensor([[-1e4, 1e4, 0.0], [1.0, -math.inf, 0.0], [1e4, -math.inf, 0.0]])
    for temperature in (0.01, 1.0, 1e4):
        loss = _SoftTargetsInDouble.apply(z, v, temperature)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, z)[0].isfinite().all()
    assert _SoftTargetsInDouble.apply(v, v, 3.0).item() == 0
    assert _SoftTargetsInDouble.apply(torch.full((1, 3), math.nan), v[:1], 1.0).isnan()


def test_the_second_derivative_of_the_way_in_float64():
    z, v = pair(0, 2.0)
    assert torch.autograd.gradcheck(lambda s: _SoftTargetsInDouble.apply(s, v, 3.0), z.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda s: _SoftTargetsInDouble.apply(s, v, 3.0), z)


@given(SEEDS, TEMPERATURES, st.floats(0, 1), st.booleans())
@settings(max_examples=60)
def test_losses_are_the_same_unseen(seed, temperature, soft_weight, all_labelled):
    """Of one network and of many, over the cases that have a label; and so are their gradients."""
    z, v = pair(seed, 3.0)
    z.requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1] if all_labelled else [0, -100, 2, 3, -100, 1, 4])
    given_all = {"temperature": temperature, "soft_weight": soft_weight}
    many = {"temperatures": [temperature, 1.0, 2.0], "soft_weights": [soft_weight, 1.0, 0.0]}
    ways = [
        lambda check: cross_entropy(z, labels, check=check),
        lambda check: cross_entropies(z[None], labels[None], check=check).sum(),
        lambda check: distillation_loss(z, v, labels, **given_all, check=check),
        lambda check: distillation_losses(
            z.expand(3, -1, -1), v.expand(3, -1, -1), labels.expand(3, -1), **many, check=check
        ).sum(),
        lambda check: logit_matching_loss(z, v, check=check),
        lambda check: decoupled_loss(z, v, labels, **given_all, check=check),
        lambda check: standardised_loss(z, v, labels, **given_all, check=check),
        lambda check: correlation_loss(z, v, labels, **given_all, check=check),
    ]
    for way in ways:
        (seen, unseen) = (way(check) for check in (True, False))
        torch.testing.assert_close(unseen, seen, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (unseen, seen)), rtol=1e-7, atol=1e-9)


def test_without_any_label_the_losses_are_zero_unseen():
    z, v = pair(0, 2.0, torch.float32)
    none = torch.full((7,), -100)
    assert cross_entropy(z, none, check=False).item() == 0
    assert cross_entropies(z[None], none[None], check=False).item() == 0
    assert decoupled_loss(z, v, none, temperature=2.0, soft_weight=0.5, check=False).item() == 0


def test_what_is_no_number_or_no_class_makes_no_loss_unseen():
    z, v = pair(0, 2.0, torch.float32)
    wrong = torch.tensor([0, 1, 2, 3, 4, 5, 0])
    assert distillation_loss(torch.full_like(z, math.nan), v, temperature=2.0, check=False).isnan()
    for loss in (cross_entropy, lambda z, y, check: cross_entropies(z[None], y[None], check=check)):
        with pytest.raises(IndexError, match="out of bounds"):  # on a GPU PyTorch's own assertion
            loss(z, wrong, check=False)
