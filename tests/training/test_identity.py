"""What a training is made of, told apart: values, containers, code of the user's, networks."""

import copy
import sys
import types

import pytest
import torch
from torch import nn

from kdrepro.networks import MLP
from kdrepro.training import digest
from kdrepro.training.identity import form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1], 2], [[1, 2]]),
        ([1, [2, 3]], [[1, 2], 3]),
        ([(), 1], [(1,)]),
        ({"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "c": 2}}),
        ([torch.zeros(2), torch.zeros(1)], [torch.zeros(1), torch.zeros(2)]),
    ],
)
def test_nesting_is_part_of_it(one, other):
    assert digest(one) != digest(other)
    assert digest(one) == digest(copy.deepcopy(one))
    assert digest([1], [2]) != digest([1, 2])


def defined(text):
    """What a user's source text calls `objective`, as a notebook's cell defines it."""
    names = {"__name__": "__main__", "nn": nn}
    exec(text, names)
    return names["objective"]


EDITED = {  # what stands in the place of @ is edited
    "a value": "W = @\ndef objective(l, b): return W * l.sum()",
    "a list": "W = [@, 2]\ndef objective(l, b): return W[0] * l.sum()",
    "a helper": "def helper(l): return @ * l.sum()\ndef objective(l, b): return helper(l)",
    "helpers of helpers": """
def innermost(l): return @ * l.sum()
def inner(l): return innermost(l)
def outer(l): return inner(l)
def outermost(l): return outer(l)
def more(l): return outermost(l)
def objective(l, b): return more(l)""",
    "in a circle": """
def helper(l, n=0): return @ * l.sum() if n else objective(l, 1)
def objective(l, b): return helper(l, b)""",
    "in a comprehension": "def helper(z): return @ * z\ndef objective(l, b): return sum(helper(z) for z in l)",
    "a method": """
class Loss:
    def weight(self): return @
    def __call__(self, l, b): return self.weight() * l.sum()
objective = Loss()""",
    "a base class": """
class Base:
    weight = @
class Loss(Base):
    def __call__(self, l, b): return self.weight * l.sum()
objective = Loss()""",
    "an object that is called": """
class Loss:
    def __call__(self, l): return @ * l.sum()
loss = Loss()
def objective(l, b): return loss(l)""",
    "a layer's setting": """
criterion = nn.CrossEntropyLoss(label_smoothing=@ / 10)
def objective(l, b): return criterion(l, b.labels)""",
}


@pytest.mark.parametrize("text", EDITED.values(), ids=EDITED)
def test_what_a_users_function_names_is_part_of_it(text):
    one, same, other = (digest(defined(text.replace("@", number))) for number in "113")
    assert one == same != other


def test_a_function_in_another_file_of_the_users_is_part_of_it(monkeypatch):
    text, found = "import helpers\ndef objective(l, b): return helpers.helper(l)", []
    for number in "113":
        module = types.ModuleType("helpers")
        exec(f"def helper(l): return {number} * l.sum()", vars(module))
        monkeypatch.setitem(sys.modules, "helpers", module)
        found.append(digest(defined(text)))
    assert found[0] == found[1] != found[2]


def test_an_installed_function_counts_by_its_name(monkeypatch):
    """So that another version of a library makes no other training, and all of PyTorch is not read for one function."""
    text, found = "import helpers\nhelper = helpers.helper\ndef objective(l, b): return helper(l)", []
    for number in "13":
        module = types.ModuleType("helpers")
        module.__file__ = "/usr/lib/python3/dist-packages/helpers.py"
        exec(f"def helper(l): return {number} * l.sum()", vars(module))
        monkeypatch.setitem(sys.modules, "helpers", module)
        found.append(digest(defined(text)))
    assert found[0] == found[1]


class Scaled(nn.Module):
    """A setting that PyTorch does not print."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.layer = scale, nn.Linear(4, 3)

    def forward(self, x):
        return self.scale * self.layer(x)


class Otherwise(Scaled):
    def forward(self, x):
        return self.layer(self.scale * x)


def layers(between):
    return nn.Sequential(nn.Linear(4, 5), between, nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: layers(nn.ReLU()), lambda: layers(nn.Tanh())),
        (lambda: layers(nn.LeakyReLU(0.1)), lambda: layers(nn.LeakyReLU(0.2))),
        (lambda: MLP([4, 5, 3], hidden_dropout=0.5), lambda: MLP([4, 5, 3])),
        (lambda: Scaled(1.0), lambda: Scaled(2.0)),
        (lambda: Scaled(1.0), lambda: Otherwise(1.0)),
    ],
)
def test_a_networks_form_is_its_layers_and_their_settings(make, other):
    """Whatever its weights are, and the mode that it is in."""
    assert digest(form(make())) == digest(form(make().eval()))
    assert digest(form(make())) != digest(form(other()))
