"""Frames as cases: windows, epochs, shares of the data, stored soft targets, and training on them."""

import os
import resource
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fit_many import stacked_sizes

from kdrepro import ensembles, training
from kdrepro.acoustic import frames, posteriors, soft_targets
from kdrepro.acoustic.batches import FrameBatches
from kdrepro.acoustic.soft_targets import SoftTargets
from kdrepro.networks import MLP
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.speech.shards import LEFT, RIGHT
from kdrepro.training import Recipe, loop
from kdrepro.training.checkpoint import Checkpoint

INPUTS = frames.WINDOW_FRAMES * COEFFICIENTS
RECIPE = Recipe(epochs=3, batch_size=128, learning_rate=3e-3, precision="fp32")


def network(states, seed=0, **dropout):
    return MLP([INPUTS, 12, len(states)], generator=torch.Generator().manual_seed(seed), **dropout).eval()


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.fixture(scope="module")
def windows(tiny):
    """All windows of the test speakers, cut frame by frame."""
    found = []
    for utterance in tiny.test.utterances:
        (shard,) = tiny.test.shards
        for i in range(utterance["frames"]):
            rows = shard.features[utterance["row"] + i : utterance["row"] + i + LEFT + 1 + RIGHT]
            found.append(torch.from_numpy(np.array(rows)).flatten())
    return torch.stack(found)


# --- windows --------------------------------------------------------------------------------------


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
    phone_of = tiny.states.phone_of[split.targets.numpy()]
    for utterance in split.utterances:
        said = [label for label, start, end in utterance["phones"] for _ in range(end - start)]
        mine = phone_of[utterance["first"] : utterance["first"] + utterance["frames"]]
        assert said == [tiny.corpus.phones[p] for p in mine]


def test_description_of_the_data(tiny):
    assert tiny.hours == pytest.approx(len(tiny.train) / 100 / 3600)
    assert tiny.name == "tiny"
    assert len(tiny.fingerprint) == 16
    assert [tiny.split(name) for name in ("train", "validation", "test")] == [tiny.train, tiny.validation, tiny.test]


# --- batches --------------------------------------------------------------------------------------


def chosen(split, every=3):
    return torch.arange(0, len(split), every)


