"""Decoding graphs: chains of HMM states, each a phone or one pronunciation of a word, that a bigram joins."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from kdrepro.acoustic.frames import Speech
from kdrepro.speech.states import NO_CONTEXT

LOG_HALF = math.log(0.5)
# Counts of what follows what; None is the sentence's start on the left and its end on the right.
Counts = Mapping[tuple[str | None, str | None], int]


class Entry(NamedTuple):
    """One pronunciation of a word.

    states: emission indices, first to last. log_prob: log P(word | class) + log P(pronunciation | word).
    """

    word: str
    word_class: str
    states: tuple[int, ...]
    log_prob: float = 0.0


@dataclass(frozen=True, eq=False)
class Graph:
    """Left-to-right chains of HMM states with self loops and no skips, joined by a bigram over classes.

    states: int64 [S], emission index of every state, one chain after the other. first, last: int64 [K], where each
    chain begins and ends in `states`. chain_class: int64 [K], in 0..C-1. chain_label: K phones or words.
    chain_log_prob: [K], log P(chain | its class). class_log_prob: [C, C], log P(column | row). start_log_prob,
    end_log_prob: [C]. All logs are natural; -inf forbids. Tensors are on the CPU. A state's self loop and its leaving
    cost LOG_HALF each.
    Raises ValueError naming the field that does not fit.
    """

    states: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    chain_class: torch.Tensor
    chain_label: Sequence[str]
    chain_log_prob: torch.Tensor
    class_log_prob: torch.Tensor
    start_log_prob: torch.Tensor
    end_log_prob: torch.Tensor

    def __post_init__(self):
        _check_chains(self)
        _check_probabilities(self)


def _check_chains(graph: Graph) -> None:
    for name in ("states", "first", "last", "chain_class"):
        field = getattr(graph, name)
        if field.dim() != 1 or field.dtype != torch.int64 or len(field) == 0:
            raise ValueError(f"{name} must be a vector of int64, not {field.dtype} {list(field.shape)}.")
    chains = len(graph.first)
    for name in ("last", "chain_class", "chain_label", "chain_log_prob"):
        if len(getattr(graph, name)) != chains:
            raise ValueError(f"{name} has {len(getattr(graph, name))} entries for {chains} chains.")
    starts = torch.cat([graph.first[:1] * 0, graph.last[:-1] + 1])
    if (graph.first != starts).any() or (graph.last < graph.first).any() or graph.last[-1] != len(graph.states) - 1:
        raise ValueError("first and last must cut states into chains, one after the other, none empty.")
    if graph.states.min() < 0:
        raise ValueError("states holds a negative emission index.")
    classes = len(graph.start_log_prob)
    if graph.chain_class.unique().tolist() != list(range(classes)):
        raise ValueError(f"chain_class must use every class from 0 to {classes - 1} and no other.")


def _check_probabilities(graph: Graph) -> None:
    classes, chains = len(graph.start_log_prob), len(graph.first)
    shapes = {
        "chain_log_prob": [chains],
        "class_log_prob": [classes, classes],
        "start_log_prob": [classes],
        "end_log_prob": [classes],
    }
    for name, shape in shapes.items():
        field = getattr(graph, name)
        if list(field.shape) != shape or not field.is_floating_point():
            raise ValueError(f"{name} must be floating point {shape}, not {field.dtype} {list(field.shape)}.")
        if not (field < math.inf).all():  # false for NaN too
            raise ValueError(f"{name} holds NaN or +inf.")


def phone_loop(
    phones: Sequence[str],
    states_of: Mapping[str, Sequence[int]],
    bigram_counts: Counts,
    smoothing: float = 0.5,
) -> Graph:
    """A loop over phones with a bigram: every phone is one chain and its own class.

    states_of: emission indices of each phone's states. bigram_counts: as class_counts of `word_graph`.
    Raises ValueError for a phone without states, one named twice, and bad counts.
    """
    missing = [p for p in phones if not len(states_of.get(p, ()))]
    if missing or len(set(phones)) < len(phones):
        raise ValueError(f"phones must be different and have states in states_of; without: {missing}.")
    lexicon = [Entry(p, p, tuple(states_of[p])) for p in phones]
    return word_graph(lexicon, bigram_counts, smoothing)


def word_graph(
    lexicon: Sequence[Entry],
    class_counts: Counts,
    smoothing: float = 0.5,
) -> Graph:
    """A graph with one chain for each entry of the lexicon and a bigram over word classes.

    class_counts: how often the second class followed the first; (None, c) counts sentences that begin with c and
    (c, None) those that end with it. smoothing: added to every count, of the end too; at 0 the unseen is impossible.
    Classes are numbered as they first appear in the lexicon.
    Raises ValueError for an empty lexicon or entry, an unknown class in class_counts, or a negative count.
    """
    empty = [entry.word for entry in lexicon if not len(entry.states)]
    if not lexicon or empty:
        raise ValueError(f"lexicon must have entries and every one of them states; without: {empty}.")
    classes = list(dict.fromkeys(entry.word_class for entry in lexicon))
    start, between, end = _bigram(classes, class_counts, smoothing)
    last = torch.tensor([len(entry.states) for entry in lexicon]).cumsum(0) - 1
    return Graph(
        states=torch.tensor([state for entry in lexicon for state in entry.states]),
        first=torch.cat([torch.zeros(1, dtype=torch.int64), last[:-1] + 1]),
        last=last,
        chain_class=torch.tensor([classes.index(entry.word_class) for entry in lexicon]),
        chain_label=tuple(entry.word for entry in lexicon),
        chain_log_prob=torch.tensor([entry.log_prob for entry in lexicon], dtype=torch.float64),
        class_log_prob=between,
        start_log_prob=start,
        end_log_prob=end,
    )


def _bigram(classes: Sequence[str], counts: Counts, smoothing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities of the first class [C], of the next one [C, C], and of the end [C], from smoothed counts."""
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be at least 0 and finite, not {smoothing}.")
    index = {name: i for i, name in enumerate(classes)} | {None: len(classes)}
    table = torch.zeros(len(classes) + 1, len(classes) + 1, dtype=torch.float64)
    for (before, after), count in counts.items():
        if before not in index or after not in index or count < 0:
            raise ValueError(f"The counts hold {(before, after)}: {count}; only known names and no negative counts.")
        table[index[before], index[after]] = count
    table += smoothing
    table[-1, -1] = 0.0  # the search finds no sentence without words
    # A row without any count is impossible all over, rather than 0 / 0.
    log_p = (table / table.sum(1, keepdim=True).clamp_min(torch.finfo(table.dtype).tiny)).log()
    return log_p[-1, :-1], log_p[:-1, :-1], log_p[:-1, -1]


