"""How fast a convolutional net trains: `fit`, a plain loop, and the bound that is set by its convolutions alone.

The bound is the time of the same convolutions by themselves, forward and backward, each in the memory layout that is
best for it, with nothing between them: no normalisation, no activation, no optimiser. What `fit` is below it is what
all of that costs. In float32, and in bfloat16 too where the device multiplies faster so.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import flops
import torch
import torch.nn.functional as F
from torch import nn

from kdrepro import training
from kdrepro.networks import ConvNet

LAYOUTS = (torch.channels_last, torch.contiguous_format)
NET = {"channels": [32, 64, 128, 256], "blocks": [1, 1, 1, 1], "in_channels": 3, "classes": 200}  # chapter 5's
SIZES = {"net": NET, "side": 32, "batch_size": 256, "steps": 20, "repeats": 5}
QUICK = SIZES | {"net": NET | {"channels": [8, 16], "blocks": [0, 1]}, "batch_size": 16, "steps": 2, "repeats": 2}

Layer = tuple[nn.Conv2d, torch.Size]


def layers(network: nn.Module, images: torch.Tensor) -> list[Layer]:
    """The convolutions of a network, with the shape of what each of them is given for these images."""
    found: list[Layer] = []
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [
        one.register_forward_hook(lambda layer, given, _: found.append((layer, given[0].shape))) for one in convolutions
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def convolutions_alone(
    network: nn.Module, images: torch.Tensor, repeats: int, dtype: torch.dtype = torch.float32
) -> float:
    """Seconds of a step's convolutions, forward and backward, the fastest of the repeats and layouts of each."""
    total = 0.0
    for i, (layer, shape) in enumerate(layers(network, images)):
        times = []
        for layout in LAYOUTS:
            x = torch.rand(shape, device=images.device).to(dtype, memory_format=layout).requires_grad_(i > 0)
            weight = layer.weight.detach().clone().to(dtype, memory_format=layout).requires_grad_()
            given = (x, weight) if i else (weight,)  # nobody needs the gradient to the images
            for _ in range(repeats + 1):  # the first warms up
                flops.synchronize(images.device)
                start = time.perf_counter()
                y = F.conv2d(x, weight, stride=layer.stride, padding=layer.padding)
                torch.autograd.grad(y, given, torch.ones_like(y))
                flops.synchronize(images.device)
                times.append(time.perf_counter() - start)
        total += min(times)
    return total


def measure(sizes: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Of each precision, images a second of each way, every repeat; the bound from the convolutions of one step."""
    generator = torch.Generator().manual_seed(0)
    count = sizes["batch_size"] * sizes["steps"]
    shape = (count, sizes["net"]["in_channels"], sizes["side"], sizes["side"])
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
    labels = torch.randint(sizes["net"]["classes"], (count,), generator=generator).to(device)
    network = ConvNet(**sizes["net"], generator=generator).to(device)
    precisions = ["fp32", *["bf16"] * training.gains_from_bf16(device)]
    rates = {name: _rates(network, images, labels, sizes, name) for name in precisions}
    return {"net": dict(sizes["net"]), "batch_size": sizes["batch_size"], "images_per_second": rates}


def _rates(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, sizes: Mapping[str, Any], precision: str
) -> dict[str, list[float]]:
    size, dtype = sizes["batch_size"], flops.DTYPES[precision]
    ways = {
        name: make(network, images, labels, size, precision) for name, make in (("fit", _fit), ("plain loop", _loop))
    }
    rates: dict[str, list[float]] = {name: [] for name in (*ways, "convolutions alone")}
    for repeat in range(sizes["repeats"] + 1):
        for name, train in ways.items():
            flops.synchronize(images.device)
            start = time.perf_counter()
            train()
            flops.synchronize(images.device)
            if repeat:  # the first warms up
                rates[name].append(round(len(images) / (time.perf_counter() - start), 1))
        if repeat:
            took = convolutions_alone(copy.deepcopy(network), training.as_inputs(images[:size]), 3, dtype)
            rates["convolutions alone"].append(round(size / took, 1))
    return rates


def _fit(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, size: int, precision: str
) -> Callable[[], Any]:
    own, batches = copy.deepcopy(network), training.Batches(images, labels, batch_size=size)
    recipe = training.Recipe(epochs=1, batch_size=size, schedule="constant", warmup=0.0, precision=precision)
    return lambda: training.fit(own, batches, training.hard_targets, recipe)


def _loop(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, size: int, precision: str
) -> Callable[[], Any]:
    """As everyone writes it; the channels come last, as in `ConvNet`."""
    own, kind = copy.deepcopy(network).train(), images.device.type
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def train() -> None:
        for chosen in torch.randperm(len(images), device=images.device).split(size):
            optimizer.zero_grad()
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
                output = own(images[chosen].float() / 255)
            F.cross_entropy(output, labels[chosen]).backward()
            optimizer.step()

    return train


def rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """A row a way and precision: the median of its images a second with their range, and its share of the bound."""
    found = []
    for precision, rates in measured["images_per_second"].items():
        bound = statistics.median(rates["convolutions alone"])
        for name, r in rates.items():
            rate = statistics.median(r)
            found.append([name, precision, f"{rate:,.0f} [{min(r):,.0f} to {max(r):,.0f}]", f"{rate / bound:.0%}"])
    return found


def section(measured: Mapping[str, Any]) -> str:
    """What the page on speed says of it, in Markdown."""
    net = measured["net"]
    title = f"channels {'-'.join(map(str, net['channels']))}, residual blocks {'-'.join(map(str, net['blocks']))}"
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows(measured))
    return (
        f"**A convolutional net, {title}, batch {measured['batch_size']}**\n\n"
        "| way | precision | images/s: median [min to max] | of the convolutions' bound |\n|---|---|--:|--:|\n"
        f"{lines}\n\n"
        "The bound: the same convolutions by themselves, forward and backward, each in its best memory layout."
    )
