"""Chapter 6: what specialists and a mixture of experts exchange in training, and their curves."""

import copy
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdrepro import specialists
from kdrepro.chapters.committees import ON_HALVES, ON_VALIDATION, Committee, SpecialistExperiment
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.training import as_inputs
from kdrepro.training.exchange import Exchange, Job, count_exchange
from kdrepro.verdicts import recompute


def gate_shares(run: SpecialistExperiment, mixture: Trained) -> np.ndarray:
    """The mean weight of each expert over the test images, [experts]."""
    with torch.no_grad():
        parts = [mixture.network.shares(as_inputs(images)) for images in run.data.test_images.split(1024)]
    return torch.cat(parts).mean(0).cpu().numpy()


def validation_histories(each: Sequence[Committee], names: Sequence[str] = (ON_VALIDATION,)) -> np.ndarray:
    """Accuracy of specialists alone on validation images of their classes, among those.

    names: ON_VALIDATION for all of these images, ON_HALVES for each half. Returns [seeds, specialists, epochs, names],
    of the epochs that a curve looked at.
    """
    seen = [[[row for row in s.history if ON_VALIDATION in row] for s in c.specialists] for c in each]
    return np.array([[[[row[name] for name in names] for row in rows] for rows in one] for one in seen])


def validation_halves(each: Sequence[Committee]) -> np.ndarray:
    """`validation_histories` of each half of the images, [seeds, specialists, epochs, 2]: `overfit` is read off it."""
    return validation_histories(each, ON_HALVES)


def validation_means(committees: Mapping[str, Sequence[Committee]]) -> pd.DataFrame:
    """The means of `validation_histories` in per cent: a row an epoch, a column a way of training.

    Every way was looked at equally often.
    """
    first = next(iter(committees.values()))[0].specialists[0]
    epochs = [row["epoch"] for row in first.history if ON_VALIDATION in row]
    means = {name: 100 * validation_histories(each)[..., 0].mean((0, 1)) for name, each in committees.items()}
    return pd.DataFrame(means, index=pd.Index(epochs, name="epoch"))


def overfitting(committees: Mapping[str, Sequence[Committee]]) -> pd.DataFrame:
    """A row a way of training: the best epoch of `validation_means`, and the points lost from the best to the last.

    What is lost is measured on images that did not choose the best epoch (`recompute.overfit`), and may be below zero.
    """
    means = validation_means(committees)
    lost = {name: 100 * recompute.overfit(validation_halves(each)).mean() for name, each in committees.items()}
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
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9)  # the curves leave no room inside
    return figure


def exchange(run: SpecialistExperiment, mixture: Trained, committee: Committee, steps: int) -> dict[str, Exchange]:
    """What two processes exchange in so many steps of each network: of a mixture, and of specialists with a dustbin.

    The mixture trains data-parallel, half of each batch on each process; the specialists are shared out. Copies train:
    the networks stay as they are.
    """
    data, generator = run.data, torch.Generator().manual_seed(mixture.seed)

    def cases(labels: torch.Tensor, which: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        which = which[: steps * size].cpu()
        return as_inputs(data.train_images[which].cpu()), labels.cpu()[which]

    size = mixture.plan.recipe.batch_size
    together = cases(
        data.train_labels, torch.randint(len(data.train_labels), (steps * size,), generator=generator), size
    )
    apart = []
    for one, subset in zip(committee.specialists, committee.subsets, strict=True):
        drawn = specialists.HalfSpecial(data.train_labels.cpu(), subset.cpu()).draw(generator)
        labels = specialists.specialist_labels(data.train_labels, subset, data.classes)
        drawn = drawn[torch.randint(len(drawn), (steps * one.plan.recipe.batch_size,), generator=generator)]
        apart.append(cases(labels, drawn, one.plan.recipe.batch_size))
    nets = [copy.deepcopy(one.network).cpu() for one in committee.specialists]
    return count_exchange(
        {
            "specialists": Job(nets, apart, committee.specialists[0].plan.recipe.batch_size, together=False),
            "mixture of experts": Job([copy.deepcopy(mixture.network).cpu()], [together], size, together=True),
        }
    )
