"""What a graph is made of, its bigram, and what must be refused."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from kdrepro.acoustic.graphs import Entry, graph_of_words, phone_loop, trigram_graph, word_graph
from kdrepro.acoustic.viterbi import decode, viterbi

PHONES = ("a", "b", "sil")
STATES_OF = {"a": (0, 1, 2), "b": (3, 4, 5), "sil": (6, 7, 8)}
GRAPH = phone_loop(PHONES, STATES_OF, {})
INF = math.inf


def test_smoothed_bigram():
    counts = {(None, "a"): 3, ("a", "b"): 2, ("a", None): 1}
    graph = phone_loop("ab", {"a": (0,), "b": (1,)}, counts, smoothing=0.5)
    torch.testing.assert_close(graph.start_log_prob.exp(), torch.tensor([3.5, 0.5]).double() / 4)
    expected = torch.tensor([[0.5, 2.5, 1.5], [0.5, 0.5, 0.5]]).double()
    found = torch.cat([graph.class_log_prob, graph.end_log_prob[:, None]], 1).exp()
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True))
    unseen = phone_loop("ab", {"a": (0,), "b": (1,)}, counts, smoothing=0)
    assert unseen.class_log_prob[1].tolist() == [-INF, -INF]
    assert unseen.end_log_prob[1].item() == -INF


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("states", torch.arange(9) - 1),
        ("states", torch.arange(9.0)),
        ("states", torch.arange(10)),
        ("first", torch.tensor([0, 3, 7])),
        ("first", torch.tensor([1, 3, 6])),
        ("last", torch.tensor([2, 5])),
        ("last", torch.tensor([2, 5, 9])),
        ("chain_class", torch.tensor([0, 1, 3])),
        ("chain_class", torch.tensor([0, 1, 1])),
        ("chain_label", ["a", "b"]),
        ("chain_log_prob", torch.zeros(2)),
        ("chain_log_prob", torch.full((3,), math.nan)),
        ("class_log_prob", torch.zeros(3, 2)),
        ("start_log_prob", torch.full((3,), INF)),
        ("end_log_prob", torch.zeros(3, dtype=torch.long)),
    ],
)
def test_bad_graph_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        replace(GRAPH, **{field: value})


def test_bad_input_of_the_builders():
    with pytest.raises(ValueError, match=r"phones.*'c'"):
        phone_loop("abc", {"a": (0,), "b": (1,)}, {})
    with pytest.raises(ValueError, match="different"):
        phone_loop("aa", {"a": (0,)}, {})
    with pytest.raises(ValueError, match=r"lexicon.*'w'"):
        word_graph([Entry("w", "c", ())], {})
    with pytest.raises(ValueError, match="lexicon"):
        word_graph([], {})
    for counts in ({("a", "x"): 1}, {("a", "a"): -1}):
        with pytest.raises(ValueError, match="counts"):
            phone_loop("a", {"a": (0,)}, counts)
    with pytest.raises(ValueError, match="smoothing"):
        phone_loop("a", {"a": (0,)}, {}, smoothing=-1)
    with pytest.raises(ValueError, match="batch"):
        decode([], GRAPH, batch=0)


def test_trigram_of_classes():
    """What follows depends on two classes: after a, b comes an a, where the bigram knows b alone."""
    lexicon = [Entry("x", "a", (0,)), Entry("y", "b", (1,)), Entry("z", "c", (2,))]
    sentences = [["a", "b", "a"]] * 20 + [["c", "b", "c"]] * 20
    two, three = (
        word_graph(lexicon, Counter(p for s in sentences for p in pairwise([None, *s, None])), smoothing=0),
        trigram_graph(lexicon, sentences, smoothing=0),
    )
    assert sorted(three.chain_label) == ["x", "x", "y", "y", "z", "z"]  # each class once for every class before it
    assert torch.allclose(three.start_log_prob.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    rows = three.class_log_prob.exp().sum(1) + three.end_log_prob.exp()
    assert torch.allclose(rows, torch.ones_like(rows))
    emitted = torch.full((1, 3, 3), -9.0)
    emitted[0, 0, 0] = emitted[0, 1, 1] = 0.0  # a, b, and then it cannot be heard whether a or c
    emitted[0, 2] = torch.tensor([-1.0, -9.0, -0.9])
    heard = [[one.label for one in viterbi(emitted, torch.tensor([3]), graph)[0][0]] for graph in (two, three)]
    assert heard == [["x", "y", "z"], ["x", "y", "x"]]  # after a b there was always a


def test_orders_that_are_not_there(tiny):
    with pytest.raises(ValueError, match=r"order must be 2 .* not 1"):
        graph_of_words(tiny, 1)