RAREST = 0.1  # a pronunciation is known from this share of a word's occurrences on
SILENCE_CLASS = "silence"


def graph_of_phones(speech: Speech) -> Graph:
    """A loop over the corpus's phones with the bigram of its training utterances."""
    phones = speech.corpus.phones
    return phone_loop(phones, {p: speech.states.of(i) for i, p in enumerate(phones)}, phone_pairs(speech))


def phone_pairs(speech: Speech) -> Counter:
    """How often each phone follows which in training utterances; None stands for their beginnings and ends."""
    return _pairs([label for label, *_ in utterance["phones"]] for utterance in speech.train.utterances)


def _pairs(sequences: Iterable[Sequence[str]]) -> Counter:
    return Counter(pair for one in sequences for pair in pairwise([None, *one, None]))


def graph_of_words(speech: Speech, order: int = 2) -> Graph:
    """A chain for every pronunciation of every word, and for silence; a bigram or trigram over the grammar's classes.

    Raises ValueError for another order than 2 and 3.
    """
    if order not in (2, 3):
        raise ValueError(f"order must be 2 (a bigram over classes) or 3 (a trigram), not {order}.")
    heard, sentences = _pronunciations(speech)
    by_class = Counter()
    for (_, tag), variants in heard.items():
        by_class[tag] += variants.total()
    lexicon = []
    for (word, tag), variants in heard.items():
        total = variants.total()
        kept = {phones: n for phones, n in variants.items() if n >= RAREST * total} or dict(variants.most_common(1))
        for phones, n in kept.items():
            log_prob = np.log(total / by_class[tag]) + np.log(n / sum(kept.values()))
            lexicon.append(Entry(word, tag, _chain(speech, phones), float(log_prob)))
    for silence in speech.corpus.silences:
        index = speech.corpus.phones.index(silence)
        lexicon.append(Entry("", SILENCE_CLASS, speech.states.of(index), -float(np.log(len(speech.corpus.silences)))))
    return word_graph(lexicon, _pairs(sentences)) if order == 2 else trigram_graph(lexicon, sentences)


