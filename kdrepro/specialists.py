"""Specialists (Section 5): the classes that each gets, its cases, its dustbin; `combine` is Eq. 5's answer.

A specialist knows its special classes and one dustbin class, the last column, which stands for all others.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import AgglomerativeClustering, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from kdrepro.combining import active, combine
from kdrepro.losses import distillation_loss
from kdrepro.training import Batch, Objective

__all__ = [
    "METHODS",
    "Combined",
    "HalfSpecial",
    "active",
    "cluster_classes",
    "combine",
    "correct_dustbin",
    "correct_full",
    "covariance",
    "coverage",
    "kept_knowledge",
    "oversampling",
    "random_subsets",
    "specialist_labels",
    "with_dustbin",
]

METHODS = ("kmeans", "ward")
PASSES = 20  # of the on-line K-means over the columns


def covariance(probabilities: torch.Tensor) -> torch.Tensor:
    """Covariance matrix of the predictions over cases, float64 [C, C].

    probabilities: [B, C]. Its columns are large together for classes that are often predicted together.
    Raises ValueError for fewer than two cases.
    """
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
    Raises ValueError for more specialists than classes, subsets that leave no dustbin, and an unknown method.
    """
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
    """How many specialists have each class, int64 [classes]."""
    return torch.bincount(torch.cat(list(subsets)), minlength=classes)


