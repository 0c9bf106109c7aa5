"""Stacks against their members."""

import pytest
import torch
from training_cases import network, weights

from kdrepro.networks import clip_max_norm, use_generator
from kdrepro.training.stack import Stack


@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4), (6, 5, 3, 4)])
def test_a_stack_gives_what_its_members_give(generator, widths):
    members = [network(m, widths, input_dropout=0.2, hidden_dropout=0.5) for m in range(3)]
    x = torch.randn(3, 7, 2, 3, generator=generator)
    for training_mode in (False, True):
        expected = []
        for m, member in enumerate(members):
            use_generator(member, torch.Generator().manual_seed(m))
            expected.append(member.train(training_mode)(x[m]))
        for m, member in enumerate(members):
            use_generator(member, torch.Generator().manual_seed(m))
        stack = Stack(members).train(training_mode)
        torch.testing.assert_close(stack(x), torch.stack(expected))
        stack.release()


def test_a_stacks_members_are_views_until_they_are_released():
    members = [network(m) for m in range(2)]
    before = [weights(member).clone() for member in members]
    stack = Stack(members)
    with torch.no_grad():
        for p in stack.parameters():
            p.mul_(2)
    for member, old in zip(members, before, strict=True):
        torch.testing.assert_close(weights(member), 2 * old)
    stack.release()
    with torch.no_grad():
        for p in stack.parameters():
            p.zero_()
    torch.testing.assert_close(weights(members[1]), 2 * before[1])


def test_a_stack_is_clipped_as_its_members_are():
    members, same = [[network(m, (20, 8, 6, 3)) for m in range(3)] for _ in range(2)]
    stack = Stack(members)
    stack.clip_max_norm(0.9)
    for member, other in zip(members, same, strict=True):
        clip_max_norm(other, 0.9)
        torch.testing.assert_close(weights(member), weights(other))


def test_networks_of_different_shapes_cannot_be_stacked():
    with pytest.raises(ValueError, match="one shape"):
        Stack([network(0), network(1, (64, 13, 10))])
    with pytest.raises(ValueError, match="one dropout"):
        Stack([network(0), network(1, hidden_dropout=0.5)])
