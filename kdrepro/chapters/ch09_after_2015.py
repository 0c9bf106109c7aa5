"""Chapter 9: what was proposed after 2015, beside the paper's loss on the same nets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kdrepro.chapters.ch02_mnist import by_holm
from kdrepro.chapters.committees import SpecialistExperiment
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.chapters.images import ImageExperiment
from kdrepro.chapters.searches import agreement
from kdrepro.verdicts import recompute

Pairs = Mapping[str, tuple[Sequence[Trained], Sequence[Trained]]]


def some_logits(run: ImageExperiment, net: Trained, split: str) -> torch.Tensor:
    """Logits [fidelity_cases, C] of cases that lie evenly over a split: its first part may be easier than the rest."""
    logits = run.logits(net, split)
    cases = min(run.sizes.fidelity_cases, len(logits))
    return logits[torch.arange(cases, device=logits.device) * len(logits) // cases]


def divergence(run: ImageExperiment, student: Trained, teacher: Trained, split: str) -> np.ndarray:
    """KL(teacher || student) at T = 1 in nats of some cases of a split, [fidelity_cases] float32."""
    log_p, log_q = (some_logits(run, net, split).log_softmax(1) for net in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(1).cpu().numpy()


def publish_agreement(
    run: ImageExperiment, name: str, students: Sequence[Trained], teachers: Sequence[Trained], split: str = "test"
) -> np.ndarray:
    """Keep beside the record on which cases each student answers as its teacher, packed bits; returns shares [seeds].

    The cases are those of `publish_fidelity`.
    """
    same = []
    for pair in zip(students, teachers, strict=True):
        own, taught = (some_logits(run, net, split).argmax(1) for net in pair)
        same.append((own == taught).cpu().numpy())
    run.predictions[f"{name}.agrees" + (" in training" if split == "train" else "")] = np.packbits(same, axis=1)
    return np.mean(same, axis=1)


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


def distinct(pairs: Pairs) -> dict[str, tuple[Sequence[Trained], Sequence[Trained]]]:
    """The pairs without those of the very nets of an earlier one, as where two losses were found to want the same T."""
    found: dict[Any, str] = {}
    for name, pair in pairs.items():
        found.setdefault(tuple(tuple(net.key for net in nets) for nets in pair), name)
    return {name: pairs[name] for name in found.values()}


def compared(run: ImageExperiment, pairs: Pairs) -> pd.DataFrame:
    """A row a comparison: errors of the first, of the second, what the second saves, and p of all tests by Holm.

    pairs: the nets that are compared with, and those of what was proposed, one a seed each. The last column is one
    standard deviation of what is saved in the mean over seeds, over test sets of as many images as this one.
    """
    wrong = {  # boolean [seeds, cases] of each of a pair
        name: tuple(np.stack([run.wrong(net) for net in nets]) for nets in pair) for name, pair in pairs.items()
    }
    tests, rows = by_holm({name: tuple(each.sum(1) for each in pair) for name, pair in wrong.items()}), {}
    for name, pair in wrong.items():
        before, after = (each.mean(0) for each in pair)
        means = {"compared with": f"{before.sum():.1f}", "proposed": f"{after.sum():.1f}"}
        sampling = np.std(before - after) * np.sqrt(len(before))
        rows[name] = means | dict(zip(("saved [95 %]", "p, by Holm"), tests[name], strict=True))
        rows[name] |= {"± by test images": f"{sampling:.1f}"}
    return pd.DataFrame(rows).T


def fidelity_figure(divergences: Mapping[str, np.ndarray], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Test errors over the divergence from the teacher on test images, a dot a student, a colour a kind."""
    figure, ax = plt.subplots(figsize=(7.2, 4))
    for i, (name, values) in enumerate(divergences.items()):
        marker = "os^Dv"[i // len(COLOURS) % 5]
        ax.plot(values, errors[name], marker, ms=5, color=COLOURS[i % len(COLOURS)], alpha=0.8, label=name)
    ax.set(xscale="log", xlabel="KL(teacher || student) on test images, nats", ylabel="test errors")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # there may be less than a decade
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


def of_photographs(run: SpecialistExperiment) -> dict[str, list[Trained]]:
    """Smaller nets that chapter 5's generalist teaches, by method, one a seed; trains, and writes their record."""
    sizes, teachers = run.sizes, run.generalists()
    plans = {method: sizes.student.but(**change) for method, change in sizes.methods.items()}
    nets = {
        method: run.train_seeds(plan, None if plan.loss == "hard" else teachers, name=method)
        for method, plan in plans.items()
    }
    for method, each in {"generalist": teachers, **nets}.items():
        run.publish_right(method, each)
    run.predictions["cases"] = np.array(len(run.data.test_labels))
    figures = recompute.claimed("after.standardised", run.predictions)
    run.claim("after.standardised", [*teachers, *(net for each in nets.values() for net in each)], **figures)
    run.finish()
    return {"generalist": teachers, **nets}


def photographs_table(run: SpecialistExperiment, nets: Mapping[str, Sequence[Trained]]) -> pd.DataFrame:
    """A row a method: test accuracy, and the share of test images on which it answers as the generalist of its seed."""
    rows = {}
    for method, each in nets.items():
        same = [agreement(run, *pair) for pair in zip(each, nets["generalist"], strict=True)]
        right = [1 - run.errors(net) / len(run.data.test_labels) for net in each]
        rows[method] = {
            "million parameters": each[0].parameters / 1e6,
            "accuracy, %": 100 * np.mean(right),
            "answers as the generalist, %": 100 * np.mean(same),
        }
    return pd.DataFrame(rows).T
