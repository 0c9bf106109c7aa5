"""Frames as cases of a training: epochs, their order, and many models at once."""

from collections import Counter

import numpy as np
import pytest
import torch
from acoustic_cases import RECIPE, chosen, network
from training_cases import check_resumption, interruptions, stacked_sizes, weights

from kdrepro import training
from kdrepro.acoustic import posteriors, soft_targets
from kdrepro.acoustic.batches import FrameBatches
from kdrepro.acoustic.soft_targets import SoftTargets


@pytest.mark.parametrize("pool_frames", [10**9, 4000, 1])
@pytest.mark.parametrize("part", [False, True])
def test_an_epoch_holds_every_frame_once_with_its_own_label_and_target(tiny, tmp_path, pool_frames, part):
    split = tiny.train
    which = chosen(split) if part else torch.arange(len(split))
    # Soft targets that tell the frame: its number, in three digits that float16 holds.
    (tmp_path / "soft").mkdir()
    digits = np.stack([which.numpy() // 1000, which.numpy() // 10 % 100, which.numpy() % 10], 1)
    np.save(tmp_path / "soft" / "values.npy", digits.astype(np.float16))
    np.save(tmp_path / "soft" / "prior.npy", np.full(3, 1 / 3, np.float32))
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
    assert torch.equal(batches.labels, split.targets[which])


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


# --- training ---------------------------------------------------------------------------------------


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


@interruptions("frames")
def test_interrupted_training_ends_bit_for_bit_the_same(tiny, teachers, tmp_path, monkeypatch, case):
    """Alone over several pools; stacked over one."""
    pool = {"pool_frames": 1} if case.kind == "alone" else {}
    if case.teacher:
        pool["teacher"] = lambda x: posteriors.mean_log_probabilities(teachers, x)
    batches = FrameBatches(tiny.train, chosen(tiny.train, 4), batch_size=128, **pool)
    assert len(batches) > 10
    dropout = 0.3 if case.dropout else 0.0
    count = 1 if case.kind == "alone" else 3
    check_resumption(
        case, tmp_path, lambda seed: network(tiny.states, seed, hidden_dropout=dropout), [batches] * count, monkeypatch
    )
