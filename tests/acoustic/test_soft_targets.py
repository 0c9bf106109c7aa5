"""Soft targets on disk: what is stored is the networks' mean, and what is left out is spread."""

import os
import resource

import numpy as np
import pytest
import torch
from acoustic_cases import chosen
from hypothesis import given
from hypothesis import strategies as st

from kdrepro.acoustic import posteriors, soft_targets
from kdrepro.acoustic.batches import FrameBatches
from kdrepro.acoustic.soft_targets import SoftTargets


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


# --- the classes that are not kept ------------------------------------------------------------------


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
