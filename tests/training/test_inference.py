"""A network's logits over many cases."""

import torch
from training_cases import network

from kdrepro import training


def test_logits_leave_the_mode_alone(digits):
    net = network(hidden_dropout=0.5).train()
    a, b = (training.logits(net, digits.test_images, chunk) for chunk in (7, 4096))
    assert net.training
    torch.testing.assert_close(a, b)