@pytest.mark.parametrize("pool_frames", [10**9, 4000, 1])
@pytest.mark.parametrize("part", [False, True])
def test_an_epoch_holds_every_frame_once_with_its_own_label_and_target(tiny, tmp_path, pool_frames, part):
    split = tiny.train
    which = chosen(split) if part else torch.arange(len(split))
    # Soft targets that tell the frame: its number, in three digits that float16 holds.
    (tmp_path / "soft").mkdir()
    digits = np.stack([which.numpy() // 1000, which.numpy() // 10 % 100, which.numpy() % 10], 1)
    np.save(tmp_path / "soft" / "values.npy", digits.astype(np.float16))
    (tmp_path / "soft" / "classes").write_text("3")
    batches = FrameBatches(
        split, which, batch_size=100, soft_targets=SoftTargets(tmp_path / "soft"), pool_frames=pool_frames
    )
    assert len(batches.pools) == {10**9: 1, 4000: 3, 1: 3}[pool_frames]
    steps = list(batches.epoch(torch.Generator().manual_seed(0)))
    assert len(steps) == len(batches)
    assert batches.cases == len(which)
    assert max(len(b.inputs) for b in steps) <= 100
    number = torch.cat([b.teacher_logits for b in steps]).long() @ torch.tensor([1000, 10, 1])
    assert torch.equal(number.sort().values, which)
    assert not torch.equal(number, which)
    every = torch.cat(list(split.windows()))
    assert torch.equal(torch.cat([b.inputs for b in steps]), every[number])
    labels = torch.cat([b.labels for b in steps])
    assert labels.dtype == torch.int64
    assert torch.equal(labels, split.targets[number].long())


@pytest.mark.parametrize("pool_frames", [10**9, 1])
def test_order_follows_the_seed(tiny, pool_frames):
    batches = FrameBatches(tiny.train, chosen(tiny.train), pool_frames=pool_frames)

    def labels(generator):
        return torch.cat([b.labels for b in batches.epoch(generator)])

    one, other = (torch.Generator().manual_seed(seed) for seed in (4, 5))
    first, second = labels(one), labels(one)
    assert torch.equal(first, labels(torch.Generator().manual_seed(4)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, labels(other))


def test_several_pools_are_shuffled_too(tiny):
    """Which shard comes first changes from epoch to epoch."""
    batches = FrameBatches(tiny.train, pool_frames=1, batch_size=4096)
    sizes = Counter()
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        sizes[len(next(iter(batches.epoch(generator))).labels)] += 1
    assert len(sizes) == 3


def test_frames_of_one_shard_only(tiny):
    """Shards without any of the frames are never read."""
    which = torch.arange(int(tiny.train.offsets[1]), int(tiny.train.offsets[2]))
    batches = FrameBatches(tiny.train, which, pool_frames=1)
    assert [run for run, *_ in batches.pools] == [(1,)]
    assert sum(len(b.labels) for b in batches.epoch(torch.Generator())) == len(which)


def test_bad_batches(tiny, tmp_path):
    soft_targets.store_soft_targets(tmp_path / "soft", [network(tiny.states)], tiny.test, torch.arange(10))
    soft = SoftTargets(tmp_path / "soft")
    with pytest.raises(ValueError, match="not both"):
        FrameBatches(tiny.test, torch.arange(10), soft_targets=soft, teacher=lambda x: x)
    with pytest.raises(ValueError, match="empty"):
        FrameBatches(tiny.test, torch.arange(0))
    with pytest.raises(ValueError, match="has 10 frames where which has 11"):
        FrameBatches(tiny.test, torch.arange(11), soft_targets=soft)


# --- shares of the data ---------------------------------------------------------------------------


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


# --- soft targets ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teachers(tiny):
    """Two networks that have learnt a little."""
    found = []
    for seed in (0, 1):
        net = network(tiny.states, seed)
        training.fit(net, FrameBatches(tiny.train, chosen(tiny.train), batch_size=128), training.hard_targets, RECIPE)
        found.append(net)
    return found


def test_a_network_learns_from_frames(tiny, teachers):
    most = torch.bincount(tiny.test.targets).max().item() / len(tiny.test)
    found = posteriors.accuracy(teachers[0], tiny.test, torch.arange(len(tiny.test)))
    assert found > 1.5 * most
    assert posteriors.accuracy(network(tiny.states, 5), tiny.test, torch.arange(len(tiny.test))) < most + 0.1


def test_accuracy_of_some_frames(tiny, teachers, windows):
    right = teachers[0](windows.float()).argmax(1) == tiny.test.targets
    for which in (torch.arange(len(windows)), chosen(tiny.test, 7), torch.tensor([3])):
        assert posteriors.accuracy(teachers[0], tiny.test, which) == pytest.approx(right[which].float().mean().item())


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_mean_of_networks_is_the_ensembles(teachers, windows, how):
    some = windows[:200]
    logits = torch.stack([net(some.float()) for net in teachers]).detach()
    found = posteriors.mean_log_probabilities(teachers, some, how)
    torch.testing.assert_close(found.exp(), ensembles.average(logits, how), rtol=1e-4, atol=1e-6)
    assert torch.isfinite(found).all()
    one = posteriors.mean_log_probabilities(teachers[:1], some, how)
    torch.testing.assert_close(one, logits[0].log_softmax(1), rtol=1e-4, atol=1e-4)


def test_mean_of_very_sure_networks_is_finite(windows):
    class Sure(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, -500.0]]).expand(len(x), 2)

    found = posteriors.mean_log_probabilities([Sure(), Sure()], windows[:3])
    assert torch.isfinite(found).all()
    with pytest.raises(ValueError, match=r"how must be .* not 'mean'"):
        posteriors.mean_log_probabilities([Sure()], windows[:3], "mean")


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_stored_soft_targets_are_the_networks_mean(tiny, teachers, windows, tmp_path, monkeypatch, how, part):
    monkeypatch.setattr(soft_targets, "gains_from_bf16", lambda device: False)
    which = chosen(tiny.test, 5) if part else None
    expected = posteriors.mean_log_probabilities(teachers, windows if which is None else windows[which], how)
    soft_targets.store_soft_targets(tmp_path / "all", teachers, tiny.test, which, how=how)
    soft_targets.store_soft_targets(tmp_path / "some", teachers, tiny.test, which, how=how, top_k=10)
    whole, some = SoftTargets(tmp_path / "all"), SoftTargets(tmp_path / "some")
    assert len(whole) == len(some) == len(expected)
    assert (whole.values.dtype, some.values.dtype, some.indices.dtype) == (np.float16, np.float16, np.uint16)
    every = np.arange(len(expected))
    torch.testing.assert_close(whole.logits(every), expected, rtol=1e-3, atol=1e-3)
    found, best = some.logits(every), expected.topk(10, dim=1)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.gather(1, best.indices), best.values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(found)), rtol=0, atol=2e-3)
    order = np.array([5, 2, 2, 9])
    assert torch.equal(some.logits(order), found[torch.from_numpy(order)])
    of = torch.arange(1, len(expected), 2)  # a part of what is stored, by positions in it
    half = SoftTargets(tmp_path / "some", of)
    assert len(half) == len(of)
    assert torch.equal(half.logits(order), found[of[torch.from_numpy(order)]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "some"]


def test_soft_targets_interrupted_leave_nothing(tiny, teachers, tmp_path):
    class Stopping(torch.nn.Module):
        def forward(self, x):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        soft_targets.store_soft_targets(tmp_path / "soft", [Stopping()], tiny.test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_soft_targets_that_do_not_fit_are_an_error_and_leave_nothing(tiny, teachers, tmp_path):
    """Written to a mapped file on a full disk, they would kill the process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            soft_targets.store_soft_targets(tmp_path / "soft", teachers, tiny.test)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_bf16_soft_targets_are_close(tiny, teachers, tmp_path, monkeypatch):
    found = []
    for gains in (False, True):
        monkeypatch.setattr(soft_targets, "gains_from_bf16", lambda device, gains=gains: gains)
        soft_targets.store_soft_targets(tmp_path / str(gains), teachers, tiny.test, torch.arange(300))
        found.append(SoftTargets(tmp_path / str(gains)).logits(np.arange(300)).exp())
    assert not torch.equal(*found)
    assert (found[0] - found[1]).abs().max() < 0.02


def test_more_kept_is_closer_to_all(teachers, windows):
    whole = posteriors.mean_log_probabilities(teachers, windows[:300])
    distances = []
    for k in (1, 4, 16, 64, 200):
        values, indices = whole.topk(k, dim=1)
        kept = soft_targets.spread_rest(values, indices, 200).log_softmax(1)
        distances.append((whole.exp() * (whole - kept)).sum(1).mean().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.1 > 1e-3 > distances[-1]


@given(st.integers(0, 2**31 - 1), st.integers(2, 60), st.data(), st.floats(0.1, 20))
def test_the_rest_is_spread_evenly(seed, classes, drawn, spread):
    k = drawn.draw(st.integers(1, classes - 1))
    logits = spread * torch.randn(5, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    whole = logits.log_softmax(1)
    values, indices = whole.topk(k, dim=1)
    found = soft_targets.spread_rest(values, indices, classes)
    assert found.shape == (5, classes)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(5, dtype=torch.float64), rtol=0, atol=2e-6)
    assert torch.equal(found.gather(1, indices), values)
    rest = torch.ones_like(found, dtype=torch.bool).scatter(1, indices, False)
    others = found[rest].view(5, classes - k)
    assert (others.max(1).values <= values[:, -1]).all()
    assert torch.equal(others.min(1).values, others.max(1).values)
    assert torch.isfinite(found).all()


def test_the_rest_is_spread_as_states_are_frequent():
    """What is not among the k keeps the proportions of the prior, or is even where one would pass the least of them."""
    logits = 3 * torch.randn(200, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, prior = logits.log_softmax(1), torch.logspace(-4, -1, 30, dtype=torch.float64)
    values, indices = whole.topk(10, dim=1)
    found = soft_targets.spread_rest(values, indices, 30, prior)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(200, dtype=torch.float64), rtol=0, atol=2e-6)
    rest = torch.ones_like(found, dtype=torch.bool).scatter(1, indices, False)
    others, shares = found.exp()[rest].view(200, 20), (found.exp() / prior)[rest].view(200, 20)
    even, as_prior = (torch.isclose(one, one[:, :1]).all(1) for one in (others, shares))
    assert (even ^ as_prior).all()
    assert 20 < as_prior.sum() < 180


def test_a_teacher_computed_on_the_fly_gives_what_is_stored(tiny, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(soft_targets, "gains_from_bf16", lambda device: False)
    which = chosen(tiny.train, 4)
    soft_targets.store_soft_targets(tmp_path / "soft", teachers, tiny.train, which)
    stored = FrameBatches(tiny.train, which, soft_targets=SoftTargets(tmp_path / "soft"), pool_frames=1)
    computed = FrameBatches(
        tiny.train, which, teacher=lambda x: posteriors.mean_log_probabilities(teachers, x), pool_frames=1
    )
    epochs = [batches.epoch(torch.Generator().manual_seed(1)) for batches in (stored, computed)]
    for a, b in zip(*epochs, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        torch.testing.assert_close(a.teacher_logits, b.teacher_logits, rtol=1e-3, atol=1e-3)


# --- utterance by utterance -----------------------------------------------------------------------


def test_log_probabilities_by_utterance(tiny, teachers):
    seen = []
    every = posteriors.mean_log_probabilities(teachers, torch.cat(list(tiny.train.windows())))
    for utterances, found in posteriors.by_utterance(teachers, tiny.train):
        for utterance, one in zip(utterances, found, strict=True):
            seen.append(utterance["index"])
            rows = slice(utterance["first"], utterance["first"] + utterance["frames"])
            torch.testing.assert_close(one, every[rows], rtol=1e-4, atol=1e-4)
    assert seen == list(range(len(tiny.train.utterances)))


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_acoustic_models_train_together_as_each_alone(tiny, teachers, soft, monkeypatch):
    stacked = stacked_sizes(monkeypatch)
    asked = {"teacher": lambda x: posteriors.mean_log_probabilities(teachers, x)} if soft else {}
    objective = training.soft_targets(2.0, 0.5) if soft else training.hard_targets
    batches = [FrameBatches(tiny.train, chosen(tiny.train, 6), batch_size=128, **asked) for _ in range(3)]
    assert batches[0].kind is not None
    alone, together = ([network(tiny.states, seed, hidden_dropout=0.3) for seed in range(3)] for _ in range(2))
    for seed, net in enumerate(alone):
        training.fit(net, batches[seed], objective, RECIPE, seed=seed)
    training.fit_many(together, batches, [objective] * 3, [RECIPE] * 3, seeds=range(3))
    assert stacked == [3]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=1e-3, atol=1e-4)


def test_acoustic_models_whose_frames_stream_train_one_after_the_other(tiny):
    batches = FrameBatches(tiny.train, chosen(tiny.train, 6), pool_frames=1)
    assert len(batches.pools) > 1
    assert batches.kind is None


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("stop", [5, 24, 40])
def test_interrupted_training_ends_bit_for_bit_the_same(tiny, teachers, tmp_path, monkeypatch, stop, every_step):
    """Over several pools, with a teacher that answers batch by batch."""
    if every_step:
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    which = chosen(tiny.train, 4)

    def fit(net, objective, **options):
        batches = FrameBatches(
            tiny.train, which, batch_size=128, teacher=lambda x: posteriors.mean_log_probabilities(teachers, x),
            pool_frames=1,
        )  # fmt: skip
        assert len(batches) == 18
        return training.fit(net, batches, objective, RECIPE, seed=2, **options)

    soft = training.soft_targets(2.0, 0.5)
    whole = network(tiny.states, hidden_dropout=0.3)
    history = fit(whole, soft)
    steps = 0

    def stopping(logits, batch):
        nonlocal steps
        steps += 1
        if steps == stop:
            raise InterruptedError
        return soft(logits, batch)

    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(InterruptedError):
        fit(network(tiny.states, hidden_dropout=0.3), stopping, checkpoint=checkpoint)
    resumed = network(tiny.states, seed=9 if checkpoint.path.exists() else 0, hidden_dropout=0.3)
    resumed_history = fit(resumed, soft, checkpoint=checkpoint)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row["loss"] for row in resumed_history] == pytest.approx([row["loss"] for row in history], rel=1e-6)
