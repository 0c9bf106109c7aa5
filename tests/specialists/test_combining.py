"""Eq. 5's answer against a convex solver and plain EM; what it is by hand; what must be refused."""

import math

import numpy as np
import pytest
import torch
from eq5_problems import KINDS, contradicting, convex_minimum, everyone, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdrepro import training
from kdrepro.networks import MLP
from kdrepro.specialists import correct_dustbin
from kdrepro.specialists.combining import Combined, active, combine, em_step, objective

SEEDS = st.integers(0, 2**31 - 1)


@given(SEEDS, st.integers(2, 6), st.integers(1, 4))
@settings(max_examples=60)
def test_both_methods_reach_the_convex_minimum(seed, n_classes, n_specialists):
    p_g, p_m, classes = problem(seed, 1, n_classes, n_specialists)
    expected = convex_minimum(p_g, p_m, classes)
    for method, within in (("em", 1e-9), ("gradient", 1e-6)):
        q = combine(p_g, p_m, classes, top_n=n_classes, method=method)
        value = objective(q, p_g, p_m, classes, everyone(p_g, classes)).item()
        assert value == pytest.approx(expected, abs=within), method


@given(SEEDS, st.integers(2, 6), st.integers(1, 4))
@settings(max_examples=80)
def test_em_at_the_walls(seed, n_classes, n_specialists):
    """Zeros, certainties and full dustbins: no NaN, no step cut short (it would warn), never above a solver's best."""
    p_g, p_m, classes = problem(seed, 1, n_classes, n_specialists, kinds=KINDS)
    q = combine(p_g, p_m, classes, top_n=n_classes)
    value = objective(q, p_g, p_m, classes, everyone(p_g, classes)).item()
    assert math.isfinite(value)
    assert (q >= 0).all()
    assert q.sum().item() == pytest.approx(1, abs=1e-12)
    assert value <= convex_minimum(p_g, p_m, classes) + 1e-9


ADVERSARIAL = {
    "contradicting": contradicting(1e-6),
    "contradicting without a doubt": contradicting(0.0),
    "nobody's case": contradicting(1 - 1e-6, n_specialists=5),
    "nobody's case, no doubt": contradicting(1.0, n_specialists=5),
    "five claim it": contradicting(1e-3, n_specialists=5),
    "identical": (lambda g, p, k: (g, [p[0]] * 4, [k[0]] * 4))(*problem(1, 1, 6, 1)),
    "identical but for the classes": (lambda g, p, k: (g, [p[0]] * 2, [k[0], (k[0] + 1) % 6]))(*problem(2, 1, 6, 1)),
    "all mass where the generalist has none": (
        torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64),
        [torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64)],
        [torch.tensor([0]), torch.tensor([1, 2])],
    ),
}


@pytest.mark.parametrize("method", ["em", "gradient"])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_cases(name, method):
    p_g, p_m, classes = ADVERSARIAL[name]
    q = combine(p_g, p_m, classes, top_n=p_g.shape[1], method=method)
    value = objective(q, p_g, p_m, classes, everyone(p_g, classes)).item()
    assert value == pytest.approx(convex_minimum(p_g, p_m, classes), abs=1e-6)
    assert torch.isfinite(q).all()


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_equals_long_plain_em(method):
    """Many classes, several specialists, in float64."""
    p_g, p_m, classes = problem(0, 20, 100, 8, size=20)
    is_active = active(p_g, classes, 5)
    q = torch.full_like(p_g, 0.01)
    for _ in range(300):
        q = em_step(q, p_g, p_m, classes, is_active)
    ours = combine(p_g, p_m, classes, top_n=5, method=method)
    values = (objective(x, p_g, p_m, classes, is_active) for x in (ours, q))
    torch.testing.assert_close(*values, rtol=0, atol=1e-6)
    if method == "em":
        torch.testing.assert_close(ours, q, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_fifteen_thousand_classes():
    p_g, p_m, classes = problem(0, 1, 15_000, 6, size=3_000)
    is_active = active(p_g, classes, 3)
    least = objective(combine(p_g, p_m, classes, top_n=3), p_g, p_m, classes, is_active)
    q = torch.full_like(p_g, 1 / 15_000)
    for _ in range(100):
        q = em_step(q, p_g, p_m, classes, is_active)
    by_gradient = combine(p_g, p_m, classes, top_n=3, method="gradient")
    for other in (q, by_gradient):
        torch.testing.assert_close(objective(other, p_g, p_m, classes, is_active), least, rtol=0, atol=1e-6)


@given(SEEDS)
@settings(max_examples=40)
def test_plain_em_never_rises(seed):
    p_g, p_m, classes = problem(seed, kinds=("soft", "sharp", "dustbin"))
    is_active = active(p_g, classes, 2)
    q = torch.full_like(p_g, 1 / 6)
    before = objective(q, p_g, p_m, classes, is_active)
    for _ in range(20):
        q = em_step(q, p_g, p_m, classes, is_active)
        after = objective(q, p_g, p_m, classes, is_active)
        assert (after <= before + 1e-12).all()
        before = after


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["em", "gradient"])
def test_without_specialists_it_is_the_generalist(dtype, method):
    p_g, p_m, classes = problem(0, n_classes=40, size=3)
    p_g, p_m = p_g.to(dtype), [p.to(dtype) for p in p_m]
    assert torch.equal(combine(p_g, [], [], method=method), p_g)
    alone = ~active(p_g, classes).any(1)
    assert alone.any()
    assert not alone.all()
    assert torch.equal(combine(p_g, p_m, classes, method=method)[alone], p_g[alone])
    assert combine(p_g[:0], [p[:0] for p in p_m], classes, method=method).shape == (0, 40)


