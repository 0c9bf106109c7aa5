"""Chapter 6: what specialists and a mixture of experts exchange in training, and their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from kdrepro.chapters.committees import ON_VALIDATION, Committee, SpecialistExperiment
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.networks import MixtureOfExperts, parameter_count
from kdrepro.training import as_inputs


def gate_shares(run: SpecialistExperiment, mixture: Trained) -> np.ndarray:
    """The mean weight of each expert over the test images, [experts]."""
    with torch.no_grad():
        parts = [mixture.network.shares(as_inputs(images)) for images in run.data.test_images.split(1024)]
    return torch.cat(parts).mean(0).cpu().numpy()


def validation_curves(run: SpecialistExperiment, committees: Mapping[str, Sequence[Committee]]) -> Figure:
    """Conditional accuracy of specialists alone on validation images over the epochs, a line a kind, means over all."""
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    for i, (name, each) in enumerate(committees.items()):
        histories = [s.history for committee in each for s in committee.specialists]
        rows = [[row for row in history if ON_VALIDATION in row] for history in histories]
        means = np.mean([[row[ON_VALIDATION] for row in history] for history in rows], axis=0)
        ax.plot([row["epoch"] for row in rows[0]], 100 * means, "o-", ms=4, color=COLOURS[i], label=name)
    start = [
        run.conditional_right(run.logits(c.generalist, "validation").softmax(1), [subset], "validation").mean()
        for c in next(iter(committees.values()))
        for subset in c.subsets
    ]
    ax.axhline(100 * np.mean(start), ls="--", color="grey", label="generalist")
    ax.set(xlabel="epoch", ylabel="validation accuracy, %")
    ax.legend(fontsize=9)
    return figure


FLOAT = 4  # bytes of a number that is sent


@dataclass(frozen=True)
class Exchange:
    """What machines that each train one network must tell each other.

    synchronisations: moments at which all wait for all. bytes_sent: in all, by all machines together.
    """

    synchronisations: int
    bytes_sent: int


def exchange_of_mixture(mixture: MixtureOfExperts, steps: int, batch_size: int) -> Exchange:
    """Of a mixture with every expert, and the gate, on a machine of its own, over a whole training.

    In a step the likelihood of a case needs every expert's probability of its class, and every expert and the gate need
    the gradient with respect to what they sent: each of B cases sends a number from each expert, E from the gate, and
    as many come back. That is the least that can be sent; two waits a step, for the sum and for the gradients.
    """
    experts = len(mixture.experts)
    a_step = 2 * batch_size * (experts + experts) * FLOAT
    return Exchange(2 * steps, a_step * steps)


def exchange_of_specialists(generalist: nn.Module, specialists: int, classes_per_specialist: int) -> Exchange:
    """Of specialists with a machine each: before they begin, the generalist's weights and their lists of classes.

    While they train they exchange nothing and wait for nobody.
    """
    return Exchange(0, specialists * FLOAT * (parameter_count(generalist) + classes_per_specialist))
