"""Chapter 7: what each system costs, in units of one generalist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdrepro.chapters.committees import Committee, SpecialistExperiment, cost, work_of

COLUMNS = {
    "images_seen": "images seen",
    "training": "work of training",
    "parameters": "parameters",
    "case": "work a case",
}


@dataclass(frozen=True)
class Cost:
    """Of one system, in units of the generalist.

    images_seen: in training, its teachers' trainings included; training: the work of that. parameters: to keep.
    case: the work of a test image. Work is counted in operations, a training step as three forward passes.
    """

    images_seen: float
    training: float
    parameters: float
    case: float


def of_ensemble(count: int) -> Cost:
    """Of so many generalists, all of which see a test image."""
    return Cost(count, count, count, count)


def of_committees(run: SpecialistExperiment, committees: Sequence[Committee], top_n: int) -> Cost:
    """Of a generalist with its specialists, the mean over committees. Raises IndexError where there is none."""
    beside = pd.DataFrame([cost(run, committee, top_n) for committee in committees]).mean()
    one = committees[0]
    specialist = work_of(run, one.specialists[0]) / work_of(run, one.generalist)
    trained = 1 + beside["images seen"]
    return Cost(trained, trained, 1 + beside["parameters"], 1 + (beside["nets a case"] - 1) * specialist)


def trained_on(before: Cost, passes: float, teacher: Cost | None = None) -> Cost:
    """Of a net of the generalist's size that goes on from it for more passes over the training images.

    before: what was trained until then, a teacher included. teacher: looks at every image of these passes.
    """
    looks = 0.0 if teacher is None else teacher.case / 3  # one forward pass, of a step's three
    return Cost(before.images_seen + passes, before.training + passes * (1 + looks), 1.0, 1.0)


def student_of(teacher: Cost, passes: float) -> Cost:
    """Of a student that goes on from its teacher's generalist for so many passes, taught on every image."""
    return trained_on(teacher, passes, teacher)


def cost_table(systems: Mapping[str, Cost], accuracy: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row a system: the mean of its accuracies over seeds in per cent, and its cost.

    accuracy: shares between 0 and 1, of each system. Raises KeyError for a system that has none.
    """
    table = pd.DataFrame({name: vars(one) for name, one in systems.items()}).T.rename(columns=COLUMNS)
    table.insert(0, "accuracy, %", [100 * np.mean(accuracy[name]) for name in table.index])
    return table
