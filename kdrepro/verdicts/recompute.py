"""Published figures computed again from the predictions that lie beside a record, with no network and no training.

A published array says of every test case, in packed bits, whether a network got it right: [seeds, cases / 8]. Of the
figures of a claim, those that such arrays do not hold are reported by name.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdrepro.verdicts import stats

Arrays = Mapping[str, np.ndarray]
Metrics = dict[str, Any]  # one value a seed, or one number for all seeds


def figures(record: Mapping[str, Any], arrays: Arrays) -> dict[str, Metrics]:
    """What the arrays beside a record give of its claims' metrics; nothing of claims whose arrays are not there."""
    found = {}
    for claim in record["claims"].keys() & WAYS.keys():
        with contextlib.suppress(KeyError):
            found[claim] = WAYS[claim](arrays)
    return found


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


def _errors(arrays: Arrays, net: str) -> np.ndarray:
    """Test errors [seeds] of a net of chapter 2."""
    cases = int(arrays["cases"])
    return cases - right(arrays, f"{net}.right", cases)


def _errors_inside(arrays: Arrays, net: str) -> np.ndarray:
    """Errors [seeds] on the test cases of classes that the net has not seen."""
    inside = int(arrays[f"{net}.cases on it"])
    return inside - right(arrays, f"{net}.right on it", inside)


def _error_share(arrays: Arrays, net: str) -> np.ndarray:
    return _errors(arrays, net) / int(arrays["cases"])


def _distilled(arrays: Arrays) -> Metrics:
    teacher, plain, distilled = (_errors(arrays, net) for net in ("teacher", "plain", "distilled"))
    return {"errors": distilled, "recovered": _share(plain - distilled, plain - teacher)}


def _without_3(arrays: Arrays) -> Metrics:
    return {"errors": _errors(arrays, "without 3"), "errors_on_3": _errors_inside(arrays, "without 3")}


def _without_3_shifted(arrays: Arrays) -> Metrics:
    net = "without 3, label-free shift"
    found = {"errors_label_free": _errors(arrays, net), "errors_on_3_label_free": _errors_inside(arrays, net)}
    if "without 3, best shift.right" in arrays:
        best, same = "without 3, best shift", "without 3, the paper's shift"
        threes = int(arrays[f"{best}.cases on it"])
        found |= {"errors": _errors(arrays, best), "errors_on_3": _errors_inside(arrays, best)}
        found |= {"right_on_3": 1 - found["errors_on_3"] / threes, "errors_at_paper_shift": _errors(arrays, same)}
        found["errors_on_3_at_paper_shift"] = _errors_inside(arrays, same)
    return found


def _only_78_shifted(arrays: Arrays) -> Metrics:
    found = {"error_rate_label_free": _error_share(arrays, "only 7 and 8, label-free shift")}
    if "only 7 and 8, best shift.right" in arrays:
        found["error_rate"] = _error_share(arrays, "only 7 and 8, best shift")
        found["error_rate_at_paper_shift"] = _error_share(arrays, "only 7 and 8, the paper's shift")
    return found


def _by_temperature(arrays: Arrays) -> dict[int, dict[float, np.ndarray]]:
    """Errors [seeds] of the students of each width, in units, and temperature; the widest first."""
    found: dict[int, dict[float, np.ndarray]] = {}
    for name in arrays:
        if name.startswith("units ") and name.endswith(".right"):
            net = name.removesuffix(".right")
            units, temperature = net.removeprefix("units ").split(", T ")
            found.setdefault(int(units), {})[float(temperature)] = _errors(arrays, net)
    if not found:
        raise KeyError("units")
    return dict(sorted(found.items(), reverse=True))


def wide_temperatures(tables: list[Mapping[float, np.ndarray]]) -> Metrics:
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


def narrow_temperatures(table: Mapping[float, np.ndarray]) -> Metrics:
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


def _baseline(arrays: Arrays) -> Metrics:
    one, (ten,) = _frames(arrays, "baseline"), _frames(arrays, "ensemble")
    return {"frame_accuracy": one, "gain_of_ensemble": ten - one, _metric(arrays): _error_rate(arrays, "baseline")}


