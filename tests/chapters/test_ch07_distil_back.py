"""Chapter 7: what systems cost, counted by hand."""

import numpy as np
import pytest

from kdrepro.chapters import ch07_distil_back
from kdrepro.chapters.ch07_distil_back import Cost, of_committees, of_ensemble, student_of, trained_on
from kdrepro.chapters.committees import cost, work_of

GENERALIST = Cost(1, 1, 1, 1)


def test_a_committee_costs_its_specialists_too(committee_run, committee_of_four):
    found = of_committees(committee_run, [committee_of_four, committee_of_four], top_n=1)
    beside = cost(committee_run, committee_of_four, 1)
    ratio = work_of(committee_run, committee_of_four.specialists[0]) / work_of(
        committee_run, committee_of_four.generalist
    )
    assert found.images_seen == found.training == pytest.approx(1 + 4 * 6 / 8 * 2 / 4)
    assert found.parameters == pytest.approx(1 + beside["parameters"])
    assert found.case == pytest.approx(1 + (beside["nets a case"] - 1) * ratio)


def test_a_teacher_looks_at_every_image_of_its_student():
    assert trained_on(GENERALIST, 0.5) == Cost(1.5, 1.5, 1, 1)
    assert of_ensemble(1) == GENERALIST
    # Self-distillation: a forward pass more beside the three of a step.
    assert vars(student_of(GENERALIST, 0.5)) == pytest.approx(vars(Cost(1.5, 1 + 0.5 * 4 / 3, 1, 1)))
    assert vars(student_of(of_ensemble(2), 0.5)) == pytest.approx(vars(Cost(2.5, 2 + 0.5 * 5 / 3, 1, 1)))


def test_the_table_has_a_row_a_system():
    systems = {"generalist": GENERALIST, "two": of_ensemble(2)}
    table = ch07_distil_back.cost_table(systems, {"two": np.array([0.5, 0.7]), "generalist": np.array([0.4, 0.4])})
    assert table.loc["two"].tolist() == pytest.approx([60, 2, 2, 2, 2])
    assert table.loc["generalist", "accuracy, %"] == pytest.approx(40)
    with pytest.raises(KeyError, match="two"):
        ch07_distil_back.cost_table(systems, {"generalist": np.array([0.4])})
