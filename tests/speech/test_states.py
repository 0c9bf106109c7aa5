"""HMM states: alone, tied over contexts, and how a phone's frames are split over them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from state_phones import phone_of

from kdrepro.errors import InputError
from kdrepro.speech import timit
from kdrepro.speech.states import NO_CONTEXT, POSITIONS, monophone_states, positions, tied_states

PHONES = tuple("abcdef")
CONTEXT = st.integers(NO_CONTEXT, len(PHONES) - 1)
ROWS = st.lists(st.tuples(st.integers(0, len(PHONES) - 1), CONTEXT, CONTEXT, st.integers(1, 20)), min_size=1)
MONOPHONES = POSITIONS * len(PHONES)


def segments(rows) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, 4)


def test_three_states_a_phone():
    states = monophone_states(timit.PHONES)
    assert (len(timit.PHONES), len(states)) == (61, 183)
    assert sorted(states.index.values()) == list(range(183))
    assert states.of(4) == states.of(4, 7, 9) == (12, 13, 14)
    assert phone_of(states).tolist() == [i // 3 for i in range(183)]
    assert states.names()[:3] == [f"{timit.PHONES[0]}.{i}" for i in range(3)]


@given(ROWS, st.integers(MONOPHONES, MONOPHONES + 200))
def test_tied_states_are_a_numbering_of_contexts(rows, count):
    states = tied_states(PHONES, segments(rows), count)
    possible = tied_states(PHONES, segments(rows), 10**6)
    assert len(states) == min(count, len(possible))
    assert sorted(states.index.values()) == list(range(len(states)))
    assert set(states.index) <= set(possible.index)
    assert len(set(states.names())) == len(states)
    assert all(name.split(".")[0].count(PHONES[p]) for name, p in zip(states.names(), phone_of(states), strict=True))


@given(ROWS, st.integers(0, 60), st.integers(0, 5), CONTEXT, CONTEXT)
def test_every_phone_in_any_context_has_three_states_of_its_own(rows, more, phone, left, right):
    states = tied_states(PHONES, segments(rows), MONOPHONES + more)
    found = states.of(phone, left, right)
    assert len(set(found)) == POSITIONS
    assert all(phone_of(states)[state] == phone for state in found)
    assert [states.names()[state][-1] for state in found] == list("012")


@given(ROWS, st.integers(0, 60))
def test_frequent_contexts_come_before_rare_ones(rows, more):
    """Of tri-phones: neighbours on both sides, the same position."""
    rows = [row for row in rows if NO_CONTEXT not in row] + [(0, 1, 2, 5), (0, 1, 3, 4)]
    states = tied_states(PHONES, segments(rows), MONOPHONES + more)
    frames: dict[tuple, int] = {}
    for phone, left, right, n in rows:
        frames[phone, left, right] = frames.get((phone, left, right), 0) + n
    for position in range(POSITIONS):
        own = [n for context, n in frames.items() if (*context, position) in states.index]
        tied = [n for context, n in frames.items() if (*context, position) not in states.index]
        assert min(own, default=np.inf) >= max(tied, default=0)


def test_more_states_keep_the_fewer():
    rows = segments([(p, q, r, 1 + p + 7 * q + r) for p in range(4) for q in range(6) for r in range(6)])
    small, large = tied_states(PHONES, rows, 40), tied_states(PHONES, rows, 90)
    assert small.index.items() < large.index.items()


def test_back_off_goes_from_the_neighbours_to_one_neighbour_to_none():
    rows = segments([(0, 1, 2, 30), (0, 1, 3, 20), (0, 4, 2, 10)])
    states = tied_states(PHONES, rows, 1000)
    names = states.names()
    assert [names[s] for s in states.of(0, 1, 2)] == ["b-a+c.0", "b-a+c.1", "b-a+c.2"]
    assert [names[s] for s in states.of(0, 1, 5)] == ["b-a.0", "a.1", "a.2"]
    assert [names[s] for s in states.of(0, 5, 2)] == ["a.0", "a.1", "a+c.2"]
    assert [names[s] for s in states.of(0, 5, 5)] == [names[s] for s in states.of(0)] == ["a.0", "a.1", "a.2"]
    # The first to get one of its own: beginnings after b are more frequent than those between b and c.
    assert names[MONOPHONES] == "b-a.0"


def test_an_edge_counts_once():
    """At a word's edge a phone's beginning has one context, which is also its own back-off."""
    edge, inside = (0, 1, NO_CONTEXT, 20), (0, 2, 3, 30)
    names = tied_states(PHONES, segments([edge, inside]), MONOPHONES + 1).names()
    assert names[MONOPHONES] != "b-a.0"


@pytest.mark.parametrize("count", [-1, 0, MONOPHONES - 1])
def test_too_few_states(count):
    with pytest.raises(InputError, match=f"at least three a phone, {MONOPHONES} for {len(PHONES)} phones, not {count}"):
        tied_states(PHONES, segments([(0, 1, 2, 5)]), count)


def test_an_unknown_phone():
    with pytest.raises(KeyError, match="no phone 6"):
        monophone_states(PHONES).of(6)


def test_the_papers_14000_states():
    random = np.random.default_rng(0)
    phones = [str(i) for i in range(50)]
    rows = np.column_stack([random.integers(0, 50, (60_000, 3)), random.integers(3, 12, 60_000)])
    states = tied_states(phones, rows, 14_000)
    assert len(states) == len(set(states.index.values())) == 14_000
    assert len(np.unique(phone_of(states))) == 50


@given(st.integers(1, 500))
@settings(max_examples=60)
def test_positions_split_evenly(frames):
    found = positions(frames)
    assert len(found) == frames
    assert (np.diff(found) >= 0).all()
    counts = np.bincount(found, minlength=POSITIONS)
    assert len(counts) == POSITIONS
    assert counts.max() - counts.min() <= 1
    assert counts[0] == counts[2]  # what is left over is the middle's, or lacks there
