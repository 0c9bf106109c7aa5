"""The losses of after 2015 against float64 references, their identities, torchdistill's where it is there."""

import math

import arms
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro.losses import correlation_loss, decoupled_loss, distillation_loss, soften, standardised_loss

SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.floats(math.log(0.5), math.log(100)).map(math.exp)
LABELS = torch.arange(7) % 5


def pair(seed: int, scale: float = 3.0, dtype=torch.float64, cases: int = 7, classes: int = 5):
    generator = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, cases, classes, generator=generator) * scale
    return z.to(dtype), v.to(dtype)


def kl(p, q) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0)


def decoupled_reference(z, v, labels, temperature, alpha, beta) -> float:
    """A case after the other, from probabilities."""
    total = 0.0
    for student, teacher, label in zip(z.double(), v.double(), labels.tolist(), strict=True):
        q, p = (torch.softmax(logits / temperature, 0) for logits in (student, teacher))
        others = [i for i in range(len(q)) if i != label]
        binary = [torch.stack([d[label], d[others].sum()]) for d in (p, q)]
        rest = [d[others] / d[others].sum() for d in (p, q)]
        total += alpha * kl(*binary) + beta * kl(*rest)
    return temperature**2 * total / len(z)


def standardised_reference(z, v, temperature) -> float:
    total = 0.0
    for student, teacher in zip(z.double(), v.double(), strict=True):
        n = len(student)
        q, p = (
            torch.softmax((x - x.mean()) / ((((x - x.mean()) ** 2).sum() / (n - 1)).sqrt() + 1e-7) / temperature, 0)
            for x in (student, teacher)
        )
        total += kl(p, q)
    return temperature**2 * total / len(z)


def correlation_reference(z, v, temperature, beta, gamma) -> float:
    q, p = (torch.softmax(x.double() / temperature, 1) for x in (z, v))

    def r(x, y):
        return torch.corrcoef(torch.stack([x, y]))[0, 1].item()

    rows = sum(1 - r(a, b) for a, b in zip(q, p, strict=True)) / len(q)
    columns = sum(1 - r(a, b) for a, b in zip(q.T, p.T, strict=True)) / q.shape[1]
    return temperature**2 * (beta * rows + gamma * columns)


@given(SEEDS, TEMPERATURES, st.floats(0, 1), st.floats(0, 4), st.floats(0, 10))
@settings(max_examples=60)
def test_decoupled_equals_its_reference(seed, temperature, soft_weight, alpha, beta):
    z, v = pair(seed)
    ours = decoupled_loss(z, v, LABELS, temperature=temperature, soft_weight=soft_weight, alpha=alpha, beta=beta)
    soft = decoupled_reference(z, v, LABELS, temperature, alpha, beta)
    expected = soft_weight * soft + (1 - soft_weight) * F.cross_entropy(z, LABELS).item()
    assert ours.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(SEEDS, TEMPERATURES, st.floats(0, 1))
@settings(max_examples=40)
def test_standardised_equals_its_reference(seed, temperature, soft_weight):
    z, v = pair(seed)
    ours = standardised_loss(z, v, LABELS, temperature=temperature, soft_weight=soft_weight)
    soft = standardised_reference(z, v, temperature)
    expected = soft_weight * soft + (1 - soft_weight) * F.cross_entropy(z, LABELS).item()
    assert ours.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(SEEDS, st.floats(0.5, 10), st.floats(0, 1), st.floats(0, 3), st.floats(0, 3))
@settings(max_examples=40)
def test_correlation_equals_its_reference(seed, temperature, soft_weight, beta, gamma):
    z, v = pair(seed)
    settings_of = {"temperature": temperature, "soft_weight": soft_weight, "beta": beta, "gamma": gamma}
    expected = soft_weight * correlation_reference(z, v, temperature, beta, gamma)
    expected += (1 - soft_weight) * F.cross_entropy(z, LABELS).item()
    assert correlation_loss(z, v, LABELS, **settings_of).item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@given(SEEDS, TEMPERATURES)
@settings(max_examples=40)
def test_decoupled_with_each_cases_own_beta_is_hintons(seed, temperature):
    """KL = KL of label against rest + (1 - p of the label) * KL among the rest: case by case."""
    z, v = pair(seed)
    p = soften(v, temperature).gather(1, LABELS[:, None]).squeeze(1)
    each = [
        decoupled_loss(z[i : i + 1], v[i : i + 1], LABELS[i : i + 1], temperature=temperature, beta=1 - p[i].item())
        for i in range(len(z))
    ]
    together = distillation_loss(z, v, temperature=temperature)
    assert torch.stack(each).mean().item() == pytest.approx(together.item(), rel=1e-6, abs=1e-10)


ALL = [decoupled_loss, standardised_loss, correlation_loss]


def sized(cases: int, classes: int) -> dict:
    logits = torch.zeros(cases, classes)
    return {"student_logits": logits, "teacher_logits": logits, "labels": torch.zeros(cases, dtype=torch.int64)}


@pytest.mark.parametrize("loss", ALL)
def test_gradients_are_those_of_the_values(loss):
    z, v = pair(1)
    assert torch.autograd.gradcheck(lambda s: loss(s, v, LABELS, temperature=3.0, soft_weight=0.7), z.requires_grad_())


