"""The search against a dense Viterbi in float64 and against enumeration."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro.acoustic.graphs import LOG_HALF, Entry, Graph, phone_loop, word_graph
from kdrepro.acoustic.viterbi import Decoded, decode, scaled_log_likelihoods, viterbi

SEEDS = st.integers(0, 2**31 - 1)
INF = math.inf


def random_graph(
    rng: np.random.Generator, chains: int, classes: int, emissions: int, forbid: float = 0.2, fewest: int = 1
):
    """Chains of `fewest` to three states; a part of all words, transitions, starts and ends is impossible."""

    def logs(*shape):
        values = rng.normal(-2, 1, shape)
        return torch.from_numpy(np.where(rng.random(shape) < forbid, -INF, values))

    sizes = torch.from_numpy(rng.integers(fewest, 4, chains))
    last = sizes.cumsum(0) - 1
    of_class = np.concatenate([np.arange(classes), rng.integers(0, classes, chains - classes)])
    return Graph(
        states=torch.from_numpy(rng.integers(0, emissions, int(sizes.sum()))),
        first=last - sizes + 1,
        last=last,
        chain_class=torch.from_numpy(rng.permutation(of_class)),
        chain_label=[f"word {k}" for k in range(chains)],
        chain_log_prob=logs(chains),
        class_log_prob=logs(classes, classes),
        start_log_prob=logs(classes),
        end_log_prob=logs(classes),
    )


def random_case(seed: int, chains: int = 4, classes: int = 2, dtype=torch.float64):
    """A graph, a padded batch [4, 12, 5] whose padding is NaN, and lengths."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, chains, classes, 5)
    values = torch.from_numpy(rng.normal(0, 3, (4, 12, 5)))
    values[torch.from_numpy(rng.random(values.shape) < 0.05)] = -INF
    lengths = torch.from_numpy(rng.integers(0, 13, 4))
    for utterance, length in zip(values, lengths, strict=True):
        utterance[length:] = math.nan
    return graph, values.to(dtype), lengths


