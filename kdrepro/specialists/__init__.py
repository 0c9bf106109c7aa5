"""Specialists (Section 5): the classes that each gets, its cases, its dustbin; `combine` is Eq. 5's answer.

A specialist knows its special classes and one dustbin class, the last column, which stands for all others.
"""

from kdrepro.specialists.clusters import METHODS, cluster_classes, covariance, coverage, random_subsets
from kdrepro.specialists.combining import Combined, active, combine
from kdrepro.specialists.specialist import (
    HalfSpecial,
    correct_dustbin,
    correct_full,
    kept_knowledge,
    oversampling,
    specialist_labels,
    with_dustbin,
)

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