PRIOR_COUNT = 5.0  # how many occurrences of a pair of classes its bigram counts as beside what followed it


def trigram_graph(lexicon: Sequence[Entry], sentences: Sequence[Sequence[str]], smoothing: float = 0.5) -> Graph:
    """A graph with a trigram over word classes: each class once for every class that it was seen to follow.

    sentences: the classes of each, in order. What follows a pair of classes is drawn towards what follows the second
    of them, as if the bigram had been seen `PRIOR_COUNT` times; pairs that were never seen are impossible.
    Raises ValueError as `word_graph` does.
    """
    pairs = _pairs(sentences)
    followers, triples = _totals(pairs), Counter()
    for tags in sentences:
        triples.update(zip([None, *tags[:-1]], tags, [*tags[1:], None], strict=True))
    classes = {pair for pair in pairs if pair[1] is not None}
    counts: dict[tuple[str | None, str | None], float] = {}
    for before, this in classes:
        place = _pair(before, this)
        if before is None:
            counts[None, place] = pairs[before, this] + smoothing
        for other, after in pairs:
            if other == this:
                expected = PRIOR_COUNT * pairs[this, after] / followers[this]
                counts[place, None if after is None else _pair(this, after)] = triples[before, this, after] + expected
    known = [entry._replace(word_class=_pair(before, this))
             for before, this in sorted(classes, key=str) for entry in lexicon if entry.word_class == this]  # fmt: skip
    return word_graph(known, counts, smoothing=0)


def _pair(before: str | None, this: str) -> str:
    """The name of a class that follows another."""
    return f"{before or ''} {this}"


def _totals(pairs: Counts) -> Counter:
    """How often each class was followed by anything, an end included."""
    found: Counter = Counter()
    for (before, _), count in pairs.items():
        found[before] += count
    return found


def _pronunciations(speech: Speech) -> tuple[dict[tuple[str, str], Counter], list[list[str]]]:
    """How often each word of a class was heard as which phones in training, and the classes of each sentence."""
    silences = set(speech.corpus.silences)
    heard: dict[tuple[str, str], Counter] = {}
    sentences = []
    for utterance in speech.train.utterances:
        phones = utterance["phones"]
        follows = [(start, SILENCE_CLASS) for label, start, _ in phones if label in silences]
        for word, tag, first, end in utterance["words"]:
            inside = tuple(label for label, start, _ in phones if first <= start < end and label not in silences)
            if inside:
                heard.setdefault((word, tag), Counter())[inside] += 1
                follows.append((first, tag))
        sentences.append([tag for _, tag in sorted(follows)])
    return heard, sentences


def _chain(speech: Speech, phones: Sequence[str]) -> tuple[int, ...]:
    """The states of a pronunciation, each phone between its neighbours within the word."""
    known = {phone: i for i, phone in enumerate(speech.corpus.phones)}
    indices = [NO_CONTEXT, *(known[phone] for phone in phones), NO_CONTEXT]
    return tuple(s for left, phone, right in zip(indices, indices[1:], indices[2:], strict=False)
                 for s in speech.states.of(phone, left, right))  # fmt: skip
