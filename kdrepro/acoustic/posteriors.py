"""An acoustic model's log-probabilities over a split, and its accuracy."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from kdrepro.acoustic.frames import Frames, cut_windows
from kdrepro.training import as_inputs


def log_probabilities(networks, split: Frames, which: torch.Tensor | None, how: str, device) -> Iterator[torch.Tensor]:
    """The networks' mean log-probabilities over some frames of a split, in order, in chunks."""
    for inputs in split.windows(device, which=which):
        yield mean_log_probabilities(networks, inputs, how)


def by_utterance(
    networks: Sequence[nn.Module], split: Frames, how: str = "arithmetic", device: torch.device | str = "cpu"
) -> Iterator[tuple[list[dict[str, Any]], list[torch.Tensor]]]:
    """A split's utterances and their log-probabilities float32 [frames, C], a shard at a time.

    networks: one, or an ensemble that is averaged as `how` says.
    """
    done = 0
    for i, shard in enumerate(split.shards):
        features, rows = split.read([i], device)
        found = torch.cat(
            [mean_log_probabilities(networks, cut_windows(features, part), how) for part in rows.split(8192)]
        )
        utterances = split.utterances[done : done + len(shard.utterances)]
        done += len(utterances)
        yield utterances, list(found.split([utterance["frames"] for utterance in utterances]))


def accuracy(network: nn.Module, split: Frames, which: torch.Tensor, device: torch.device | str = "cpu") -> float:
    """Share of these frames (ascending) whose most probable state is the right one."""
    found = [p.argmax(1).cpu() for p in log_probabilities([network], split, which, "arithmetic", device)]
    return (torch.cat(found) == split.targets[which]).float().mean().item()


@torch.no_grad()
def mean_log_probabilities(
    networks: Sequence[nn.Module], inputs: torch.Tensor, how: str = "arithmetic"
) -> torch.Tensor:
    """Log of the mean of the networks' distributions at T = 1 (see `ensembles.average`), a network at a time.

    inputs: [n, 1040]. Returns float32 [n, C]. Raises ValueError when `how` is neither "arithmetic" nor "geometric".
    """
    if how not in ("arithmetic", "geometric"):
        raise ValueError(f'how must be "arithmetic" or "geometric", not {how!r}.')
    x = as_inputs(inputs)
    total = None
    for network in networks:
        found = network(x).float().log_softmax(1)
        found = found.exp_() if how == "arithmetic" else found
        total = found if total is None else total.add_(found)
    total.div_(len(networks))
    # A state that every member gives less than float32 can tell from 0 stays a finite logit.
    return total.clamp_(min=torch.finfo(total.dtype).tiny).log_() if how == "arithmetic" else total.log_softmax(1)
