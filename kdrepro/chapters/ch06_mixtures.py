"""Chapter 6: what specialists and a mixture of experts exchange in training, and their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from kdrepro.chapters.committees import ON_VALIDATION, Committee, SpecialistExperiment
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.networks import MixtureOfExperts, parameter_count
from kdrepro.training import as_inputs

FLOAT = 4  # bytes of a number that is sent


def gate_shares(run: SpecialistExperiment, mixture: Trained) -> np.ndarray:
    """The mean weight of each expert over the test images, [experts]."""
    with torch.no_grad():
        parts = [mixture.network.shares(as_inputs(images)) for images in run.data.test_images.split(1024)]
    return torch.cat(parts).mean(0).cpu().numpy()


def validation_histories(each: Sequence[Committee]) -> np.ndarray:
    """Accuracy of specialists alone on validation images of their classes, among those: [seeds, specialists, epochs].

    Of the epochs that a curve looked at.
    """
    of = [[[row[ON_VALIDATION] for row in s.history if ON_VALIDATION in row] for s in c.specialists] for c in each]
    return np.array(of)


def validation_means(committees: Mapping[str, Sequence[Committee]]) -> pd.DataFrame:
    """The means of `validation_histories` in per cent: a row an epoch, a column a way of training.

    Every way was looked at equally often.
    """
    first = next(iter(committees.values()))[0].specialists[0]
    epochs = [row["epoch"] for row in first.history if ON_VALIDATION in row]
    means = {name: 100 * validation_histories(each).mean((0, 1)) for name, each in committees.items()}
    return pd.DataFrame(means, index=pd.Index(epochs, name="epoch"))


def overfitting(means: pd.DataFrame) -> pd.DataFrame:
    """A row a way of training: the best epoch of `validation_means`, and the points lost from there to the last."""
    lost = means.max() - means.iloc[-1]
    return pd.DataFrame({"best epoch": means.idxmax(), "best, %": means.max(), "lost by the last, points": lost})


def before_training(run: SpecialistExperiment, committees: Sequence[Committee]) -> float:
    """What `validation_means` would find before the first epoch: the generalists' accuracy, in per cent."""
    right = [
        run.conditional_right(run.logits(c.generalist, "validation"), [subset], "validation").mean()
        for c in committees
        for subset in c.subsets
    ]
    return 100 * float(np.mean(right))


def validation_curves(means: pd.DataFrame, start: float) -> Figure:
    """The curves of `validation_means`, a line a way; dashed, where all of them start."""
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    for i, (name, values) in enumerate(means.items()):
        ax.plot(values.index, values, "o-", ms=4, color=COLOURS[i], label=name)
    ax.axhline(start, ls="--", color="grey", label="generalist")
    ax.set(xlabel="epoch", ylabel="validation accuracy, %")
    ax.legend(fontsize=9)
    return figure


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
