"""The variance of single cases' gradients against a loop that forms every one of them."""

import pytest
import torch
import torch.nn.functional as F

from kdrepro.chapters import ch01_dark_knowledge
from kdrepro.networks import MLP


def loop_reference(network, inputs, losses) -> float:
    rows = []
    for i in range(len(inputs)):
        parameters = list(network.parameters())
        grads = torch.autograd.grad(losses(network(inputs[i : i + 1]), i), parameters)
        rows.append(torch.cat([g.flatten() for g in grads]))
    g = torch.stack(rows)
    return ((g - g.mean(0)).square().sum(1).mean() / g.mean(0).square().sum()).item()


def test_equals_the_loop(generator):
    net = MLP([6, 5, 4, 3], generator=generator).eval()
    x, y = torch.randn(9, 6, generator=generator), torch.arange(9) % 3
    fast = ch01_dark_knowledge.relative_variance(net, x, lambda z: F.cross_entropy(z, y, reduction="none"))
    slow = loop_reference(net, x, lambda z, i: F.cross_entropy(z, y[i : i + 1]))
    assert fast == pytest.approx(slow, rel=1e-4)


def test_does_not_depend_on_the_scale_of_the_loss(generator):
    net = MLP([6, 5, 3], generator=generator).eval()
    x, v = torch.randn(9, 6, generator=generator), torch.randn(9, 3, generator=generator)
    one = ch01_dark_knowledge.relative_variance(net, x, lambda z: ch01_dark_knowledge.soft_losses(z, v, 4.0))
    scaled = ch01_dark_knowledge.relative_variance(net, x, lambda z: 16 * ch01_dark_knowledge.soft_losses(z, v, 4.0))
    assert one == pytest.approx(scaled, rel=1e-4)


def test_equal_cases_have_no_variance(generator):
    net = MLP([6, 5, 3], generator=generator).eval()
    x, v = torch.randn(1, 6, generator=generator).expand(8, 6), torch.randn(1, 3, generator=generator).expand(8, 3)
    assert ch01_dark_knowledge.relative_variance(
        net, x, lambda z: ch01_dark_knowledge.soft_losses(z, v, 2.0)
    ) == pytest.approx(0, abs=1e-5)
