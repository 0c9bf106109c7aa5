"""Chapter 2's comparisons of nets on cases small enough to count, and its figures on a few rows."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from kdrepro.chapters import ch02_mnist


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_uncertainties():
    found = ch02_mnist.uncertainties({"teacher": [60, 70], "plain": [150]}, 10_000)
    assert found.loc["teacher", "mean errors"] == "65.0"
    assert found.loc["teacher", "SD over seeds"] == "7.1"
    assert found.loc["teacher", "SD of sampling"] == "8.0"
    assert found.loc["plain", "SD over seeds"] == "–"
    assert found.loc["plain", "95 %, mean over seeds"] == "–"


def test_image_by_image_counts_what_only_one_net_gets_wrong():
    wrong = {"a": np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool), "b": np.array([[1, 0, 1, 1], [0, 0, 0, 0]], bool)}
    found = ch02_mnist.image_by_image(wrong, [("a", "b")], [7, 8])
    assert found.loc[("a / b", 7)].tolist() == [1, 2, "1.0e+00"]
    assert found.loc[("a / b", 8)].tolist() == [0, 0, "1.0e+00"]
    with pytest.raises(ValueError, match="zip"):
        ch02_mnist.image_by_image(wrong, [("a", "b")], [7])


def test_seed_by_seed():
    found = ch02_mnist.seed_by_seed({"a": [3, 5], "b": [1, 3]}, [("a", "b")])
    assert found.loc["a − b"].tolist() == ["2.0", "2.0 to 2.0", "0.0e+00"]
    assert ch02_mnist.seed_by_seed({"a": [3], "b": [1]}, [("a", "b")]).loc["a − b"].tolist() == ["2.0", "–", "–"]


def test_usual_mistake_is_none_where_all_are_right():
    assert ch02_mnist.usual_mistake(np.array([3, 8, 8, 5], np.uint8), 3) == 8
    assert ch02_mnist.usual_mistake(np.array([3, 3], np.uint8), 3) is None


def test_with_most_takes_positive_counts_only():
    assert ch02_mnist.with_most(np.array([0, 2, -1, 5, 2]), 2).tolist() == [3, 1]
    assert ch02_mnist.with_most(np.array([0, 2, -1, 5, 2]), 9).tolist() == [3, 1, 4]
    assert ch02_mnist.with_most(np.array([0, -1]), 9).tolist() == []


def test_shared_errors_tell_a_teacher_of_ones_own_from_hard_images():
    hard = [1, 1, 1, 0, 0, 0, 0]  # for every net
    teacher = np.array([[*hard[:3], 1, 1, 0, 0], [*hard[:3], 0, 0, 1, 0], [*hard[:3], 0, 0, 0, 0]], bool)
    wrong = {"plain": np.array([hard] * 3, bool), "teacher": teacher, "distilled": teacher | np.eye(7, dtype=bool)[6]}
    found = ch02_mnist.shared_errors(wrong)
    assert found.loc["plain"].tolist() == ["3.0", "3.0", "3.0", "+0.0", "0.0 to 0.0"]
    assert found.loc["distilled"].tolist()[:4] == ["5.0", "4.0", "3.0", "+1.0"]
    alone = ch02_mnist.shared_errors({name: each[:1] for name, each in wrong.items()})
    assert alone.loc["distilled"].tolist() == ["6.0", "5.0", "–", "–", "–"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_saved_by_range(seeds):
    errors = pd.DataFrame({1.0: [30.0, 34], 3.0: [20.0, 22], 4.0: [22.0, 24], 20.0: [25.0, 26]}).head(seeds)
    found = ch02_mnist.saved_by_range(errors, 2.5, 4)
    assert list(found.index) == ["1", "20"]
    assert found["errors saved at T of 2.5 to 4"].tolist() == ([9.0, 4.0] if seeds == 1 else [10.0, 3.5])
    assert ("95 %" in found) == (seeds > 1)


def test_saved_by_a_range_that_holds_every_temperature():
    assert ch02_mnist.saved_by_range(pd.DataFrame({3.0: [20.0]}), 2.5, 4).empty


@pytest.fixture
def shifts() -> pd.DataFrame:
    rows = [(0, "none", 0.0, 9), (0, "label-free", 1.5, 4), (1, "none", 0.0, 8), (1, "label-free", 1.25, 3)]
    return pd.DataFrame(rows, columns=["seed", "how", "shift", "errors"])


def test_shifts_by_seed(shifts):
    assert ch02_mnist.of_shift(shifts, "label-free", "errors").tolist() == [4, 3]
    found = ch02_mnist.by_seed(shifts, {"shift": "shift", "errors": "test errors"})
    assert found.index.tolist() == [(a, b) for a in ("shift", "test errors") for b in ("none", "label-free")]
    assert found.loc[("shift", "label-free")].tolist() == ["1.5", "1.25"]


def test_figures_of_a_few_rows(shifts):
    net = SimpleNamespace(history=[{"epoch": 1, "errors": 30}, {"epoch": 2, "errors": 20}])
    assert len(ch02_mnist.curves_figure([{"teacher": [net]}, {"plain": [net], "distilled": [net]}]).axes) == 2
    rows = pd.DataFrame({"units": [8, 8, 4, 4], "T": [1, 20, 1, 20], "seed": 0, "errors": [9, 8, 20, 30]})
    panels = ch02_mnist.temperature_figure(rows, {8: (8, 40), 4: (2.5, 4)}).axes
    assert [ax.get_title() for ax in panels] == ["8 units a layer", "4 units a layer"]
    rows["units"] = [8, 4, 2, 1]
    places = [
        ax.get_subplotspec() for ax in ch02_mnist.temperature_figure(rows, dict.fromkeys(rows["units"], (2, 4))).axes
    ]
    assert [(at.rowspan.start, at.colspan.start) for at in places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    in_turn = pd.DataFrame({"how": ["none", "label-free"], "digit": 3, "right, %": [80.0, 95.0]})
    assert len(ch02_mnist.turn_figure(in_turn, 10).axes[0].lines) == 2


def test_shift_panel(shifts, generator):
    logits, labels = torch.randn(12, 4, generator=generator), torch.arange(12) % 4
    ax = plt.figure().subplots()
    ch02_mnist.shift_panel(ax, [logits], labels, [3], shifts, {0: 9, 3.5: 4}, printed=True)
    shift, errors = ax.lines[0].get_data()
    assert errors[np.searchsorted(shift, 0)] == (logits.argmax(1) != labels).sum()
    assert len(ax.lines) == 4  # the curve, the label-free dots, the paper's shift and its figures