@pytest.mark.parametrize("loss", ALL)
def test_it_is_least_where_the_student_is_its_teacher_and_sends_no_gradient_there(loss):
    z, v = (t.requires_grad_() for t in pair(2))
    loss(z, v, LABELS, temperature=2.0).backward()
    assert v.grad is None
    assert z.grad.abs().max() > 0
    same = v.detach().clone().requires_grad_()
    least = loss(same, v, LABELS, temperature=2.0)
    (gradient,) = torch.autograd.grad(least, same)
    assert least.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-7


def test_standardised_asks_nothing_of_the_scale_nor_correlation_of_a_constant():
    z, v = pair(3)
    found = [standardised_loss(factor * z + 5, v, temperature=2.0).item() for factor in (1, 10)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert correlation_loss(v + 3, v, temperature=2.0).item() == pytest.approx(0, abs=1e-12)


def test_a_student_of_equal_logits_is_standardised_to_zeros_and_its_gradient_is_large_but_finite():
    z, v = torch.zeros(7, 5, requires_grad=True), pair(3, dtype=torch.float32)[1]
    found = standardised_loss(z, v, temperature=2.0)
    assert found.item() == pytest.approx(standardised_loss(torch.full((7, 5), 3.0), v, temperature=2.0).item())
    assert 1e5 < torch.autograd.grad(found, z)[0].abs().max() < 1e7


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_the_extremes(loss, dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1.0, 2.0, 0.0]], dtype=dtype, requires_grad=True)
    v = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 0.0, -1e4]], dtype=dtype)
    found = loss(z, v, torch.tensor([1, 0, 2]), temperature=1.0, soft_weight=0.5)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(z.grad).all()


def test_a_case_without_a_label_has_no_target_class():
    z, v = pair(4)
    labels = torch.tensor([0, -100, 2, 3, -100, 1, 4])
    kept = labels >= 0
    whole = decoupled_loss(z, v, labels, temperature=3.0, soft_weight=0.6)
    assert whole.item() == decoupled_loss(z[kept], v[kept], labels[kept], temperature=3.0, soft_weight=0.6).item()
    none = decoupled_loss(z.requires_grad_(), v, torch.full((7,), -100), temperature=3.0)
    assert none.item() == 0
    assert torch.autograd.grad(none, z)[0].abs().max() == 0


@pytest.mark.parametrize(
    ("loss", "change", "named"),
    [
        *((loss, {"temperature": 0}, "temperature must be a positive number") for loss in ALL),
        *((loss, {"soft_weight": 2}, "soft_weight must lie between 0 and 1") for loss in ALL),
        *((loss, {"teacher_logits": torch.zeros(7, 4)}, "teacher_logits is") for loss in ALL),
        *((loss, {"labels": None, "soft_weight": 0.5}, "labels") for loss in ALL),
        (decoupled_loss, {"labels": None}, "labels is missing: this loss splits"),
        (decoupled_loss, {"beta": -1}, "beta must be a number of at least 0, not -1"),
        (standardised_loss, {"teacher_logits": torch.full((7, 5), -math.inf)}, "teacher_logits holds"),
        (correlation_loss, {"beta": -1}, "beta must be a number of at least 0, not -1"),
        (correlation_loss, {"gamma": math.nan}, "gamma must be a number of at least 0, not nan"),
        (correlation_loss, sized(1, 5), r"student_logits is \[1, 5\]: this loss needs at least 2 cases"),
        *((loss, sized(7, 1), r"student_logits is \[7, 1\]: this loss needs at least 2 classes") for loss in ALL),
        *(
            (decoupled_loss, {name: torch.where(LABELS[:, None] == torch.arange(5), 0.0, -math.inf)}, f"{name} without")
            for name in ("student_logits", "teacher_logits")
        ),
    ],
)
def test_bad_input_is_named(loss, change, named):
    z, v = pair(5)
    given_all = {"student_logits": z, "teacher_logits": v, "labels": LABELS, "temperature": 2.0, **change}
    with pytest.raises(ValueError, match=named):
        loss(**given_all)


def test_torchdistill_agrees(monkeypatch):
    """Its DIST, its standardised loss and its KD, where `make bench` has put it."""
    monkeypatch.syspath_prepend(str(arms.TORCHDISTILL))
    theirs = pytest.importorskip("torchdistill.losses.mid_level", exc_type=ImportError)
    z, v = pair(6)
    outputs = {".": {"output": z}}, {".": {"output": v}}
    names = {f"{who}_module_path": "." for who in ("student", "teacher")}
    names |= {f"{who}_module_io": "output" for who in ("student", "teacher")}
    mixed = {"temperature": 3.0, "soft_weight": 0.6}
    dist = theirs.DISTLoss(**names, beta=2.0, gamma=0.5, tau=3.0)
    standardised, plain = (kind(**names, temperature=3.0, alpha=0.4) for kind in (theirs.LogitStdKDLoss, theirs.KDLoss))
    pairs = [
        (dist(*outputs), correlation_loss(z, v, temperature=3.0, beta=2.0, gamma=0.5)),
        (standardised(*outputs, LABELS), standardised_loss(z, v, LABELS, **mixed)),
        (plain(*outputs, LABELS), distillation_loss(z, v, LABELS, **mixed)),
    ]
    for expected, ours in pairs:
        assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
