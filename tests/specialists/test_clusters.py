"""Clusters of classes that are confused, and random subsets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro import specialists


def confused(blocks: int, of: int, cases: int = 600, seed: int = 0) -> torch.Tensor:
    """Predictions that confuse the classes of a block, `of` each, with one another and with no others."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(cases, blocks * of, generator=generator)
    block = torch.randint(blocks, (cases,), generator=generator)
    logits += 5 * (torch.arange(blocks * of) // of == block[:, None])
    return logits.softmax(1)


def test_covariance_is_numpys():
    p = confused(3, 4, 50)
    np.testing.assert_allclose(specialists.covariance(p).numpy(), np.cov(p.double().numpy().T), rtol=1e-10)
    with pytest.raises(ValueError, match="two cases"):
        specialists.covariance(p[:1])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 100))
def test_covariance_of_parts_is_that_of_the_whole(sizes, seed):
    p = confused(3, 4, sum(sizes) + 1, seed)
    found = specialists.covariance(part for part in p.split([1, *sizes]))
    torch.testing.assert_close(found, torch.cov(p.double().T), rtol=1e-12, atol=1e-16)
    assert torch.equal(specialists.covariance(iter([p])), torch.cov(p.double().T))  # of one part to the last bit
    assert torch.equal(specialists.covariance(p), torch.cov(p.double().T))


def test_covariance_of_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="two cases"):
        specialists.covariance(iter([]))
    with pytest.raises(ValueError, match="12 classes in one part and 8 in another"):
        specialists.covariance(iter([confused(3, 4), confused(2, 4)]))
    with pytest.raises(ValueError, match="probabilities"):
        specialists.cluster_classes(iter([confused(3, 4), torch.randn(5, 12)]), 3, 4, seed=0)


@pytest.mark.parametrize("method", specialists.METHODS)
def test_clusters_are_the_blocks_that_are_confused(method):
    p = confused(6, 5)
    found = specialists.cluster_classes(p, 6, 5, seed=1, method=method)
    again = specialists.cluster_classes((part for part in p.split(70)), 6, 5, seed=1, method=method)
    assert [subset.tolist() for subset in again] == [subset.tolist() for subset in found]
    assert sorted(subset.tolist() for subset in found) == [list(range(5 * i, 5 * i + 5)) for i in range(6)]


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 11), st.integers(0, 100), st.sampled_from(specialists.METHODS))
def test_subsets_have_one_size_and_no_class_twice(count, size, seed, method):
    p = torch.rand(20, 12, generator=torch.Generator().manual_seed(seed)).softmax(1)
    found = specialists.cluster_classes(p, count, size, seed=seed, method=method)
    again = specialists.cluster_classes(p, count, size, seed=seed, method=method)
    assert len(found) == count
    for subset, same in zip(found, again, strict=True):
        assert torch.equal(subset, same)
        assert len(subset) == size == len(subset.unique())
        assert torch.equal(subset, subset.sort().values)
        assert set(subset.tolist()) <= set(range(12))


def test_subsets_may_overlap_and_are_larger_than_their_clusters():
    found = specialists.cluster_classes(confused(4, 5), 4, 8, seed=0)
    assert int(specialists.coverage(found, 20).max()) > 1
    assert specialists.coverage(found, 20).sum() == 32


def test_classes_that_are_never_predicted_are_no_trouble():
    p = torch.cat([confused(3, 4), torch.zeros(600, 3)], dim=1)
    assert len(specialists.cluster_classes(p, 5, 4, seed=0)) == 5


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (13, 3, "n_specialists must lie between 1 and the 12 classes, not 13"),
        (0, 3, "n_specialists must lie between 1"),
        (3, 12, "classes_per_specialist must lie between 1 and 11, so that the dustbin has a class, not 12"),
        (3, 0, "classes_per_specialist must lie between"),
    ],
)
def test_impossible_sizes(count, size, message):
    with pytest.raises(ValueError, match=message):
        specialists.cluster_classes(confused(3, 4), count, size, seed=0)
    with pytest.raises(ValueError, match=message):
        specialists.random_subsets(count, size, 12, generator=torch.Generator())


def test_an_unknown_clustering():
    with pytest.raises(ValueError, match="kmeans, ward, not 'spectral'"):
        specialists.cluster_classes(confused(3, 4), 3, 4, seed=0, method="spectral")


def test_random_subsets(generator):
    found = specialists.random_subsets(6, 4, 12, generator=generator)
    assert [len(subset.unique()) for subset in found] == [4] * 6
    assert len({tuple(subset.tolist()) for subset in found}) > 1