@given(SEEDS)
@settings(max_examples=40)
def test_agreement_is_the_generalist(seed):
    """Specialists that say what p_g says, of their classes and of all others, leave p_g as it is."""
    p_g, _, classes = problem(seed, kinds=("soft", "sharp", "zeros"))
    p_m = [torch.cat([p_g[:, k], 1 - p_g[:, k].sum(1, keepdim=True)], 1).clamp(min=0) for k in classes]
    torch.testing.assert_close(combine(p_g, p_m, classes, top_n=6), p_g, rtol=0, atol=1e-6)


@given(SEEDS)
@settings(max_examples=40)
def test_order_does_not_matter(seed):
    """Neither that of the specialists, nor of the classes, nor of the cases."""
    p_g, p_m, classes = problem(seed)
    generator = torch.Generator().manual_seed(seed)
    new = torch.randperm(6, generator=generator)  # class i becomes new[i]
    cases = torch.randperm(8, generator=generator)
    order = torch.randperm(3, generator=generator).tolist()
    moved = torch.empty_like(p_g)
    moved[:, new] = p_g
    q = combine(moved[cases], [p_m[m][cases] for m in order], [new[classes[m]] for m in order], top_n=2)
    torch.testing.assert_close(q[:, new], combine(p_g, p_m, classes, top_n=2)[cases], rtol=1e-5, atol=1e-8)


@given(SEEDS)
@settings(max_examples=40)
def test_float32(seed):
    p_g, p_m, classes = problem(seed, kinds=("soft", "sharp"))
    q = combine(p_g.float(), [p.float() for p in p_m], classes, top_n=6)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.double(), combine(p_g, p_m, classes, top_n=6), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(q.sum(1), torch.ones(8))


def test_small_classes_keep_their_digits():
    """q = c / w: a class of probability 1e-40 is not lost in the method's barrier."""
    tiny, classes = torch.tensor([1e-40, 0.7, 0.3], dtype=torch.float64), [torch.tensor([0, 1]), torch.tensor([0, 2])]
    p_g = torch.cat([tiny, torch.zeros(1)])[None]
    q = combine(p_g, [tiny[None], tiny[[0, 2, 1]][None]], classes, top_n=4)
    assert q[0, 0].item() == pytest.approx(1e-40, rel=1e-9)
    assert q[0, 3].item() < 1e-12


def test_nearly_normalised_input_is_normalised():
    p_g, p_m, classes = problem(5)
    q = combine(1.0005 * p_g, [0.9995 * p for p in p_m], classes, top_n=2)
    torch.testing.assert_close(q, combine(p_g, p_m, classes, top_n=2), rtol=1e-9, atol=1e-12)


def test_no_gradient_flows_and_the_input_stays():
    p_g, p_m, classes = problem(6)
    before = p_g.clone()
    assert not combine(p_g.requires_grad_(), p_m, classes, top_n=2).requires_grad
    assert torch.equal(p_g, before)


