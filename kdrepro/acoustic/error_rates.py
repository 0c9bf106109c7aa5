"""What a recogniser got wrong: substitutions, insertions and deletions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of a hypothesis against `length` reference symbols. Counts add: sum(counts, ErrorCounts())."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    length: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference symbol, a fraction that may exceed 1. Raises ValueError without any reference."""
        if self.length == 0:
            raise ValueError("There is no reference symbol, and so no error rate.")
        return self.errors / self.length

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.length + other.length,
        )


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCounts:
    """The errors of an alignment with the fewest: Levenshtein's distance, every error counting one.

    Of equally good alignments, read from the end, it takes a match or substitution before a deletion, and that
    before an insertion.
    """
    distance = _distances(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    substitutions = insertions = deletions = 0
    while i or j:
        here = distance[i][j]
        differs = i > 0 and j > 0 and reference[i - 1] != hypothesis[j - 1]
        if i and j and here == distance[i - 1][j - 1] + differs:
            i, j, substitutions = i - 1, j - 1, substitutions + differs
        elif i and here == distance[i - 1][j] + 1:
            i, deletions = i - 1, deletions + 1
        else:
            j, insertions = j - 1, insertions + 1
    return ErrorCounts(substitutions, insertions, deletions, len(reference))


def _distances(reference: Sequence[str], hypothesis: Sequence[str]) -> list[list[int]]:
    """Edit distances of all beginnings: [len(reference) + 1][len(hypothesis) + 1]."""
    row = list(range(len(hypothesis) + 1))
    rows = [row]
    for i, symbol in enumerate(reference, 1):
        above, row = row, [i]
        for j, other in enumerate(hypothesis):
            row.append(min(above[j] + (symbol != other), above[j + 1] + 1, row[j] + 1))
        rows.append(row)
    return rows
