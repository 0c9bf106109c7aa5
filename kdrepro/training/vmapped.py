"""Many networks of any one kind as one, by `torch.func`: what can be stacked so, and whether it is faster."""

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import nn
from torch.func import functional_call, vmap

from kdrepro.checks import logits_of, wide
from kdrepro.networks import Dropout
from kdrepro.training.batches import Batches
from kdrepro.training.inference import as_inputs, input_dtype
from kdrepro.training.stack import SideBySide
from kdrepro.training.state import TrainingState

TRIED = 3  # timed gradients, after one that is not
CLOSE = 1e-3  # of the largest logit, between a member alone and among others


class Vmapped(SideBySide):
    """M networks of one kind, side by side: inputs [M, B, ...] to logits [M, B, C], at least float32.

    As `stack.Stack`, but of any modules that `check` lets pass. bf16: whether products are in bfloat16, by autocast.
    """

    def __init__(self, members: Sequence[nn.Module], bf16: bool = False):
        super().__init__(members)
        self.names = [name for name, _ in members[0].named_parameters()]
        buffers = zip(*(member.named_buffers() for member in members), strict=True)
        self.constants = {each[0][0]: torch.stack([b for _, b in each]) for each in buffers}
        self.form = (copy.deepcopy(members[0]),)  # in a tuple: its parameters are not this module's
        self.bf16 = bf16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs [M, B, ...] to logits [M, B, C]."""
        form = self.form[0].train(self.training)

        def one(parameters: dict, constants: dict, inputs: torch.Tensor) -> torch.Tensor:
            output = functional_call(form, (parameters, constants), (inputs,))
            return wide(logits_of(output, form, len(inputs)))

        with torch.autocast(x.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            return vmap(one)(dict(zip(self.names, self.stacked, strict=True)), self.constants, x)


def check(training: TrainingState) -> None:
    """Raises ValueError, with what to do, for a network that would not train among others as it does alone."""
    name = type(training.network).__name__
    if not isinstance(training.batches, Batches):  # whose inputs a step is tried on
        raise ValueError(f"stack=True needs training.Batches, not a {type(training.batches).__name__}.")
    if training.recipe.averaging:
        raise ValueError("A recipe with averaging trains networks one at a time: set it to 0, or leave stack=True out.")
    for module in training.network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{name} has batch normalisation, whose running statistics cannot be kept for many networks at once: "
                "use nn.GroupNorm in its place, or leave stack=True out."
            )
        if getattr(module, "p", 0) and isinstance(module, nn.modules.dropout._DropoutNd):
            raise _random(name)
        if isinstance(module, Dropout) and module.dropped:
            raise _random(name)
    if training.frozen or not all(p.requires_grad for p in training.network.parameters()):
        raise ValueError(f"{name} has frozen layers, which only train alone: leave stack=True out.")
    if any(p.dtype != torch.float32 for p in training.network.parameters()):
        raise ValueError(f"{name} has weights that are not float32, and trains alone: leave stack=True out.")


def _random(name: str) -> ValueError:
    return ValueError(
        f"{name} has dropout, whose masks would not be those of a network alone: set it to 0, or leave stack=True out "
        "(MLPs of kdrepro.networks train together with theirs)."
    )


def pays(group: Sequence[TrainingState]) -> bool:
    """Whether the gradients of these networks take less time together, tried on copies; warns where they do not.

    Raises ValueError where members that look alike compute different things.
    """
    size = group[0].batches.batch_size
    inputs = [as_inputs(t.batches.inputs[:size], input_dtype(t.network, torch.float32)) for t in group]
    copies, bf16 = [copy.deepcopy(training.network).train() for training in group], group[0].dtype == torch.bfloat16
    device = group[0].device

    def alone() -> list[torch.Tensor]:
        found = []
        for network, x in zip(copies, inputs, strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                found.append(wide(logits_of(network(x), network, len(x))))
            found[-1].logsumexp(1).sum().backward()
        return found

    apart, outputs = _timed(alone, device)
    stack, x = Vmapped(copies, bf16).train(), torch.stack(inputs)

    def together() -> list[torch.Tensor]:
        found = stack(x)
        found.logsumexp(2).sum().backward()
        return list(found)

    joint, found = _timed(together, device)
    for m, (a, b) in enumerate(zip(outputs, found, strict=True)):
        if not bf16 and (a - b).abs().max() > CLOSE * max(1.0, float(a.abs().max())):
            raise ValueError(
                f"Network {m} computes something else than network 0, though their layers are alike: leave stack=True "
                "out, or keep what differs in parameters or buffers."
            )
    if joint >= apart:
        warnings.warn(
            f"{len(group)} × {type(group[0].network).__name__} take {1000 * joint:.1f} ms a step together and "
            f"{1000 * apart:.1f} one after the other, so they train one after the other.",
            stacklevel=2,
        )
    return joint < apart


def _timed(work: Callable[[], list[torch.Tensor]], device: torch.device) -> tuple[float, list[torch.Tensor]]:
    """The least seconds of a few calls, and what the last one gives."""
    took = []
    for _ in range(1 + TRIED):
        began = time.perf_counter()
        found = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return min(took[1:]), [one.detach() for one in found]
