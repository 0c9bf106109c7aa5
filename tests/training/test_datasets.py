"""Cases out of arrays, datasets, subsets and loaders: the same training as from the tensors themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from training_cases import network, weights

from kdrepro import training
from kdrepro.training import Batches, Recipe, datasets

pytestmark = pytest.mark.on_cpu  # where what comes of other libraries is; a user moves it from there
X, Y = torch.linspace(0, 1, 40 * 64).view(40, 64), torch.arange(40) % 10


class Items(Dataset):
    """Items as a function makes them of a case's number; no IndexError at its end."""

    def __init__(self, item, count=40):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.item(i)


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


class Listed:
    """What is no Dataset but has its two methods."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return X[i].numpy(), int(Y[i])


SOURCES = {
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "a mixture": lambda: (X, Y.numpy()),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "TensorDataset": lambda: (TensorDataset(X, Y),),
    "TensorDataset without labels": lambda: (TensorDataset(X), Y),
    "Subset": lambda: (Subset(TensorDataset(X.repeat(2, 1), Y.repeat(2)), range(40)),),
    "Dataset": lambda: (Items(lambda i: (X[i], int(Y[i]))),),
    "Dataset of arrays": lambda: (Items(lambda i: (X[i].numpy(), np.int64(Y[i]))),),
    "Dataset of inputs": lambda: (Items(lambda i: X[i]), Y),
    "Subset of a Dataset": lambda: (Subset(Items(lambda i: (X[i % 40], Y[i % 40]), 80), list(range(40, 80))),),
    "IterableDataset": lambda: (Stream(),),
    "DataLoader": lambda: (DataLoader(TensorDataset(X, Y), batch_size=7),),
    "something like a Dataset": lambda: (Listed(),),
    "pairs": lambda: ([(X[i], int(Y[i])) for i in range(40)],),
    "pairs of arrays": lambda: ([(X[i].numpy(), np.int64(Y[i])) for i in range(40)],),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_trains_the_same_network(source):
    recipe = Recipe(epochs=1, precision="fp32")
    found, expected = network(), network()
    training.fit(found, Batches(*source(), batch_size=20), training.hard_targets, recipe)
    training.fit(expected, Batches(X, Y, batch_size=20), training.hard_targets, recipe)
    assert torch.equal(weights(found), weights(expected))


@pytest.mark.parametrize("source", [SOURCES[name] for name in ("arrays", "Subset", "DataLoader", "Dataset of inputs")])
def test_every_source_is_asked_for_the_same_logits(source):
    net = network()
    assert torch.equal(training.logits(net, source()[0]), training.logits(net, X))


def test_a_loader_keeps_its_batch_size_unless_another_is_given():
    loader = DataLoader(TensorDataset(X, Y), batch_size=7)
    assert Batches(loader).batch_size == 7
    assert Batches(loader, batch_size=5).batch_size == 5
    assert Batches(X, Y).batch_size == 256


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_has_at_least_one_case(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        Batches(X, Y, batch_size=batch_size)


def test_a_loader_that_leaves_cases_out_is_refused():
    with pytest.raises(ValueError, match="whose 5 batches leave out some of its dataset's 40 cases"):
        Batches(DataLoader(TensorDataset(X, Y), batch_size=7, drop_last=True))
    assert Batches(DataLoader(TensorDataset(X, Y), batch_size=8, drop_last=True)).cases == 40


def test_a_tensors_memory_is_shared_not_copied():
    assert Batches(TensorDataset(X, Y)).inputs.data_ptr() == X.data_ptr()
    array = X.numpy()
    assert Batches(array).inputs.data_ptr() == array.__array_interface__["data"][0]


def test_reading_a_large_dataset_is_said_with_its_memory():
    large = Items(lambda i: (torch.zeros(30_000), 0))
    with pytest.warns(UserWarning, match=r"inputs: 40 cases were read once and stay in memory \(5 MB\)"):
        Batches(large)


def test_more_than_memory_holds_is_refused_before_it_is_read():
    huge = Items(lambda i: (torch.zeros(100), 0), count=10**13)
    with pytest.raises(
        ValueError, match=r"10,000,000,000,000 cases of 400 bytes, more than memory holds: take a Subset"
    ):
        Batches(huge)


BAD = {
    "shapes": (Items(lambda i: (X[i, : 64 - i], 0)), r"gives \[63\] as item 1 and \[64\] as the first"),
    "dicts": (Items(lambda i: {"image": X[i], "label": 0}), "gives a dict with 'image', 'label'"),
    "triples": (Items(lambda i: (X[i], 0, 0)), "gives a tuple of 3"),
    "pictures": (Items(lambda i: (Image.new("L", (8, 8)), 0)), "gives Pillow images.*PILToTensor"),
    "words": (Items(lambda i: (X[i], "cat")), "labels must hold numbers, not 'cat'|labels must hold numbers, not <U3"),
    "some labels": (Items(lambda i: (X[i], 0 if i else None)), "some items with a label and some without"),
    "nothing": (Items(lambda i: X[i], 0), "inputs is empty"),
    "a string": ("images/", "inputs must be a tensor, an array, a dataset or a loader, not a str"),
    "16 bits": (X.mul(60_000).to(torch.uint16), "divided by their range"),
    "pairs of numbers": ([(0.5, 1), (0.25, 0)], r"list of pairs of numbers.*: pass inputs and labels apart"),
    "pairs of single numbers": ([(torch.tensor(0.5), 1)], "list of pairs of numbers"),
    "pairs of pictures": ([(Image.new("L", (8, 8)), 0)], "gives Pillow images.*PILToTensor"),
    "a number": (torch.tensor(1.0), "not a single number"),
}


@pytest.mark.parametrize(("source", "sentence"), BAD.values(), ids=BAD)
def test_what_gives_no_cases_gets_one_sentence(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        Batches(source)


def test_pairs_of_numbers_are_inputs_where_the_labels_are_given():
    assert Batches([(0.5, 1), (0.25, 0)], [0, 1]).inputs.tolist() == [[0.5, 1], [0.25, 0]]
    assert Batches([(0.5, 1.0), (0.25, 0.5)]).inputs.tolist() == [[0.5, 1], [0.25, 0.5]]


def test_two_kinds_of_labels_are_refused():
    with pytest.raises(ValueError, match="labels of its own"):
        Batches(TensorDataset(X, Y), Y)


def test_a_loader_with_an_order_of_its_own_goes_with_nothing_that_has_the_datas_order():
    """Labels and soft targets of its own it brings along; others would be those of other cases."""
    net, dataset = network(), TensorDataset(X, Y)
    for loader in (
        DataLoader(dataset, shuffle=True),
        DataLoader(dataset, sampler=torch.utils.data.SubsetRandomSampler(range(40))),
        DataLoader(dataset, batch_sampler=[[1, 0], [2]]),
    ):
        with pytest.raises(ValueError, match="a loader with an order of its own"):
            training.logits(net, loader)
        with pytest.raises(ValueError, match="a loader with an order of its own"):
            Batches(loader, teacher_logits=torch.zeros(40, 10))
        Batches(loader)
    with pytest.raises(ValueError, match="a loader with an order of its own"):
        Batches(DataLoader(TensorDataset(X), shuffle=True), Y)


@given(st.lists(st.integers(0, 39), min_size=1, max_size=20), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_any_subset_gives_its_rows_in_their_order(rows, size):
    """Also one of a dataset that has to be read, and in a loader's batches."""
    whole, read = TensorDataset(X, Y), Items(lambda i: (X[i], Y[i]))
    for source in (Subset(whole, rows), Subset(read, rows), DataLoader(Subset(read, rows), batch_size=size)):
        found = datasets.as_cases(source, "inputs")
        assert torch.equal(found.inputs, X[rows])
        assert torch.equal(found.labels, Y[rows])