def _ensemble(arrays: Arrays) -> Metrics:
    one, (ten,) = _frames(arrays, "baseline"), _frames(arrays, "ensemble")
    rate = _error_rate(arrays, "ensemble")[0]
    return {"frame_accuracy": ten, "relative_gain": (ten - one) / one, _metric(arrays): rate}


def _student(arrays: Arrays) -> Metrics:
    one, student = _frames(arrays, "baseline"), _frames(arrays, "distilled")
    rate = _error_rate(arrays, "distilled")
    return {"frame_accuracy": student, "relative_gain": (student - one) / one, _metric(arrays): rate}


def _recovered(arrays: Arrays) -> Metrics:
    one, (ten,), student = (_frames(arrays, name) for name in ("baseline", "ensemble", "distilled"))
    return {"recovered": _share(student - one, ten - one)}


def _decoded(arrays: Arrays, system: str) -> Metrics:
    return {"frame_accuracy": _frames(arrays, system), _metric(arrays): _error_rate(arrays, system)}


def _full(arrays: Arrays) -> Metrics:
    gain = _frames(arrays, "all, hard") - _frames(arrays, "little, hard")
    return _decoded(arrays, "all, hard") | {"gain_over_hard3": gain}


def _soft3(arrays: Arrays) -> Metrics:
    full, hard, soft = (_frames(arrays, name) for name in ("all, hard", "little, hard", "little, soft"))
    return _decoded(arrays, "little, soft") | {"recovered": _share(soft - hard, full - hard)}


# --- Sections 5 and 8 ---------------------------------------------------------------------------------------------


def _accuracy(arrays: Arrays, system: str) -> np.ndarray:
    cases = int(arrays.get("cases", 10_000))  # the first published arrays are of Tiny ImageNet, and do not say
    return right(arrays, f"{system}.right", cases) / cases


def _table3(arrays: Arrays) -> Metrics:
    alone, together = _accuracy(arrays, "generalist"), _accuracy(arrays, "+ specialists")
    gain = (together - alone) / alone
    return {"accuracy": together, "accuracy_of_generalist": alone, "relative_gain": gain}


def _distilled_back(arrays: Arrays) -> Metrics:
    students = ("student of both", "student of the generalist", "trained on, labels only")
    alone, committee = _accuracy(arrays, "generalist"), _accuracy(arrays, "generalist + specialists")
    both, itself, labels = (_accuracy(arrays, name) for name in students)
    gain = committee - alone
    return {
        "recovered": _share(both - alone, gain),
        "recovered_by_self_distillation": _share(itself - alone, gain),
        "recovered_by_labels": _share(labels - alone, gain),
        "gain_over_labels": both - labels,
        "gain_of_committee_over_labels": committee - labels,
        "accuracy": both,
    }


WAYS: dict[str, Callable[[Arrays], Metrics]] = {
    "mnist.teacher": lambda arrays: {"errors": _errors(arrays, "teacher")},
    "mnist.plain": lambda arrays: {"errors": _errors(arrays, "plain")},
    "mnist.distilled": _distilled,
    "mnist.temperature.wide": lambda arrays: wide_temperatures(list(_by_temperature(arrays).values())[:-1]),
    "mnist.temperature.narrow": lambda arrays: narrow_temperatures(list(_by_temperature(arrays).values())[-1]),
    "mnist.omit3": _without_3,
    "mnist.omit3.bias": _without_3_shifted,
    "mnist.only78": lambda arrays: {"error_rate": _error_share(arrays, "only 7 and 8")},
    "mnist.only78.bias": _only_78_shifted,
    "speech.baseline": _baseline,
    "speech.ensemble": _ensemble,
    "speech.distilled": _student,
    "speech.recovered": _recovered,
    "soft.full": _full,
    "soft.hard3": lambda arrays: _decoded(arrays, "little, hard"),
    "soft.soft3": _soft3,
    "specialists.table3": _table3,
    "beyond.distil_back": _distilled_back,
}
