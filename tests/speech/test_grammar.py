"""Sentences of synthetic speech: the grammar's paths, their lengths, and the words of each class."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdrepro.speech import grammar


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, None]))
def test_sentences_are_paths_of_the_grammar(seed, words_per_class):
    vocabulary = grammar.vocabulary(words_per_class)
    words, classes = grammar.sentence(vocabulary, np.random.default_rng(seed))
    low, high = grammar.WORDS_IN_SENTENCE
    assert low <= len(words) == len(classes) <= high
    for before, after in zip(["", *classes], [*classes, ""], strict=True):
        assert after in grammar.GRAMMAR[before]
    assert all(word in vocabulary[c] for word, c in zip(words, classes, strict=True))


def test_every_transition_occurs_about_as_often_as_its_weight():
    """Seen in the classes themselves, before short and long sentences are thrown away."""
    generator = np.random.default_rng(0)
    paths = [grammar._classes(generator) for _ in range(4000)]
    after_past = [b for path in paths for a, b in pairwise(path) if a == "past"]
    weights = grammar.GRAMMAR["past"]
    assert set(after_past) == set(weights)
    for word_class, weight in weights.items():
        share = weight / sum(weights.values())
        assert after_past.count(word_class) / len(after_past) == pytest.approx(share, abs=0.03)


def test_same_generator_same_sentences():
    words = grammar.vocabulary()
    a, b, c = ([grammar.sentence(words, g) for _ in range(5)] for g in map(np.random.default_rng, (1, 1, 2)))
    assert a == b != c


def test_every_class_of_the_grammar_has_words_and_is_reached():
    reached = {after for following in grammar.GRAMMAR.values() for after in following}
    assert reached == set(grammar.GRAMMAR)
    assert set(grammar.vocabulary()) == set(grammar.GRAMMAR) - {""}
    assert any("" in following for following in grammar.GRAMMAR.values())


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("cat", "cats"),
        ("box", "boxes"),
        ("church", "churches"),
        ("fish", "fish"),
        ("sheep", "sheep"),
        ("city", "cities"),
        ("boy", "boys"),
        ("leaf", "leaves"),
        ("mouse", "mice"),
        ("roof", "roofs"),
        ("judge", "judges"),
    ],
)
def test_plurals(noun, plural):
    assert grammar.plural(noun) == plural


@pytest.mark.parametrize(
    ("verb", "past"),
    [
        ("bake", "baked"),
        ("carry", "carried"),
        ("play", "played"),
        ("prefer", "preferred"),
        ("wrap", "wrapped"),
        ("kick", "kicked"),
        ("visit", "visited"),
    ],
)
def test_pasts(verb, past):
    assert grammar.past(verb) == past


def test_irregular_verbs_are_said_in_the_present_only():
    words = grammar.vocabulary()
    assert {grammar.past(verb) for verb in grammar.IRREGULAR}.isdisjoint(words["past"])
    assert set(words["verb"]) >= grammar.IRREGULAR
    assert len(words["past"]) == len(words["verb"]) - len(grammar.IRREGULAR)


def test_the_whole_lexicon_is_plain_words_without_doubles():
    for words in grammar.vocabulary().values():
        assert all(word.isascii() and word.isalpha() for word in words)
    for words in (grammar.NOUNS, grammar.ADJECTIVES, grammar.VERBS, grammar.NAMES, grammar.ADVERBS):
        assert len(set(words)) == len(words)


@given(st.integers(1, 300))
def test_a_smaller_vocabulary_is_part_of_the_whole(count):
    whole, small = grammar.vocabulary(), grammar.vocabulary(count)
    for word_class in ("noun", "adjective", "verb", "name", "adverb", "preposition", "number"):
        assert len(small[word_class]) == min(count, len(whole[word_class]))
        assert len(set(small[word_class])) == len(small[word_class])
    for word_class, words in small.items():
        assert words
        assert set(words) <= set(whole[word_class])
    assert small["determiner"] == whole["determiner"]
    assert small["plural"] == [grammar.plural(noun) for noun in small["noun"]]