def enter_costs(graph: Graph, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """What a chain costs at the start [K] and after another one [K, K]."""
    classes, chain = graph.chain_class.numpy(), graph.chain_log_prob.numpy() - penalty
    start = graph.start_log_prob.numpy()[classes] + chain
    return start, graph.class_log_prob.numpy()[np.ix_(classes, classes)] + chain


def dense_viterbi(x: np.ndarray, graph: Graph, scale: float = 1.0, penalty: float = 0.0):
    """The textbook's search: all pairs of states in each frame, all back pointers. x: [T, E]; path and score."""
    states, first, last = graph.states.numpy(), graph.first.numpy(), graph.last.numpy()
    if len(x) == 0:
        return [], -INF
    start, after = enter_costs(graph, penalty)
    inside = np.full((len(states), len(states)), -INF)
    across = inside.copy()
    np.fill_diagonal(inside, LOG_HALF)
    for i in set(range(len(states))) - set(last):
        inside[i, i + 1] = LOG_HALF
    across[np.ix_(last, first)] = LOG_HALF + after
    arcs, crosses = np.maximum(inside, across), across > inside

    score = np.full(len(states), -INF)
    score[first] = start
    score = score + scale * x[0, states]
    pointers = []
    for frame in x[1:]:
        options = score[:, None] + arcs
        pointers.append(options.argmax(0))
        score = options.max(0) + scale * frame[states]
    score[last] += LOG_HALF + graph.end_log_prob.numpy()[graph.chain_class.numpy()]
    state = last[score[last].argmax()]
    best = score[state]
    if best == -INF:
        return [], best
    path, end = [], len(x)
    for t in range(len(x) - 1, 0, -1):
        before = pointers[t - 1][state]
        if crosses[before, state]:
            path.append(Decoded(graph.chain_label[list(first).index(state)], t, end))
            end = t
        state = before
    path.append(Decoded(graph.chain_label[list(first).index(state)], 0, end))
    return path[::-1], best


def score_of(path: list[Decoded], x: np.ndarray, graph: Graph, scale: float = 1.0, penalty: float = 0.0) -> float:
    """The score of a path, taking in each of its chains the best of all ways to cut its frames into states."""
    start, after = enter_costs(graph, penalty)
    chains = [graph.chain_label.index(word.label) for word in path]
    total = start[chains[0]] + sum(after[pair] for pair in itertools.pairwise(chains))
    total += graph.end_log_prob[graph.chain_class[chains[-1]]].item()
    for word, k in zip(path, chains, strict=True):
        states = graph.states[graph.first[k] : graph.last[k] + 1].tolist()
        inner = range(word.start_frame + 1, word.end_frame)
        ways = []
        for cuts in itertools.combinations(inner, len(states) - 1):
            bounds = [word.start_frame, *cuts, word.end_frame]
            ways.append(sum(x[a:b, s].sum() for s, (a, b) in zip(states, itertools.pairwise(bounds), strict=True)))
        total += scale * max(ways) + (word.end_frame - word.start_frame) * LOG_HALF
    return total


def is_consistent(path: list[Decoded], frames: int) -> bool:
    """Words follow one another without a gap from the first frame to the last."""
    return [w.start_frame for w in path] + [frames] == [0] + [w.end_frame for w in path]


def check(graph: Graph, values: torch.Tensor, lengths: torch.Tensor, rel: float, **options):
    """The score is the dense search's, and the path has that score. Other paths may tie with it."""
    paths, scores = viterbi(values, lengths, graph, **options)
    assert scores.dtype == values.dtype
    scale, penalty = options.get("acoustic_scale", 1.0), options.get("insertion_penalty", 0.0)
    arrays = [x[:length].double().numpy() for x, length in zip(values, lengths, strict=True)]
    for path, score, x in zip(paths, scores.tolist(), arrays, strict=True):
        assert score == pytest.approx(dense_viterbi(x, graph, scale, penalty)[1], rel=rel, abs=rel)
        assert bool(path) == (score > -INF)
        if path:
            assert is_consistent(path, len(x))
            assert score_of(path, x, graph, scale, penalty) == pytest.approx(score, rel=rel, abs=rel)


@given(SEEDS, st.integers(1, 3), st.sampled_from([1.0, 0.3]), st.sampled_from([0.0, 1.5, -1.0]))
@settings(max_examples=150)
def test_equals_the_dense_search(seed, classes, scale, penalty):
    case = random_case(seed, classes=classes)
    check(*case, rel=1e-9, acoustic_scale=scale, insertion_penalty=penalty)


@given(SEEDS)
@settings(max_examples=100)
def test_equals_the_dense_search_in_float32(seed):
    check(*random_case(seed, dtype=torch.float32), rel=1e-5)


@given(SEEDS)
@settings(max_examples=10)
def test_classes_of_many_chains(seed):
    """More chains than the maxima over classes take at once, in classes of uneven size."""
    graph, values, lengths = random_case(seed, chains=90, classes=4)
    uneven = torch.where(torch.arange(90) % 10 > 0, 2, graph.chain_class)
    uneven[:4] = torch.arange(4)
    check(replace(graph, chain_class=uneven), values, lengths, rel=1e-9)


@given(SEEDS)
@settings(max_examples=100)
def test_path_is_the_dense_searchs(seed):
    """Where no two states sound the same, and no chain of one state can be repeated, nothing ties."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 4, 2, 5, forbid=0.1, fewest=2)
    graph = replace(graph, states=torch.from_numpy(rng.permutation(len(graph.states))))
    values = torch.from_numpy(rng.normal(0, 3, (1, 14, len(graph.states))))
    path, best = dense_viterbi(values[0].numpy(), graph)
    paths, scores = viterbi(values, torch.tensor([14]), graph)
    assert paths == [path]
    assert scores.item() == pytest.approx(best, rel=1e-9)


@given(SEEDS)
@settings(max_examples=40)
def test_batch_is_one_by_one(seed):
    graph, values, lengths = random_case(seed, dtype=torch.float32)
    paths, scores = viterbi(values, lengths, graph)
    for b, length in enumerate(lengths.tolist()):
        alone, score = viterbi(values[b : b + 1, :length], lengths[b : b + 1], graph)
        assert alone == paths[b : b + 1]
        assert torch.equal(score, scores[b : b + 1])


@given(SEEDS, st.integers(1, 5))
@settings(max_examples=30)
def test_decode_keeps_the_order(seed, batch):
    graph, values, lengths = random_case(seed, dtype=torch.float32)
    utterances = [x[:length] for x, length in zip(values, lengths, strict=True)]
    paths, _ = viterbi(values, lengths, graph, acoustic_scale=0.5, insertion_penalty=0.2)
    threads = torch.get_num_threads()
    assert decode(utterances, graph, batch=batch, acoustic_scale=0.5, insertion_penalty=0.2) == paths
    assert decode([], graph) == []
    assert torch.get_num_threads() == threads


PHONES = ("a", "b", "sil")
STATES_OF = {"a": (0, 1, 2), "b": (3, 4, 5), "sil": (6, 7, 8)}
GRAPH = phone_loop(PHONES, STATES_OF, {})


@given(st.lists(st.tuples(st.sampled_from(PHONES), st.lists(st.integers(1, 4), min_size=3, max_size=3)), min_size=1))
@settings(max_examples=60)
def test_known_path_is_recovered(phones):
    """Emissions that favour one path, repeated phones and all, give that path and its frames."""
    states, expected = [], []
    for phone, durations in phones:
        begin = len(states)
        states += np.repeat(STATES_OF[phone], durations).tolist()
        expected.append(Decoded(phone, begin, len(states)))
    values = torch.full((1, len(states), 9), -50.0)
    values[0, torch.arange(len(states)), torch.tensor(states)] = 0.0
    graph = phone_loop(PHONES, STATES_OF, {})
    paths, scores = viterbi(values, torch.tensor([len(states)]), graph)
    assert paths == [expected]
    # Uniform: one of three phones, then of three or the end; a factor 1/2 for every frame's stay or move.
    assert scores.item() == pytest.approx(-math.log(3) - len(phones) * math.log(4) + len(states) * LOG_HALF, rel=1e-5)


@given(SEEDS)
@settings(max_examples=30)
def test_penalty_never_adds_words(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 5, 2, 5, forbid=0.0)
    values = torch.from_numpy(rng.normal(0, 3, (1, 12, 5)))
    words = [
        len(viterbi(values, torch.tensor([12]), graph, insertion_penalty=penalty)[0][0])
        for penalty in (-100.0, -4.0, -2.0, 0.0, 2.0, 4.0, 100.0)
    ]
    assert words == sorted(words, reverse=True)


def test_class_bigram_decides():
    """Two words that sound the same: the grammar tells them apart."""
    lexicon = [
        Entry("one", "number", (0, 1)),
        Entry("to", "link", (2, 3), math.log(0.5)),
        Entry("at", "link", (4, 5), math.log(0.5)),
        Entry("two", "number", (2, 3)),
    ]
    counts = {(None, "number"): 3, ("number", "link"): 5, ("link", "number"): 5, ("number", None): 3}
    states = [0, 1, 2, 3, 2, 3]
    values = torch.full((1, 6, 6), -20.0)
    values[0, torch.arange(6), torch.tensor(states)] = 0.0
    paths, _ = viterbi(values, torch.tensor([6]), word_graph(lexicon, counts, smoothing=0))
    assert [word.label for word in paths[0]] == ["one", "to", "two"]


def test_no_path_is_an_empty_hypothesis():
    graph = phone_loop(PHONES, STATES_OF, {})
    values = torch.zeros(4, 5, 9)
    values[3] = -INF
    paths, scores = viterbi(values, torch.tensor([0, 2, 3, 5]), graph)
    assert [len(path) for path in paths] == [0, 0, 1, 0]
    assert scores.isneginf().tolist() == [True, True, False, True]
    assert viterbi(torch.zeros(2, 0, 9), torch.tensor([0, 0]), graph)[0] == [[], []]
    nowhere = replace(graph, end_log_prob=torch.full((3,), -INF))
    assert decode([values[0]], nowhere) == [[]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"log_likelihoods": torch.zeros(5, 9)}, "log_likelihoods"),
        ({"log_likelihoods": torch.zeros(2, 5, 8)}, "log_likelihoods"),
        ({"log_likelihoods": torch.zeros(2, 5, 9, dtype=torch.long)}, "log_likelihoods"),
        ({"log_likelihoods": torch.full((2, 5, 9), math.nan)}, "log_likelihoods"),
        ({"log_likelihoods": torch.full((2, 5, 9), INF)}, "log_likelihoods"),
        ({"lengths": torch.tensor([5])}, "lengths"),
        ({"lengths": torch.tensor([5, 6])}, "lengths"),
        ({"lengths": torch.tensor([5, -1])}, "lengths"),
        ({"lengths": torch.tensor([5.0, 5.0])}, "lengths"),
        ({"acoustic_scale": 0.0}, "acoustic_scale"),
        ({"acoustic_scale": INF}, "acoustic_scale"),
        ({"insertion_penalty": math.nan}, "insertion_penalty"),
    ],
)
def test_bad_input_is_named(arguments, named):
    good = {"log_likelihoods": torch.zeros(2, 5, 9), "lengths": torch.tensor([5, 3]), "graph": GRAPH}
    with pytest.raises(ValueError, match=named):
        viterbi(**good | arguments)


def test_scaled_log_likelihoods():
    logits, prior = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(scaled_log_likelihoods(logits, prior.log()), (logits.softmax(-1) / prior).log())
    with pytest.raises(ValueError, match="log_prior"):
        scaled_log_likelihoods(logits, prior[:3].log())
    with pytest.raises(ValueError, match="finite"):
        scaled_log_likelihoods(logits, torch.zeros(4).log())
