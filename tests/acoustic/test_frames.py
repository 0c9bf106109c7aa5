"""Windows of frames, what is known of them, and shares of the data."""

from collections import Counter

import numpy as np
import pytest
import torch
from acoustic_cases import INPUTS
from hypothesis import given, settings
from hypothesis import strategies as st
from state_phones import phone_of

from kdrepro.acoustic import frames
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.speech.shards import LEFT, RIGHT

# --- windows ----------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.integers(26, 60), st.integers(1, 12))
@settings(max_examples=40)
def test_windows_are_26_rows_one_after_the_other(seed, rows, count):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, COEFFICIENTS, generator=generator)
    first = torch.randint(rows - 25, (count,), generator=generator)
    expected = torch.stack([torch.cat([features[r + i] for i in range(26)]) for r in first.tolist()])
    assert torch.equal(frames.cut_windows(features, first), expected)


def test_a_window_holds_20_frames_before_its_own_and_5_after(tiny, windows):
    assert (LEFT, RIGHT, frames.WINDOW_FRAMES, INPUTS) == (20, 5, 26, 1040)
    (shard,) = tiny.test.shards
    utterance = tiny.test.utterances[1]
    own = torch.from_numpy(
        np.array(shard.features[utterance["row"] + 20 : utterance["row"] + 20 + utterance["frames"]])
    )
    mine = windows[utterance["first"] : utterance["first"] + utterance["frames"]].view(-1, 26, COEFFICIENTS)
    assert torch.equal(mine[:, 20], own)
    assert torch.equal(mine[30, :, 7], own[10:36, 7])
    assert (mine[0, :21] == own[0]).all()  # the first frame is repeated before the utterance
    assert (mine[-1, 20:] == own[-1]).all()


def test_all_windows_in_order(tiny, windows):
    for chunk in (100, 8192):
        found = list(tiny.test.windows(chunk=chunk))
        assert max(map(len, found)) <= chunk
        assert torch.equal(torch.cat(found), windows)
    features, rows = tiny.train.pool([0, 1, 2])
    assert torch.equal(torch.cat(list(tiny.train.windows())), frames.cut_windows(features, rows))


def test_utterances_and_their_phones(tiny):
    split = tiny.train
    assert [u["index"] for u in split.utterances] == list(range(len(split.utterances)))
    assert split.offsets.tolist() == [0, *np.cumsum([shard.frames for shard in split.shards])]
    assert len(split) == split.offsets[-1] == sum(u["frames"] for u in split.utterances)
    phones = phone_of(tiny.states)[split.targets.numpy()]
    for utterance in split.utterances:
        said = [label for label, start, end in utterance["phones"] for _ in range(end - start)]
        mine = phones[utterance["first"] : utterance["first"] + utterance["frames"]]
        assert said == [tiny.corpus.phones[p] for p in mine]


def test_description_of_the_data(tiny):
    assert tiny.hours == pytest.approx(len(tiny.train) / 100 / 3600)
    assert tiny.name == "tiny"
    assert len(tiny.fingerprint) == 16
    assert [tiny.split(name) for name in ("train", "validation", "test")] == [tiny.train, tiny.validation, tiny.test]


# --- shares of the data -----------------------------------------------------------------------------


def spoken(speakers, each):
    """Utterances of a split: `each` of every speaker, 7 frames long."""
    found = [{"speaker": f"s{s}", "frames": 7} for s in range(speakers) for _ in range(each)]
    return [{**u, "index": i, "first": 7 * i} for i, u in enumerate(found)]


class Split:
    def __init__(self, utterances):
        self.utterances = utterances

    def __len__(self):
        return sum(u["frames"] for u in self.utterances)


SHARES = st.floats(0.01, 0.99)


@given(st.integers(1, 9), st.integers(1, 12), SHARES, st.integers(0, 1000))
def test_a_share_takes_as_many_utterances_of_every_speaker(speakers, each, fraction, seed):
    split = Split(spoken(speakers, each))
    found = frames.share_of(split, fraction, "utterances", seed)
    taken = Counter(found.div(7, rounding_mode="floor").tolist())
    assert set(taken.values()) == {7}  # whole utterances
    assert len(taken) == max(1, round(fraction * speakers * each))
    counts = Counter({f"s{s}": 0 for s in range(speakers)})
    counts.update(split.utterances[i]["speaker"] for i in taken)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert (found.diff() > 0).all()


@given(st.sampled_from(["utterances", "frames"]), SHARES, SHARES, st.integers(0, 1000))
def test_shares_of_one_seed_are_nested(sampling, a, b, seed):
    split = Split(spoken(4, 5))
    small, large = (set(frames.share_of(split, f, sampling, seed).tolist()) for f in sorted((a, b)))
    assert small <= large
    assert len(frames.share_of(split, 1.0, sampling, seed)) == len(split)


def test_shares_of_the_tiny_corpus(tiny):
    utterances = frames.share_of(tiny.train, 0.3, "utterances", 0)
    single = frames.share_of(tiny.train, 0.3, "frames", 0)
    assert len(single) == round(0.3 * len(tiny.train))
    assert len(utterances) == pytest.approx(0.3 * len(tiny.train), rel=0.2)
    for sampling, found in (("utterances", utterances), ("frames", single)):
        assert torch.equal(found, frames.share_of(tiny.train, 0.3, sampling, 0))
        assert set(found.tolist()) != set(frames.share_of(tiny.train, 0.3, sampling, 1).tolist())
        assert (found.diff() > 0).all()
        assert 0 <= found.min() < found.max() < len(tiny.train)
    with pytest.raises(ValueError, match=r"sampling must be .* not 'speakers'"):
        frames.share_of(tiny.train, 0.3, "speakers", 0)
