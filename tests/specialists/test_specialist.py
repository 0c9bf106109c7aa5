"""A specialist's dustbin, its training cases and the losses of Section 6.1."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdrepro import specialists
from kdrepro.specialists import HalfSpecial
from kdrepro.training import Batch

# --- the dustbin ------------------------------------------------------------------------------------


@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_the_correction_makes_the_prior_right(share, seed):
    """Bayes: what equal priors said, with the true ones put in their place."""
    p = torch.rand(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)
    corrected = specialists.correct_dustbin(p.log(), specialists.oversampling(share)).softmax(1)
    expected = p * torch.tensor([share] * 3 + [1 - share], dtype=torch.float64)
    torch.testing.assert_close(corrected, expected / expected.sum(1, keepdim=True))


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_the_correction_of_a_full_softmax(share, seed):
    p = torch.rand(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)
    special = torch.tensor([0, 2])
    corrected = specialists.correct_full(p.log(), special, specialists.oversampling(share)).softmax(1)
    expected = p * torch.tensor([share, 1 - share, share, 1 - share], dtype=torch.float64)
    torch.testing.assert_close(corrected, expected / expected.sum(1, keepdim=True))


def test_the_correction_leaves_its_input_alone():
    logits = torch.zeros(2, 3)
    assert specialists.correct_dustbin(logits, 2.0)[:, -1].tolist() == pytest.approx([np.log(2)] * 2)
    assert torch.equal(logits, torch.zeros(2, 3))


def test_a_correction_of_arrays():
    logits = np.zeros((2, 3), np.float32)
    assert specialists.correct_full(logits, [1], 2.0)[0].tolist() == pytest.approx([np.log(2), 0, np.log(2)])
    with pytest.raises(ValueError, match=r"logits must be \[cases, classes\], not \[2, 3, 4\]"):
        specialists.correct_dustbin(torch.zeros(2, 3, 4), 2.0)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
def test_a_correction_that_is_none(wrong):
    with pytest.raises(ValueError, match="oversampling must be a positive number"):
        specialists.correct_dustbin(torch.zeros(1, 2), wrong)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        specialists.oversampling(share)


def test_the_cut_down_layer_starts_where_the_generalist_is(generator):
    output = nn.Linear(6, 10)
    special = torch.tensor([2, 5, 7])
    cut = specialists.with_dustbin(output, special)
    x = torch.randn(4, 6, generator=generator)
    torch.testing.assert_close(cut(x)[:, :3], output(x)[:, special])
    others = [i for i in range(10) if i not in (2, 5, 7)]
    torch.testing.assert_close(cut(x)[:, 3], output(x)[:, others].mean(1) + np.log(7))


def test_labels_with_a_dustbin():
    labels = specialists.specialist_labels(torch.tensor([0, 1, 2, 3, 4, 3]), torch.tensor([1, 3]), 5)
    assert labels.tolist() == [2, 0, 2, 1, 2, 1]


# --- training cases ---------------------------------------------------------------------------------


def test_half_of_an_epoch_is_special(generator):
    labels = torch.arange(10).repeat(8)
    sampler = HalfSpecial(labels, torch.tensor([3, 4]))
    assert len(sampler) == 32
    assert sampler.share == 0.2
    first, second = sampler.draw(generator), sampler.draw(generator)
    for drawn in (first, second):
        special = torch.isin(labels[drawn], torch.tensor([3, 4]))
        assert special.sum() == 16 == (~special).sum()
        assert len(drawn.unique()) == 32  # without replacement
    assert set(first.tolist()) != set(second.tolist())


def test_a_rest_that_is_smaller_is_taken_whole(generator):
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    sampler = HalfSpecial(labels, torch.tensor([0]))
    assert len(sampler) == 6 == len(sampler.draw(generator).unique())


@pytest.mark.parametrize(
    ("labels", "special", "sentence"),
    [
        ([0, 1, 2], [], "special .*is .*at least one class"),
        ([0, 1, 2], [0, 1, 2], "special .*holds all 3 classes"),
        ([0, 1, 2], [0, 99], r"special \(labels end at 2\) holds 99"),
        ([0, 1, 2], [1, 1], "special .*holds class 1 more than once"),
        ([0, 0, 2], [1], "of its special classes and of others"),
        ([2, 2, -100], [2], "of its special classes and of others"),
        ([-100, -100], [5], "labels has no case of a class above 0"),
        ([], [0], "labels has no case of a class above 0"),
    ],
)
def test_both_halves_need_cases(labels, special, sentence):
    with pytest.raises(ValueError, match=sentence):
        HalfSpecial(torch.tensor(labels, dtype=torch.int64), special)


# --- Section 6.1 ------------------------------------------------------------------------------------


def batch_of(labels, classes=6, seed=0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.empty(0), torch.tensor(labels), torch.randn(len(labels), classes, generator=generator))


@given(st.integers(0, 1000), st.floats(1, 10))
def test_kept_knowledge_by_class(seed, temperature):
    """Labels on all cases, and the divergence from the generalist among the other classes."""
    special, batch = torch.tensor([1, 4]), batch_of([0, 1, 4, 5], seed=seed)
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed + 1))
    p, q = ((z[:, [0, 2, 3, 5]].double() / temperature).softmax(1) for z in (batch.teacher_logits, logits))
    expected = F.cross_entropy(logits, batch.labels) + temperature**2 * (p * (p / q).log()).sum(1).mean()
    found = specialists.kept_knowledge(special, 6, temperature)(logits, batch)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)


def test_kept_knowledge_by_class_leaves_the_special_classes_to_the_labels():
    """Its soft part pulls no special logit: their gradient is that of the labels alone."""
    batch, special = batch_of([0, 1, 4, 5]), torch.tensor([1, 4])
    found, labels_only = (torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    specialists.kept_knowledge(special, 6, 3.0)(found, batch).backward()
    F.cross_entropy(labels_only, batch.labels).backward()
    torch.testing.assert_close(found.grad[:, special], labels_only.grad[:, special])
    assert not torch.allclose(found.grad, labels_only.grad)


@pytest.mark.parametrize("labels", [[0, 1, 4, 5], [1, 4], [0, 5, 2]])
def test_kept_knowledge_by_case(labels):
    special, batch, t = torch.tensor([1, 4]), batch_of(labels), 2.0
    logits = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(1))
    losses = []
    for z, v, label in zip(logits, batch.teacher_logits, labels, strict=True):
        p, q = (v / t).softmax(0), (z / t).softmax(0)
        losses.append(-z.log_softmax(0)[label] if label in (1, 4) else t**2 * (p * (p / q).log()).sum())
    found = specialists.kept_knowledge(special, 6, t, by="case")(logits, batch)
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by", ["class", "case"])
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"teacher_logits": None}, "needs a teacher"),
        ({"labels": None}, "needs labels"),
        ({"logits": torch.zeros(4, 7)}, r"^logits is \[4, 7\] but must be \[4, 6\]: .* made for 6 classes"),
        ({"logits": torch.zeros(4, 5)}, r"^logits is \[4, 5\]"),
        ({"teacher_logits": torch.zeros(4, 7)}, r"teacher_logits is \[4, 7\] but must be \[4, 6\]"),
        ({"teacher_logits": torch.zeros(3, 6)}, r"teacher_logits is \[3, 6\] but must be \[4, 6\]"),
        ({"labels": torch.tensor([[0], [1], [4], [5]])}, "labels is"),
    ],
)
def test_batches_that_do_not_fit_kept_knowledge(by, check, change, sentence):
    good = {"inputs": torch.empty(0), "labels": torch.tensor([0, 1, 4, 5]), "teacher_logits": torch.zeros(4, 6)}
    batch = {name: change.get(name, value) for name, value in good.items()}
    logits = change.get("logits", torch.zeros(4, 6))
    with pytest.raises(ValueError, match=sentence):
        specialists.kept_knowledge([1, 4], 6, 2.0, by=by)(logits, Batch(**batch, check=check))


@pytest.mark.parametrize("by", ["class", "case"])
def test_kept_knowledge_of_a_label_that_is_no_class(by):
    with pytest.raises(ValueError, match="labels must lie between 0 and 5"):
        specialists.kept_knowledge([1, 4], 6, 2.0, by=by)(torch.zeros(2, 6), batch_of([0, 6]))


def test_an_unknown_reading():
    with pytest.raises(ValueError, match='by must be "class" or "case"'):
        specialists.kept_knowledge(torch.tensor([0]), 3, 1.0, by="epoch")
