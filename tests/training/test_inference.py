"""A network's logits over many cases."""

import pytest
import torch
from training_cases import network

from kdrepro import training


def test_logits_leave_the_mode_alone(digits):
    net = network(hidden_dropout=0.5).train()
    a, b = (training.logits(net, digits.test_images, chunk) for chunk in (7, 4096))
    assert net.training
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"chunk": 0}, "chunk must be a whole number of at least 1, not 0"),
        ({"chunk": 2.5}, "chunk must be a whole number of at least 1, not 2.5"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.bfloat16, not torch.float16"),
    ],
)
def test_logits_that_cannot_be_asked_for(digits, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        training.logits(network(), digits.test_images, **options)
