"""Chapter 9: what was proposed after 2015, beside the paper's loss on the same nets."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from kdrepro.chapters.ch02_mnist import by_holm
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.chapters.images import ImageExperiment
from kdrepro.chapters.sizes import Training

Pairs = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def divergence(run: ImageExperiment, student: Trained, teacher: Trained, split: str) -> np.ndarray:
    """KL(teacher || student) at T = 1 in nats of the first cases of a split, [fidelity_cases] float32."""
    log_p, log_q = (run.logits(net, split)[: run.sizes.fidelity_cases].log_softmax(1) for net in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(1).cpu().numpy()


def publish_fidelity(
    run: ImageExperiment, name: str, students: Sequence[Trained], teachers: Sequence[Trained], split: str = "test"
) -> np.ndarray:
    """Keep beside the record each student's divergence from its teacher, [seeds, cases]; returns the means [seeds]."""
    each = np.stack([divergence(run, *pair, split) for pair in zip(students, teachers, strict=True)])
    run.predictions[f"{name}.divergence" + (" in training" if split == "train" else "")] = each
    return each.mean(1)


def ensembles_of(teachers: Sequence[Trained], members: int) -> list[list[Trained]]:
    """For each seed, its own teacher and those of the next seeds, as many as there are up to `members`."""
    count = len(teachers)
    return [[teachers[(i + k) % count] for k in range(min(members, count))] for i in range(count)]


def compared(pairs: Pairs) -> pd.DataFrame:
    """A row a comparison: errors of the first, of the second, what the second saves, and p of all tests by Holm.

    pairs: errors by seed of what is compared with, and of what was proposed.
    """
    tests, rows = by_holm(pairs), {}
    for name, (before, after) in pairs.items():
        saved, p = tests[name]
        means = {"compared with": f"{np.mean(before):.1f}", "proposed": f"{np.mean(after):.1f}"}
        rows[name] = means | {"saved [95 %]": saved, "p, by Holm": p}
    return pd.DataFrame(rows).T


def fidelity_figure(divergences: Mapping[str, np.ndarray], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Test errors over the divergence from the teacher on test images, a dot a student, a colour a kind."""
    figure, ax = plt.subplots(figsize=(7.2, 4))
    for i, (name, values) in enumerate(divergences.items()):
        marker = "os^Dv"[i // len(COLOURS) % 5]
        ax.plot(values, errors[name], marker, ms=5, color=COLOURS[i % len(COLOURS)], alpha=0.8, label=name)
    ax.set(xscale="log", xlabel="KL(teacher || student) on test images, nats", ylabel="test errors")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


def wide(plan: Training, epochs: int) -> Training:
    """Chapter 2's distilled net for this chapter's number of epochs, with no learning curve."""
    return plan.but(epochs=epochs, curve=0)