def test_active_by_hand():
    p_g = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.0, 0.1, 0.3, 0.6]])
    classes = [torch.tensor([0]), torch.tensor([1, 2])]
    assert active(p_g, classes).tolist() == [[True, False], [False, False]]
    assert active(p_g, classes, 2).tolist() == [[True, True], [False, True]]
    assert active(p_g, classes, 4).all()
    assert active(p_g, []).shape == (2, 0)


@pytest.mark.parametrize(
    ("generalist", "classes", "sentence"),
    [
        (torch.ones(4) / 4, [[0]], r"generalist must be \[cases, classes\]"),
        (torch.ones(2, 4) / 4, [[0], [-1]], r"classes\[1\] holds -1, but the classes are 0 to 3"),
        (torch.ones(2, 4) / 4, [[9]], r"classes\[0\] holds 9"),
        (torch.ones(2, 4) / 4, [3], r"classes\[0\] must be a tensor or an array, not a int"),
    ],
)
def test_active_refuses_what_is_not_there(generalist, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        active(generalist, classes)


def test_active_takes_arrays():
    p_g = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    assert active(p_g, [[0], np.array([1, 2])]).tolist() == [[True, False], [False, True]]


def test_combined_is_combine_of_what_each_network_says(generator):
    x, generalist, specialist = torch.randn(9, 4, generator=generator), nn.Linear(4, 5), nn.Linear(4, 3)
    found = Combined(generalist, [specialist], [[2, 0]], [3.0], top_n=2)(x)
    p_g, p_m = generalist(x).double().softmax(1), correct_dustbin(specialist(x).double(), 3.0).softmax(1)
    torch.testing.assert_close(found.exp().double(), combine(p_g, [p_m], [[2, 0]], top_n=2), rtol=1e-5, atol=1e-7)


def test_combined_asks_this_packages_networks_in_bfloat16_where_that_is_wanted(generator):
    x = torch.randn(50, 4, generator=generator)
    generalist, specialist = (MLP([4, 16, count], generator=generator) for count in (5, 3))
    together = Combined(generalist, [specialist], [[2, 0]], [3.0], top_n=2)
    exact, cast = (training.logits(together, x, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact.dtype == cast.dtype == torch.float32
    assert not torch.equal(exact, cast)
    torch.testing.assert_close(exact.exp(), cast.exp(), rtol=0.05, atol=0.01)
    torch.testing.assert_close(cast.exp().sum(1), torch.ones(50))  # Eq. 5 itself is not rounded


@pytest.mark.parametrize(
    ("specialist", "subset", "sentence"),
    [
        (nn.Linear(4, 1), [0, 1], r"specialists\[0\] returns \[1\] a case but must return \[3\]: .* dustbin's last"),
        (nn.Linear(4, 4), [0, 1], r"specialists\[0\] returns \[4\] a case but must return \[3\]"),
        (nn.Linear(4, 2), [9], r"classes\[0\] holds 9"),
        (torch.relu, [0, 1], r"specialists\[0\] must be a torch.nn.Module"),
    ],
)
def test_specialists_that_do_not_fit_their_subsets(specialist, subset, sentence):
    with pytest.raises(ValueError, match=sentence):
        Combined(nn.Linear(4, 5), [specialist], [subset], [2.0], top_n=5)(torch.zeros(3, 4))


def test_objective_by_hand():
    p_g = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64)
    p_m, classes = [torch.tensor([[0.0, 1.0]], dtype=torch.float64)], [torch.tensor([2])]
    on = torch.ones(1, 1, dtype=torch.bool)
    assert objective(q, p_g, p_m, classes, on).item() == pytest.approx(2 * math.log(2))
    assert objective(q, p_g, p_m, classes, ~on).item() == pytest.approx(math.log(2))
    assert objective(p_g, p_g, p_m, classes, on).item() == 0
    assert objective(p_g.flip(1), p_g, p_m, classes, on).item() == math.inf


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_cases_cut_short_are_told(method):
    p_g, p_m, classes = problem(0)
    with pytest.warns(RuntimeWarning, match=r"stopped after 2 iterations with \d of 8 cases"):
        q = combine(p_g, p_m, classes, top_n=6, method=method, max_iterations=2)
    torch.testing.assert_close(q.sum(1), torch.ones(8, dtype=torch.float64))


GENERALIST = torch.full((3, 4), 0.25)
SPECIALIST = torch.full((3, 3), 1 / 3)


def changed(p: torch.Tensor, row: int, values) -> torch.Tensor:
    p = p.clone()
    p[row] = torch.as_tensor(values)
    return p


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"generalist": torch.rand(4)},
            r"generalist must be probabilities \[cases, classes\], not torch.float32 \[4\]",
        ),
        ({"generalist": torch.zeros(3, 4, dtype=torch.long)}, "generalist must be probabilities .* not torch.int64"),
        ({"generalist": changed(GENERALIST, 1, math.nan)}, "generalist holds NaN in case 1"),
        ({"generalist": changed(GENERALIST, 2, [0.5, 0.6, 0, -0.1])}, "generalist has a negative entry in case 2"),
        ({"generalist": changed(GENERALIST, 1, [0.5, 0.5, 0.5, 0])}, "generalist sums to 1.5 in case 1"),
        ({"generalist": changed(GENERALIST, 1, [math.inf, 0, 0, 0])}, "generalist sums to inf in case 1"),
        ({"specialists": [SPECIALIST]}, "specialists holds 1 distributions but classes 2 lists"),
        ({"specialists": [SPECIALIST, SPECIALIST[:2]]}, r"specialists\[1\] is \[2, 3\] but must be \[3, 3\]"),
        ({"specialists": [SPECIALIST, GENERALIST]}, r"specialists\[1\] is \[3, 4\] but must be \[3, 3\]"),
        ({"specialists": [SPECIALIST, SPECIALIST[0]]}, r"specialists\[1\] is \[3\] but must be \[3, 3\]"),
        ({"specialists": [SPECIALIST, changed(SPECIALIST, 2, math.nan)]}, r"specialists\[1\] holds NaN in case 2"),
        (
            {"specialists": [changed(SPECIALIST, 0, [1, 1, -1]), SPECIALIST]},
            r"specialists\[0\] has a negative .* case 0",
        ),
        ({"specialists": [SPECIALIST, 1.002 * SPECIALIST]}, r"specialists\[1\] sums to 1.002 in case 0"),
        ({"classes": [torch.tensor([0, 1]), torch.tensor([2, 2])]}, r"classes\[1\] holds class 2 more than once"),
        ({"classes": [torch.tensor([0, 1]), torch.tensor([2, 4])]}, r"classes\[1\] holds 4, but .* are 0 to 3"),
        ({"classes": [torch.tensor([-1, 1]), torch.tensor([2, 3])]}, r"classes\[0\] holds -1, but .* are 0 to 3"),
        (
            {"classes": [torch.tensor([0, 1]), torch.tensor([], dtype=torch.long)]},
            r"classes\[1\] is \[0\]: .* at least one",
        ),
        ({"classes": [torch.tensor([0, 1]), torch.tensor([0.0, 1.0])]}, r"classes\[1\] must hold class indices"),
        ({"classes": [torch.tensor([0, 1]), torch.arange(4)]}, r"classes\[1\] holds all 4 classes, .* the dustbin"),
        ({"top_n": 0}, "top_n must lie between 1 and the 4 classes, not 0"),
        ({"top_n": 5}, "top_n must lie between 1 and the 4 classes, not 5"),
        ({"method": "newton"}, "method must be .* not 'newton'"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"tolerance": math.nan}, "tolerance must be positive"),
        ({"max_iterations": 0}, "max_iterations at least 1"),
    ],
)
def test_bad_input_is_named(arguments, message):
    good = {
        "generalist": GENERALIST,
        "specialists": [SPECIALIST, SPECIALIST],
        "classes": [torch.tensor([0, 1]), torch.tensor([1, 2])],
    }
    combine(**good)
    with pytest.raises(ValueError, match=message):
        combine(**(good | arguments))


def test_combined_takes_ranges_and_names_the_specialist_that_says_nan(generator):
    x = torch.randn(6, 4, generator=generator)
    networks, subsets = [nn.Linear(4, 3), nn.Linear(4, 3)], [range(2), torch.tensor([2, 3])]
    together = Combined(nn.Linear(4, 5), networks, subsets, [1.0, 1.0], top_n=4)
    assert together(x).isfinite().all()
    nn.init.constant_(networks[1].bias, float("nan"))
    with pytest.raises(ValueError, match=r"specialists\[1\] holds NaN in case 0"):
        together(x)
