"""The special classes that each specialist gets (Section 5.3)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdrepro.checks import as_classes, as_distributions, as_tensor
from kdrepro.errors import needed

METHODS = ("kmeans", "ward")
PASSES = 20  # of the on-line K-means over the columns


def covariance(probabilities: torch.Tensor) -> torch.Tensor:
    """Covariance matrix of the predictions over cases, float64 [C, C].

    probabilities: [B, C]. Its columns are large together for classes that are often predicted together.
    Raises ValueError for fewer than two cases.
    """
    probabilities = as_tensor(probabilities, "probabilities")
    if probabilities.dim() != 2 or len(probabilities) < 2:
        raise ValueError(f"probabilities must be [cases, classes] with two cases, not {list(probabilities.shape)}.")
    return torch.cov(probabilities.double().T)


def cluster_classes(
    probabilities: torch.Tensor,
    n_specialists: int,
    classes_per_specialist: int,
    *,
    seed: int,
    method: str = "kmeans",
) -> list[torch.Tensor]:
    """The special classes of each specialist, found from a generalist's predictions without labels (Section 5.3).

    probabilities: [B, C], predictions on unlabelled cases. method: "kmeans", an on-line K-means over the columns of
    their covariance matrix, as the paper has it; "ward", Ward's hierarchical clustering of them.
    A specialist gets the classes whose columns are nearest to its cluster's centre, so that subsets have one size and
    may overlap; the paper doesn't say how it came by its sets of 300. Columns are scaled to length 1 first: unscaled,
    a column is mostly its own variance, and the clusters are of classes that are equally frequent or hard.
    Returns n_specialists index tensors [classes_per_specialist], each ascending.
    Raises ValueError for logits in place of probabilities, more specialists than classes, subsets that leave no
    dustbin, and an unknown method, and InputError where scikit-learn is not installed.
    """
    probabilities = as_distributions(probabilities, "probabilities")
    classes = probabilities.shape[-1]
    _check_sizes(n_specialists, classes_per_specialist, classes)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    columns = covariance(probabilities).cpu().numpy().T
    columns = columns / np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-30)
    find = _online_kmeans if method == "kmeans" else _ward
    centres = find(columns, n_specialists, seed)
    distances = np.linalg.norm(columns[None] - centres[:, None], axis=2)  # [n_specialists, C]
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
