"""The tiny corpus's windows, cut one by one, and two networks that have learnt a little of it."""

import numpy as np
import pytest
import torch
from acoustic_cases import RECIPE, chosen, network

from kdrepro import training
from kdrepro.acoustic.batches import FrameBatches
from kdrepro.speech.shards import LEFT, RIGHT


@pytest.fixture(scope="session")
def windows(tiny) -> torch.Tensor:
    """All windows of the test speakers, cut frame by frame."""
    found = []
    for utterance in tiny.test.utterances:
        (shard,) = tiny.test.shards
        for i in range(utterance["frames"]):
            rows = shard.features[utterance["row"] + i : utterance["row"] + i + LEFT + 1 + RIGHT]
            found.append(torch.from_numpy(np.array(rows)).flatten())
    return torch.stack(found)


@pytest.fixture(scope="session")
def teachers(tiny) -> list[torch.nn.Module]:
    """Two networks that have learnt a little; no test changes them."""
    found = []
    for seed in (0, 1):
        net = network(tiny.states, seed)
        training.fit(net, FrameBatches(tiny.train, chosen(tiny.train), batch_size=128), training.hard_targets, RECIPE)
        found.append(net)
    return found
