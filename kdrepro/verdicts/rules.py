"""Rules that turn figures into a verdict, and can say that the figures do not tell.

A condition holds, or is refuted, or stays open: an interval may lie on one side of a bound, on the other, or across it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdrepro.settings import Settings
from kdrepro.verdicts import stats, wording

# "not decided": the evidence cannot tell. "not run": this run is not on the data that decides.
Verdict = Literal["reproduced", "partly", "not reproduced", "not decided", "not run"]


class Condition(Settings):
    """One comparison on one metric.

    stat: what is compared with the bound. "mean", which holds or is refuted. "ci_low" with at_least, or "ci_high" with
    at_most: an end of the 95 % interval over seeds; refuted where the other end too is on the wrong side, else open.
    `level` asks for an interval of another level, where several claims are tested together; it is computed from the
    values of the seeds, so that a metric without such has none, and the condition stays open.
    "equivalence": two one-sided t tests at 5 % that the mean lies within `margin` of 0, which is whether its 90 %
    interval does; refuted where all of that lies outside. "p": a p-value, at most so large; never refuted, since a test
    that finds nothing shows nothing. "end": the metric is itself an end of an interval, over voices or images, and
    `other` the metric that is its other end; refuted where that too is on the wrong side, else open.
    """

    later: ClassVar[frozenset[str]] = frozenset({"level", "other"})

    metric: str
    stat: Literal["mean", "ci_low", "ci_high", "equivalence", "p", "end"] = "mean"
    at_least: float | None = None
    at_most: float | None = None
    margin: Annotated[float, Field(gt=0)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] | None = None  # .95, as records have it, unless given
    other: str | None = None

    @model_validator(mode="after")
    def _has_the_bound_of_its_stat(self) -> Self:
        given = {name for name in ("at_least", "at_most", "margin") if getattr(self, name) is not None}
        wanted = {"ci_low": {"at_least"}, "ci_high": {"at_most"}, "equivalence": {"margin"}, "p": {"at_most"}}
        if not given or given != wanted.get(self.stat, given - {"margin"}):
            raise ValueError(f"a condition on {self.stat} of {self.metric} has {sorted(given) or 'no bound'}")
        if self.level is not None and self.stat not in ("ci_low", "ci_high"):
            raise ValueError(f"a condition on {self.stat} of {self.metric} has no interval, so leave its level out")
        if (self.other is not None) != (self.stat == "end"):
            raise ValueError(f'a condition on {self.stat} of {self.metric} has `other` where its stat is "end", only')
        return self

    def holds(self, entry: Mapping[str, Any]) -> bool | None:
        """Whether it holds of a record's claim entry; None where that is open, or the metric is not there."""
        mean = entry["mean"].get(self.metric)
        if mean is None:
            return None
        if self.stat == "mean":
            return self._inside(mean, mean)
        if self.stat == "p":
            return True if mean <= self.at_most else None
        interval = self._interval(entry)
        return None if interval is None else self._inside(*interval)

    def compared(self, entry: Mapping[str, Any]) -> float | None:
        """What is compared with the bound; None where it is not there, and of an equivalence, which compares two."""
        mean = entry["mean"].get(self.metric)
        if mean is None or self.stat not in ("ci_low", "ci_high"):
            return None if self.stat == "equivalence" else mean
        interval = self._interval(entry)
        return interval and interval[0 if self.stat == "ci_low" else 1]

    def margin_of(self, entry: Mapping[str, Any]) -> float | None:
        """How far what is compared lies from the nearer bound, as a share of half the width of its interval.

        None where there is no interval: of one seed, of a p-value, of one number for all seeds together.
        """
        value = self.compared(entry)
        if value is None:
            return None
        interval = entry["ci95"].get(self.metric) if self.stat == "mean" else self._interval(entry)
        if not interval or interval[0] == interval[1]:
            return None
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        return min(abs(value - bound) for bound in bounds) / ((interval[1] - interval[0]) / 2)

    def figure(self, entry: Mapping[str, Any]) -> str:
        """What is compared with the bound, where a reader would not find it beside; "" elsewhere.

        So of an end at a level that records do not have, and of a figure that is written like its bound.
        """
        value = self.compared(entry)
        if value is None:
            return ""
        alike = [bound for bound in (self.at_least, self.at_most) if wording.look_alike(self.metric, value, bound)]
        if alike:
            return wording.apart(self.metric, value, alike[0])
        return wording.written(self.metric, value) if self.level else ""

    def _interval(self, entry: Mapping[str, Any]) -> Sequence[float] | None:
        if self.stat == "end":
            ends = [entry["mean"][name] for name in (self.metric, self.other) if name in entry["mean"]]
            return sorted(ends) if len(ends) == 2 else None
        level = 0.9 if self.stat == "equivalence" else self.level
        if level is None:
            return entry["ci95"].get(self.metric)
        return stats.mean_ci(entry["metrics"].get(self.metric, [entry["mean"][self.metric]]), level)[1]

    def _inside(self, low: float, high: float) -> bool | None:
        """Whether a range lies within the bounds, wholly outside of them (False), or across one (None)."""
        least = -self.margin if self.margin else self.at_least if self.at_least is not None else -float("inf")
        most = self.margin if self.margin else self.at_most if self.at_most is not None else float("inf")
        if least <= low and high <= most:
            return True
        return False if high < least or low > most else None

    def __str__(self) -> str:
        level = "" if self.level is None else f" ({100 * self.level:g} %)"
        end = {"ci_low": f"lower end{level} of ", "ci_high": f"upper end{level} of "}.get(self.stat, "")
        name = end + wording.name(self.metric)
        if self.stat == "equivalence":
            return f"{name} within ±{wording.written(self.metric, self.margin)} (two one-sided tests)"
        bounds = [f"{name} ≥ {wording.written(self.metric, self.at_least)}"] if self.at_least is not None else []
        return " and ".join(
            bounds + ([f"{name} ≤ {wording.written(self.metric, self.at_most)}"] if self.at_most is not None else [])
        )


