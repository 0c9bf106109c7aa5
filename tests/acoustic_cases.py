"""Acoustic models and shares of frames that are small enough for tests."""

import torch

from kdrepro.acoustic import frames
from kdrepro.networks import MLP
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.training import Recipe

INPUTS = frames.WINDOW_FRAMES * COEFFICIENTS
RECIPE = Recipe(epochs=3, batch_size=128, learning_rate=3e-3, precision="fp32")


def network(states, seed=0, **dropout):
    return MLP([INPUTS, 12, len(states)], generator=torch.Generator().manual_seed(seed), **dropout).eval()


def chosen(split, every=3):
    return torch.arange(0, len(split), every)
