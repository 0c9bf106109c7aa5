"""Published figures computed again from the predictions that lie beside a record, with no network and no training.

A published array says of every test case, in packed bits, whether a network got it right: [seeds, cases / 8]. Of the
figures of a claim, those that such arrays do not hold are reported by name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdrepro.verdicts import stats

Arrays = Mapping[str, np.ndarray]
Figures = dict[str, dict[str, Any]]  # claim -> metric -> one value a seed, or one number for all seeds


def figures(record: Mapping[str, Any], arrays: Arrays) -> Figures:
    """What the arrays beside a record give of its claims' metrics; nothing where there are none."""
    way = WAYS.get(record["chapter"])
    found = way(arrays) if way and arrays else {}
    return {claim: metrics for claim, metrics in found.items() if claim in record["claims"]}


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays beside a record; none where there are no such."""
    beside = path.with_suffix(".npz")
    if not beside.exists():
        return {}
    with np.load(beside, allow_pickle=False) as arrays:
        return dict(arrays)


def right(arrays: Arrays, name: str, cases: int) -> np.ndarray:
    """How many cases each seed's network gets right, [seeds]."""
    return np.unpackbits(arrays[name], axis=1, count=cases).sum(1).astype(int)


def _share(gained: np.ndarray, of: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return gained / of


# --- Section 3 ----------------------------------------------------------------------------------------------------


def mnist(arrays: Arrays) -> Figures:
    """Chapter 2: test errors, what is recovered, temperatures, digits never seen."""
    cases = int(arrays["cases"])
    errors = {
        name.removesuffix(".right"): cases - right(arrays, name, cases) for name in arrays if name.endswith(".right")
    }
    teacher, plain, distilled = (errors[name] for name in ("teacher", "plain", "distilled"))
    found: Figures = {
        "mnist.teacher": {"errors": teacher},
        "mnist.plain": {"errors": plain},
        "mnist.distilled": {"errors": distilled, "recovered": _share(plain - distilled, plain - teacher)},
        "mnist.omit3": {"errors": errors["without 3"]},
        "mnist.only78": {"error_rate": errors["only 7 and 8"] / cases},
        "mnist.omit3.bias": {"errors_label_free": errors["without 3, label-free shift"]},
        "mnist.only78.bias": {"error_rate_label_free": errors["only 7 and 8, label-free shift"] / cases},
    }
    for claim, metric, net in (
        ("mnist.omit3", "errors_on_3", "without 3"),
        ("mnist.omit3.bias", "errors_on_3_label_free", "without 3, label-free shift"),
    ):
        inside = int(arrays[f"{net}.cases on it"])
        found[claim][metric] = inside - right(arrays, f"{net}.right on it", inside)
    *wide, narrow = sorted(_by_temperature(errors).items(), reverse=True)
    found["mnist.temperature.wide"] = wide_temperatures([table for _, table in wide])
    found["mnist.temperature.narrow"] = narrow_temperatures(narrow[1])
    return found


def _by_temperature(errors: Mapping[str, np.ndarray]) -> dict[int, dict[float, np.ndarray]]:
    """Errors [seeds] of the students of each width, in units, and temperature."""
    found: dict[int, dict[float, np.ndarray]] = {}
    for name, counts in errors.items():
        if name.startswith("units "):
            units, temperature = name.removeprefix("units ").split(", T ")
            found.setdefault(int(units), {})[float(temperature)] = counts
    return found


def wide_temperatures(tables: list[Mapping[float, np.ndarray]]) -> dict[str, Any]:
    """How alike the temperatures above 8 are, for the width where they are least.

    tables: errors [seeds] by temperature, one a width.
    """
    high = [np.stack([counts for t, counts in sorted(table.items()) if t > 8], axis=1) for table in tables]
    means = [table.mean(0) for table in high]
    found = {
        "spread": max((m.max() - m.min()) / m.mean() for m in means),
        "seeds_each": min(len(table) for table in high),
    }
    p_values = [stats.friedman(table) for table in high]
    if None not in p_values:
        found["friedman_p"] = min(p_values)
    alike = [stats.equivalence_p(table, 0.1 * table.mean()) for table in high]
    if None not in alike:
        found["equivalence_p"] = max(alike)
    return found


def narrow_temperatures(table: Mapping[float, np.ndarray]) -> dict[str, Any]:
    """What temperatures from 2.5 to 4 save against higher and lower ones, and against their neighbours.

    table: errors [seeds] by temperature.
    """
    inside = np.mean([counts for t, counts in table.items() if 2.5 <= t <= 4], axis=0)
    higher, lower = ({t: c for t, c in table.items() if within(t)} for within in (lambda t: t > 4, lambda t: t < 2.5))
    neighbours = [higher[min(higher)], lower[max(lower)]]
    found = {
        "gain_over_higher": np.mean(list(higher.values()), axis=0) - inside,
        "gain_over_lower": np.mean(list(lower.values()), axis=0) - inside,
        "errors_inside": inside,
        "seeds_each": len(inside),
    }
    p_values = [stats.one_sided_p(counts - inside) for counts in neighbours]
    return found | ({} if None in p_values else {"neighbours_p": max(stats.holm(p_values))})


# --- Sections 4 and 6 ---------------------------------------------------------------------------------------------


def _frames(arrays: Arrays, system: str) -> np.ndarray:
    """Share of the test frames that each seed's net gets right, [seeds]."""
    return right(arrays, f"{system}.correct", int(arrays["frames"])) / int(arrays["frames"])


def _error_rate(arrays: Arrays, system: str) -> np.ndarray:
    """Errors after decoding over the reference's length, [seeds]."""
    *wrong, length = np.moveaxis(arrays[f"{system}.errors"].astype(int), 2, 0).sum(-1)
    return sum(wrong) / length


def _metric(arrays: Arrays) -> str:
    """Words are counted on synthetic speech, phones on TIMIT: told apart by how many there are in an utterance."""
    return "word_error_rate" if arrays["frames"] > 100_000 else "phone_error_rate"


def ensemble(arrays: Arrays) -> Figures:
    """Chapter 3: one net, ten, and the distilled one."""
    one, (ten,), student = (_frames(arrays, name) for name in ("baseline", "ensemble", "distilled"))
    rate = {name: _error_rate(arrays, name) for name in ("baseline", "ensemble", "distilled")}
    metric = _metric(arrays)
    return {
        "speech.baseline": {"frame_accuracy": one, "gain_of_ensemble": ten - one, metric: rate["baseline"]},
        "speech.ensemble": {"frame_accuracy": ten, "relative_gain": (ten - one) / one, metric: rate["ensemble"][0]},
        "speech.distilled": {
            "frame_accuracy": student,
            "relative_gain": (student - one) / one,
            metric: rate["distilled"],
        },
        "speech.recovered": {"recovered": _share(student - one, ten - one)},
    }


def soft_targets(arrays: Arrays) -> Figures:
    """Chapter 4: hard targets on everything and on little, soft ones on little."""
    systems = {"soft.full": "all, hard", "soft.hard3": "little, hard", "soft.soft3": "little, soft"}
    metric = _metric(arrays)
    found = {
        claim: {"frame_accuracy": _frames(arrays, name), metric: _error_rate(arrays, name)}
        for claim, name in systems.items()
    }
    full, hard, soft = (found[claim]["frame_accuracy"] for claim in systems)
    found["soft.full"]["gain_over_hard3"] = full - hard
    found["soft.soft3"]["recovered"] = _share(soft - hard, full - hard)
    return found


# --- Sections 5 and 8 ---------------------------------------------------------------------------------------------

TINY_IMAGENET_CASES = 10_000


def _accuracy(arrays: Arrays, system: str) -> np.ndarray:
    return right(arrays, f"{system}.right", TINY_IMAGENET_CASES) / TINY_IMAGENET_CASES


def specialists(arrays: Arrays) -> Figures:
    """Chapter 5: the generalist alone and with its specialists."""
    alone, together = _accuracy(arrays, "generalist"), _accuracy(arrays, "+ specialists")
    gain = {"relative_gain": (together - alone) / alone}
    return {"specialists.table3": {"accuracy": together, "accuracy_of_generalist": alone, **gain}}


def distilled_back(arrays: Arrays) -> Figures:
    """Chapter 7: the students of a generalist with its specialists, and the controls."""
    names = (
        "generalist",
        "generalist + specialists",
        "student of both",
        "student of the generalist",
        "trained on, labels only",
    )
    alone, committee, both, itself, labels = (_accuracy(arrays, name) for name in names)
    gain = committee - alone
    return {
        "beyond.distil_back": {
            "recovered": _share(both - alone, gain),
            "recovered_by_self_distillation": _share(itself - alone, gain),
            "recovered_by_labels": _share(labels - alone, gain),
            "gain_over_labels": both - labels,
            "gain_of_committee_over_labels": committee - labels,
            "accuracy": both,
        }
    }


WAYS: dict[str, Callable[[Arrays], Figures]] = {
    "02-mnist": mnist,
    "03-acoustic-ensemble": ensemble,
    "04-soft-targets": soft_targets,
    "05-specialists": specialists,
    "07-distil-back": distilled_back,
}
