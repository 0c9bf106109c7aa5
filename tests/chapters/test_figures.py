"""The book's figures: a net keeps its colour, whatever stands beside it."""

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from kdrepro.chapters import figures


@given(st.lists(st.sampled_from([*figures.NETS, "a", "b", "c", None]), max_size=7, unique=True))
def test_a_net_keeps_its_colour_and_others_take_what_is_free(names):
    found = dict(zip(names, figures.colours_of(names), strict=True))
    own = {name: colour for name, colour in found.items() if name in figures.NETS}
    assert all(colour == figures.NETS[name] for name, colour in own.items())
    others = [colour for name, colour in found.items() if name not in figures.NETS]
    assert len(set(others)) == len(others)
    assert not set(others) & set(own.values())


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_dots_and_curves_of_a_net_have_one_colour(ax):
    groups = {"plain": [3.0, 4.0], "distilled": [1.0, 2.0]}
    figures.seed_dots(ax, groups)
    dots = [to_hex(dots.get_facecolor()[0]) for dots in ax.collections[:2]]
    history = [[{"epoch": 1, "errors": 2.0}, {"epoch": 2, "errors": 1.0}]]
    figures.learning_curves(ax, {"distilled": history, "plain": history}, "errors")
    lines = {line.get_label(): to_hex(line.get_color()) for line in ax.lines if line.get_label() in groups}
    assert lines == dict(zip(groups, dots, strict=True)) == {name: figures.NETS[name] for name in groups}
