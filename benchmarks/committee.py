"""Images a second of a student of a generalist with specialists: asked about several steps together, and step by step.

    python benchmarks/committee.py             # minutes; prints a table, writes nothing
    python benchmarks/committee.py --quick     # seconds, small nets

The images are printed characters; the generalist learns them for an epoch, so that its guesses are many, and its
specialists are copies of it on random subsets. One thread, in the precision that `fit` chooses.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdrepro import data, specialists, training
from kdrepro.data.images import ImageData
from kdrepro.networks import ConvNet
from kdrepro.training import lanes

SIZES = {"classes": 200, "per_class": 24, "size": 32, "channels": (32, 64, 128, 256), "blocks": (1, 1, 1, 1)}
SIZES |= {"specialists": 61, "special_classes": 20, "batch_size": 256, "repeats": 3}
QUICK = SIZES | {"classes": 30, "size": 16, "channels": (8, 16), "blocks": (0, 0), "specialists": 6, "repeats": 2}
QUICK |= {"special_classes": 5, "batch_size": 64}
STEP_BY_STEP, TOGETHER = "step by step", "several steps together"


def recipe(sizes: Mapping[str, Any]) -> training.Recipe:
    """One epoch."""
    return training.Recipe(epochs=1, batch_size=sizes["batch_size"], learning_rate=3e-3)


def generalist(sizes: Mapping[str, Any], images: ImageData) -> ConvNet:
    """A net that has seen each image once."""
    layers = {"blocks": list(sizes["blocks"]), "in_channels": 1, "classes": images.classes}
    network = ConvNet(list(sizes["channels"]), **layers, generator=torch.Generator().manual_seed(0))
    batches = training.Batches(images.train_images, images.train_labels, batch_size=sizes["batch_size"])
    training.fit(network, batches, training.hard_targets, recipe(sizes), seed=0)
    return network.eval()


def committee(sizes: Mapping[str, Any], network: ConvNet, classes: int) -> specialists.Combined:
    """The generalist with untrained specialists."""
    drawn = torch.Generator().manual_seed(1)
    subsets = specialists.random_subsets(sizes["specialists"], sizes["special_classes"], classes, generator=drawn)
    nets = [copy.deepcopy(network) for _ in subsets]
    for net, subset in zip(nets, subsets, strict=True):
        net.output = specialists.with_dustbin(network.output, subset)
    return specialists.Combined(network, nets, subsets, [1.0] * len(nets)).eval()


def measure(sizes: Mapping[str, Any]) -> dict[str, float]:
    """Images a second of each arm, the median of the repeats in turn."""
    options = {"validation_per_class": 0, "test_per_class": 1, "size": sizes["size"]}
    images = data.glyphs(sizes["classes"], per_class=sizes["per_class"], **options)
    with lanes.threads(1):
        network = generalist(sizes, images)
        teacher = committee(sizes, network, images.classes)
        at_once = {STEP_BY_STEP: 1, TOGETHER: teacher.cases_at_once}
        rates: dict[str, list[float]] = {name: [] for name in at_once}
        for _ in range(sizes["repeats"]):
            for name, cases in at_once.items():
                teacher.cases_at_once = cases
                rates[name].append(_rate(sizes, copy.deepcopy(network), images, teacher))
    return {name: statistics.median(each) for name, each in rates.items()}


def _rate(sizes: Mapping[str, Any], student: nn.Module, images: ImageData, teacher: nn.Module) -> float:
    of = {"batch_size": sizes["batch_size"], "jitter": 2, "teacher": teacher}
    batches = training.Batches(images.train_images, images.train_labels, **of)
    began = time.perf_counter()
    training.fit(student, batches, training.soft_targets(1.0, 0.5), recipe(sizes), seed=0)
    return batches.cases / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds, on small nets")
    sizes = QUICK if parser.parse_args().quick else SIZES
    found = measure(sizes)
    print(f"{sizes['specialists']} specialists, batches of {sizes['batch_size']}, one thread")
    for name, rate in found.items():
        print(f"{name:24} {rate:>8,.0f} images/s, {rate / found[STEP_BY_STEP]:.2f} times step by step")


if __name__ == "__main__":
    main()