def oversampling(share: float) -> float:
    """By how much half a training set of special cases oversamples them against the dustbin.

    share: of all cases that are of special classes, f. Trained on equal parts, a network's odds of special against
    dustbin are too high by (1 - f) / f; adding the logarithm of that to the dustbin's logit makes its prior right.
    (The paper's "proportion by which the special class is oversampled" may also be read as 0.5 / f.)
    Raises ValueError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}: all or none of the cases are special.")
    return (1 - share) / share


def correct_dustbin(logits: torch.Tensor, oversampling: float) -> torch.Tensor:
    """Logits [B, S + 1] with log(oversampling) added to the last column, the dustbin's (Section 5.2).

    Raises ValueError when oversampling is not a positive number.
    """
    if not (oversampling > 0 and math.isfinite(oversampling)):
        raise ValueError(f"oversampling must be a positive number, not {oversampling}.")
    corrected = logits.clone()
    corrected[:, -1] += math.log(oversampling)
    return corrected


def specialist_labels(labels: torch.Tensor, special: torch.Tensor, classes: int) -> torch.Tensor:
    """Labels [N] as a specialist has them: the position in `special`, or len(special), the dustbin."""
    position = torch.full((classes,), len(special), dtype=torch.int64, device=labels.device)
    position[special.to(labels.device)] = torch.arange(len(special), device=labels.device)
    return position[labels]


@torch.no_grad()
def with_dustbin(output: nn.Linear, special: torch.Tensor) -> nn.Linear:
    """A generalist's last layer cut down to the special classes and a dustbin, where a specialist starts.

    output: a layer to C classes; special: [S]. The dustbin gets the mean of the other classes' weights and biases, and
    the logarithm of their number on top: the logarithm of their summed odds, if they were equal.
    """
    others = torch.ones(len(output.bias), dtype=torch.bool)
    others[special] = False
    layer = nn.utils.skip_init(nn.Linear, output.in_features, len(special) + 1)
    layer.weight.copy_(torch.cat([output.weight[special], output.weight[others].mean(0, keepdim=True)]))
    dustbin = output.bias[others].mean() + math.log(int(others.sum()))
    layer.bias.copy_(torch.cat([output.bias[special], dustbin.view(1)]))
    return layer


def kept_knowledge(special: torch.Tensor, classes: int, temperature: float, by: str = "class") -> Objective:
    """Section 6.1's loss of a specialist with a full softmax, whose batches carry the generalist's logits.

    special: [S] class indices. by: "class", the labels of all cases and, on every case, the generalist's soft targets
    among the non-special classes (both distributions renormalised over them); or "case", the labels of the special
    cases and the generalist's whole soft targets for the others.
    Raises ValueError for another `by`.
    """
    if by not in ("class", "case"):
        raise ValueError(f'by must be "class" or "case", not {by!r}.')
    inside = torch.zeros(classes, dtype=torch.bool)
    inside[special] = True

    def by_class(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        others = ~inside.to(logits.device)
        soft = distillation_loss(logits[:, others], batch.teacher_logits[:, others], temperature=temperature)
        return F.cross_entropy(logits, batch.labels) + soft

    def by_case(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        hard = inside.to(logits.device)[batch.labels]
        loss = logits.new_zeros(())
        if hard.any():
            loss = loss + F.cross_entropy(logits[hard], batch.labels[hard], reduction="sum")
        if not hard.all():
            soft = distillation_loss(logits[~hard], batch.teacher_logits[~hard], temperature=temperature)
            loss = loss + soft * (~hard).sum()
        return loss / len(logits)

    return by_class if by == "class" else by_case


def correct_full(logits: torch.Tensor, special: torch.Tensor, oversampling: float) -> torch.Tensor:
    """As `correct_dustbin`, for logits [B, C]: log(oversampling) is added to all classes that are not special."""
    corrected = logits + math.log(oversampling)
    corrected[:, special] = logits[:, special]
    return corrected


class Combined(nn.Module):
    """A generalist with its specialists as one network: inputs to log q of Eq. 5 [B, C], to be used as logits.

    specialists: with a dustbin each; subsets: their special classes; oversamplings: of their dustbins (see
    `correct_dustbin`). A specialist looks only at the cases that make it active.
    """

    LEAST = 1e-12  # a class's q: its logarithm must be finite

    def __init__(
        self,
        generalist: nn.Module,
        specialists: Sequence[nn.Module],
        subsets: Sequence[torch.Tensor],
        oversamplings: Sequence[float],
        top_n: int = 1,
    ):
        super().__init__()
        self.generalist, self.specialists = generalist, nn.ModuleList(specialists)
        self.subsets, self.oversamplings, self.top_n = list(subsets), list(oversamplings), top_n

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self.generalist(x).double().softmax(1)
        is_active = active(p, self.subsets, self.top_n)
        opinions = []
        for i, (network, subset) in enumerate(zip(self.specialists, self.subsets, strict=True)):
            logits = p.new_zeros(len(p), len(subset) + 1)
            which = is_active[:, i]
            if which.any():
                logits[which] = correct_dustbin(network(x[which]).double(), self.oversamplings[i])
            opinions.append(logits.softmax(1))
        return combine(p, opinions, self.subsets, top_n=self.top_n).clamp(min=self.LEAST).log().float()


class HalfSpecial:
    """An epoch of a specialist: all cases of its special classes, and as many drawn at random from the rest.

    labels: of all training cases, [N]. special: class indices. The rest is drawn anew for each epoch, without
    replacement; where it is the smaller half, all of it is taken.
    Raises ValueError when either half is empty.
    """

    def __init__(self, labels: torch.Tensor, special: torch.Tensor):
        inside = torch.isin(labels, special.to(labels.device))
        self.special, self.rest = inside.nonzero().flatten(), (~inside).nonzero().flatten()
        if len(self.special) == 0 or len(self.rest) == 0:
            raise ValueError("A specialist needs training cases of its special classes and of others.")
        self.count = min(len(self.special), len(self.rest))  # of the rest

    @property
    def share(self) -> float:
        """Special cases among all, f."""
        return len(self.special) / (len(self.special) + len(self.rest))

    def __len__(self) -> int:
        return len(self.special) + self.count

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Indices of an epoch's cases, the special ones first."""
        order = torch.randperm(len(self.rest), generator=generator, device=self.rest.device)
        return torch.cat([self.special, self.rest[order[: self.count]]])


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
    kmeans = MiniBatchKMeans(clusters, random_state=seed, n_init=3, reassignment_ratio=0.0)
    size = min(len(columns), max(clusters, 32))  # the first group must have a column for every centre
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal columns: fewer centres than asked for
        for _ in range(PASSES):
            order = random.permutation(len(columns))
            for first in range(0, len(columns) - size + 1, size):
                kmeans.partial_fit(columns[order[first : first + size]])
    return kmeans.cluster_centers_


def _ward(columns: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Centres of Ward's clusters; nothing is drawn."""
    labels = AgglomerativeClustering(clusters).fit_predict(columns)
    return np.stack([columns[labels == i].mean(0) for i in range(clusters)])
