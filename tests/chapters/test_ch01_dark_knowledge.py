"""Chapter 1's numbers on cases small enough to work out, and its figures on a few rows."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from kdrepro.chapters import ch01_dark_knowledge
from kdrepro.chapters.sizes import Network, Training
from kdrepro.losses import soft_target_gradient
from kdrepro.networks import MLP
from kdrepro.training import Recipe
from kdrepro.verdicts.recompute import relative_variance


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def loop_reference(network, inputs, losses) -> float:
    rows = []
    for i in range(len(inputs)):
        parameters = list(network.parameters())
        grads = torch.autograd.grad(losses(network(inputs[i : i + 1]), i), parameters)
        rows.append(torch.cat([g.flatten() for g in grads]))
    g = torch.stack(rows)
    return ((g - g.mean(0)).square().sum(1).mean() / g.mean(0).square().sum()).item()


def relative(network, inputs, losses) -> float:
    return float(relative_variance(*ch01_dark_knowledge.case_gradients(network, inputs, losses)))


def test_equals_the_loop(generator):
    net = MLP([6, 5, 4, 3], generator=generator).eval()
    x, y = torch.randn(9, 6, generator=generator), torch.arange(9) % 3
    fast = relative(net, x, lambda z: F.cross_entropy(z, y, reduction="none"))
    slow = loop_reference(net, x, lambda z, i: F.cross_entropy(z, y[i : i + 1]))
    assert fast == pytest.approx(slow, rel=1e-4)


def test_does_not_depend_on_the_scale_of_the_loss(generator):
    net = MLP([6, 5, 3], generator=generator).eval()
    x, v = torch.randn(9, 6, generator=generator), torch.randn(9, 3, generator=generator)
    one = relative(net, x, lambda z: ch01_dark_knowledge.soft_losses(z, v, 4.0))
    scaled = relative(net, x, lambda z: 16 * ch01_dark_knowledge.soft_losses(z, v, 4.0))
    assert one == pytest.approx(scaled, rel=1e-4)


def test_equal_cases_have_no_variance(generator):
    net = MLP([6, 5, 3], generator=generator).eval()
    x, v = torch.randn(1, 6, generator=generator).expand(8, 6), torch.randn(1, 3, generator=generator).expand(8, 3)
    assert relative(net, x, lambda z: ch01_dark_knowledge.soft_losses(z, v, 2.0)) == pytest.approx(0, abs=1e-5)


def test_variance_ratio_is_of_soft_over_hard_targets(generator):
    net = MLP([6, 5, 3], generator=generator).eval()
    x, y, v = torch.randn(9, 6, generator=generator), torch.arange(9) % 3, torch.randn(9, 3, generator=generator)
    hard = relative(net, x, lambda z: F.cross_entropy(z, y, reduction="none"))
    soft = relative(net, x, lambda z: ch01_dark_knowledge.soft_losses(z, v, 4.0))
    gradients = ch01_dark_knowledge.gradients_of_targets(net, x, y, v, [1.0, 4.0])
    assert ch01_dark_knowledge.variance_ratio(gradients[4.0]) == pytest.approx(soft / hard)


def test_by_odds_orders_the_images_that_are_classified_as_the_digit():
    logits = torch.tensor([[9.0, 1, 2], [9.0, 2, 1], [9.0, 5, 1], [0.0, 9, 1], [9.0, 9.5, 0]])
    labels = torch.tensor([0, 0, 0, 1, 0])  # the last is taken for a 1
    found = ch01_dark_knowledge.by_odds(logits.log_softmax(1), labels, 0, first=1, second=2)
    assert found.tolist() == [2, 1, 0]


def test_by_odds_takes_all_images_of_a_digit_that_is_never_recognised():
    logits = torch.tensor([[0.0, 9, 1], [0.0, 9, 7]])
    found = ch01_dark_knowledge.by_odds(logits.log_softmax(1), torch.tensor([0, 0]), 0, first=1, second=2)
    assert found.tolist() == [0, 1]


def test_against_limit_is_reached_at_high_temperature(generator):
    z, v = (torch.randn(7, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    difference = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    angle, ratio = ch01_dark_knowledge.against_limit(soft_target_gradient(z, v, 1e3), difference, 1e3)
    assert angle == pytest.approx(0, abs=0.1)
    assert ratio == pytest.approx(1, abs=1e-2)


def test_against_limit_of_opposite_directions():
    gradient, difference = torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 0.0]])
    assert ch01_dark_knowledge.against_limit(gradient, difference, 1.0) == pytest.approx((180.0, 1.0))


@pytest.mark.parametrize("seeds", [1, 2])
def test_rate_ratios(seeds):
    curves = {"hard targets": [10, 10, 40], "soft targets": [10, 10, 10]}
    rows = [
        {"seed": seed, "targets": kind, "rate": rate, "errors": e}
        for seed in range(seeds)
        for kind, errors in curves.items()
        for rate, e in zip([0.001, 0.01, 0.1], errors, strict=True)
    ]
    found = ch01_dark_knowledge.rate_ratios(pd.DataFrame(rows), [2])
    assert found.loc[2, "ratio"] == pytest.approx(10**0.5, abs=0.01)
    assert found.loc[2, "95 % over seeds"] == ("–" if seeds == 1 else "3.16 to 3.16")


def test_figures_of_a_few_rows():
    temperatures = [1.0, 10.0, 100.0]
    logits = torch.tensor([[3.0, 1, 0, 2, -1], [0.0, 1, 0, 2, -1]])
    left, right = ch01_dark_knowledge.softening_figure(logits[0], [logits], temperatures).axes
    assert len(left.lines) == 5
    assert len(right.lines) == 2
    left, right = ch01_dark_knowledge.t2_figure(temperatures, [[1, 0.5, 0.005]] * 2, [0.1, 0.2]).axes
    assert (len(left.lines), len(right.lines)) == (3, 4)
    assert 1e-4 < left.get_ylim()[0] < 0.005  # near the smallest norm, on a logarithmic axis
    limit = pd.DataFrame({"seed": 0, "T": temperatures, "logits": "zero-mean", "angle": [60, 9, 1], "ratio": 1.0})
    assert len(ch01_dark_knowledge.limit_figure(limit).axes) == 2


def test_figures_of_networks():
    plan = Training(network=Network(hidden=[8, 8]), recipe=Recipe(epochs=1))
    rows = pd.DataFrame({"student": "narrow", "seed": 0, "T": [1.0, 4.0, np.inf], "errors": [30, 20, 25]})
    (panel,) = ch01_dark_knowledge.matching_figure(rows, {"narrow": plan}).axes
    assert panel.get_title() == "narrow: 8 – 8 units"
    net = SimpleNamespace(history=[{"epoch": 1, "errors": 30}, {"epoch": 2, "errors": 20}])
    less = pd.DataFrame({"share": [0.1, 1.0], "targets": "hard targets", "net": [net, net]})
    curves = ch01_dark_knowledge.data_curves_figure(less, [0.1, 1.0])
    assert [ax.get_legend() for ax in curves.axes] == [None, None]
    assert [text.get_text() for text in curves.legends[0].get_texts()] == ["hard targets"]
