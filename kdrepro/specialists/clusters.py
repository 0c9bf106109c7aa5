"""The special classes that each specialist gets (Section 5.3)."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from kdrepro.checks import as_classes, as_distributions, as_tensor, with_float64
from kdrepro.errors import needed

METHODS = ("kmeans", "ward")
PASSES = 20  # of the on-line K-means over the columns


def _parts(probabilities: torch.Tensor | Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The parts of predictions: all of them are one, where they are not in parts."""
    return probabilities if isinstance(probabilities, Iterator) else iter([probabilities])


def covariance(probabilities: torch.Tensor | Iterator[torch.Tensor]) -> torch.Tensor:
    """Covariance matrix of the predictions over cases, float64 [C, C].

    probabilities: [B, C], or an iterator over parts [b, C] of them, of which one at a time is looked at. The matrix's
    columns are large together for classes that are often predicted together.
    Raises ValueError for fewer than two cases, and for parts of different classes.
    """
    cases, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for part in _parts(probabilities):
        part = as_tensor(part, "probabilities")
        if part.dim() != 2 or not len(part):
            raise ValueError(f"probabilities must be [cases, classes] with two cases, not {list(part.shape)}.")
        if cases and part.shape[1] != len(mean):
            raise ValueError(f"probabilities have {len(mean)} classes in one part and {part.shape[1]} in another.")
        part, before = with_float64(part).double(), cases
        cases += len(part)
        own_mean, own = part.mean(0), torch.cov(part.T, correction=len(part) - 1)  # a sum, not divided by anything
        if not before:
            mean, scatter = own_mean, own
            continue
        # Both around their own means: what these differ by is the rest. So nothing large is ever taken off.
        apart = own_mean - mean
        scatter += own
        scatter.addr_(apart, apart, alpha=before * len(part) / cases)
        mean = mean + apart * (len(part) / cases)
    if cases < 2:
        raise ValueError(f"probabilities must be [cases, classes] with two cases, not {[cases, *mean.shape]}.")
    return scatter.reshape(len(mean), len(mean)) / (cases - 1)


def cluster_classes(
    probabilities: torch.Tensor | Iterator[torch.Tensor],
    n_specialists: int,
    classes_per_specialist: int,
    *,
    seed: int,
    method: str = "kmeans",
) -> list[torch.Tensor]:
    """The special classes of each specialist, found from a generalist's predictions without labels (Section 5.3).

    probabilities: [B, C], predictions on unlabelled cases, or an iterator over parts of them, see `covariance`.
    method: "kmeans", an on-line K-means over the columns of their covariance matrix, as the paper has it; "ward",
    Ward's hierarchical clustering of them.
    A specialist gets the classes whose columns are nearest to its cluster's centre, so that subsets have one size and
    may overlap; the paper doesn't say how it came by its sets of 300. Columns are scaled to length 1 first: unscaled,
    a column is mostly its own variance, and the clusters are of classes that are equally frequent or hard.
    Returns n_specialists index tensors [classes_per_specialist], each ascending.
    Raises ValueError for logits in place of probabilities, more specialists than classes, subsets that leave no
    dustbin, and an unknown method, and InputError where scikit-learn is not installed.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    parts = (as_distributions(part, "probabilities") for part in _parts(probabilities))
    columns = covariance(parts).cpu().numpy().T
    _check_sizes(n_specialists, classes_per_specialist, len(columns))
    columns = columns / np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-30)
    find = _online_kmeans if method == "kmeans" else _ward
    centres = find(columns, n_specialists, seed)
    # One centre at a time: of thousands of classes, all differences at once would be gigabytes. [n_specialists, C]
    distances = np.stack([np.linalg.norm(columns - centre, axis=1) for centre in centres])
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :classes_per_specialist]
    return [torch.from_numpy(np.sort(row)) for row in nearest]


def random_subsets(
    n_specialists: int, classes_per_specialist: int, classes: int, *, generator: torch.Generator
) -> list[torch.Tensor]:
    """Subsets of the same sizes drawn at random: what clusters are compared with. Raises ValueError as above."""
    _check_sizes(n_specialists, classes_per_specialist, classes)
    orders = [torch.randperm(classes, generator=generator) for _ in range(n_specialists)]
    return [order[:classes_per_specialist].sort().values for order in orders]


def coverage(subsets: Sequence[torch.Tensor], classes: int) -> torch.Tensor:
    """How many specialists have each class, int64 [classes]. Raises ValueError for subsets that are none of them."""
    return torch.bincount(torch.cat([as_classes(s, classes, "subsets") for s in subsets]), minlength=classes)


def _check_sizes(n_specialists: int, classes_per_specialist: int, classes: int) -> None:
    if not 1 <= n_specialists <= classes:
        raise ValueError(f"n_specialists must lie between 1 and the {classes} classes, not {n_specialists}.")
    if not 1 <= classes_per_specialist < classes:
        raise ValueError(
            f"classes_per_specialist must lie between 1 and {classes - 1}, so that the dustbin has a class, "
            f"not {classes_per_specialist}."
        )


def _online_kmeans(columns: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Centres [clusters, C] of an on-line K-means: columns come in small random groups, each moves its centres."""
    random = np.random.default_rng(seed)
    kmeans = _sklearn("cluster").MiniBatchKMeans(clusters, random_state=seed, n_init=3, reassignment_ratio=0.0)
    size = min(len(columns), max(clusters, 32))  # the first group must have a column for every centre
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", _sklearn("exceptions").ConvergenceWarning
        )  # equal columns: fewer centres than asked for
        for _ in range(PASSES):
            order = random.permutation(len(columns))
            for first in range(0, len(columns) - size + 1, size):
                kmeans.partial_fit(columns[order[first : first + size]])
    return kmeans.cluster_centers_


def _ward(columns: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Centres of Ward's clusters; nothing is drawn."""
    labels = _sklearn("cluster").AgglomerativeClustering(clusters).fit_predict(columns)
    return np.stack([columns[labels == i].mean(0) for i in range(clusters)])


def _sklearn(module: str) -> Any:
    return needed(f"sklearn.{module}", "sklearn", "specialists.cluster_classes")