class Rule(Settings):
    """`reproduced` if all its conditions hold, else `partly` if all of its do.

    Else `not reproduced` if one of the weaker list (`partly`, or `reproduced` where that is all) is refuted, and
    `not decided` if none is. It is `not decided` too unless all of `premise` hold, without which there is nothing to
    judge: a remedy against overfitting where nothing overfits, say.
    """

    reproduced: Annotated[list[Condition], Field(min_length=1)]
    partly: list[Condition] = []
    premise: list[Condition] = []

    def verdict(self, entry: Mapping[str, Any], across: Condition | None = None) -> Verdict:
        """What it makes of a record's claim entry.

        across: one of its conditions, taken as if its figure lay just on the other side of its bound.
        """

        def holds(condition: Condition) -> bool | None:
            found = condition.holds(entry)
            if condition != across:
                return found
            return (False if condition.stat == "mean" else None) if found else True

        if not all(map(holds, self.premise)):
            return "not decided"
        if all(map(holds, self.reproduced)):
            return "reproduced"
        if self.partly and all(map(holds, self.partly)):
            return "partly"
        refuted = any(holds(condition) is False for condition in self.partly or self.reproduced)
        return "not reproduced" if refuted else "not decided"

    @property
    def lists(self) -> dict[str, Sequence[Condition]]:
        """Its conditions, by what they are for."""
        return {"premise": self.premise, "reproduced": self.reproduced, "partly": self.partly}

    @property
    def metrics(self) -> set[str]:
        """All that its conditions read."""
        conditions = [condition for these in self.lists.values() for condition in these]
        return {name for one in conditions for name in (one.metric, one.other) if name is not None}

    def why(self, entry: Mapping[str, Any]) -> list["Reason"]:
        """Each of its conditions, with what the entry says of it."""
        return [
            Reason(
                verdict,
                condition,
                condition.holds(entry),
                condition.metric in entry["mean"],
                condition.figure(entry),
                condition.metric in (entry.get("pooled") or {}),
            )
            for verdict, conditions in self.lists.items()
            for condition in conditions
        ]


@dataclass(frozen=True)
class Reason:
    """A condition of a verdict, and whether it holds.

    measured: whether the run has its metric at all. figure: see `Condition.figure`. pooled: whether the metric is one
    number for all seeds together, and no mean.
    """

    verdict: str
    condition: Condition
    holds: bool | None
    measured: bool
    figure: str = ""
    pooled: bool = False

    def __str__(self) -> str:
        return f"{self.condition}: {f'{self.figure}, ' if self.figure else ''}{self.word}"

    @property
    def word(self) -> str:
        """Whether the condition holds, as a reader gets it: a mean that misses its bound refutes nothing by itself."""
        if self.holds is None:
            return "open" if self.measured else "not measured yet"
        if self.holds:
            return "holds"
        if self.condition.stat != "mean":
            return "refuted"
        return "missed" if self.pooled else "missed by the mean"
