"""Section 3: the headline, temperatures, and the biases of digits that a net has not seen."""

from collections.abc import Callable, Mapping

import numpy as np

from kdrepro.verdicts import stats
from kdrepro.verdicts.recompute.arrays import Arrays, Errors, Metrics, errors, errors_by, right, share

ALIKE = "labels alone, as distilled"  # nets with the distilled ones' recipe but for the soft targets


def best_shift(arrays: Arrays, net: str) -> tuple[np.ndarray, np.ndarray]:
    """The shift of the unseen classes with the fewest errors, and those errors, [seeds] each.

    `net.needed` [seeds, cases]: the shift from which on the answer is an unseen class. `net.seen right` and
    `net.unseen right`, packed bits: whether the best answer among these classes is right. Among equally good shifts,
    the middle of the widest range, the outermost ranges one wide; in the precision of `net.needed`, whose rounding
    decides between ranges of equal width.
    """
    found = []
    for seed, needed in enumerate(arrays[f"{net}.needed"]):
        before, after = (
            np.unpackbits(arrays[f"{net}.{kind} right"][seed], count=len(needed)).astype(int)
            for kind in ("seen", "unseen")
        )
        order = needed.argsort(kind="stable")
        wrong = np.cumsum(np.concatenate([[(1 - before).sum()], (before - after)[order]]))
        edges = np.concatenate([[needed.min() - 1], needed[order], [needed.max() + 1]])
        widths = np.diff(edges)
        fewest = wrong[widths > 0].min()
        widest = np.where(wrong == fewest, widths, 0).argmax()
        found.append(((edges[widest] + edges[widest + 1]) / 2, fewest))
    shifts, counts = zip(*found, strict=True)
    return np.array(shifts), np.array(counts)


def _errors_inside(arrays: Arrays, net: str) -> np.ndarray:
    """Errors [seeds] on the test cases of classes that the net has not seen."""
    inside = int(arrays[f"{net}.cases on it"])
    return inside - right(arrays, net, "right on it", inside)


def _error_share(arrays: Arrays, net: str) -> np.ndarray:
    return errors(arrays, net) / int(arrays["cases"])


def _distilled(arrays: Arrays) -> Metrics:
    teacher, plain = (errors(arrays, net) for net in ("teacher", "plain"))
    others = [name.removesuffix(".right") for name in arrays if name.startswith("distilled, student ")]
    distilled = np.mean([errors(arrays, net) for net in ("distilled", *others)], axis=0)  # of each teacher's students
    found = {"errors": distilled, "recovered": share(plain - distilled, plain - teacher)}
    if f"{ALIKE}.right" in arrays:
        found["errors_of_labels"] = errors(arrays, ALIKE)
        found["errors_saved"] = found["errors_of_labels"] - distilled
        found["recovered_of_labels"] = share(found["errors_saved"], found["errors_of_labels"] - teacher)
    return found


def _without_3(arrays: Arrays) -> Metrics:
    found = {"errors": errors(arrays, "without 3"), "errors_on_3": _errors_inside(arrays, "without 3")}
    if "without 3, labels alone.right" in arrays:
        found["errors_on_3_of_labels"] = _errors_inside(arrays, "without 3, labels alone")
        found["errors_saved_on_3"] = found["errors_on_3_of_labels"] - found["errors_on_3"]
    return found


def _without_3_shifted(arrays: Arrays) -> Metrics:
    net, control = "without 3, label-free shift", "without 3, labels alone, best shift"
    found = {"errors_label_free": errors(arrays, net), "errors_on_3_label_free": _errors_inside(arrays, net)}
    if "without 3, best shift.right" in arrays:
        best, same = "without 3, best shift", "without 3, the paper's shift"
        threes = int(arrays[f"{best}.cases on it"])
        found |= {"errors": errors(arrays, best), "errors_on_3": _errors_inside(arrays, best)}
        found |= {"right_on_3": 1 - found["errors_on_3"] / threes, "errors_at_paper_shift": errors(arrays, same)}
        found["errors_on_3_at_paper_shift"] = _errors_inside(arrays, same)
        found["errors_equal_shares"] = errors(arrays, "without 3, equal shares shift")
    if f"{control}.right" in arrays:
        found["errors_of_labels"] = errors(arrays, control)
        found["errors_saved"] = found["errors_of_labels"] - found["errors"]
    return found | _shifts(arrays, "without 3")


def _only_78(arrays: Arrays) -> Metrics:
    found = {"error_rate": _error_share(arrays, "only 7 and 8")}
    if "only 7 and 8, labels alone.right" in arrays:
        found["error_rate_of_labels"] = _error_share(arrays, "only 7 and 8, labels alone")
        found["error_rate_saved"] = found["error_rate_of_labels"] - found["error_rate"]
    return found


def _only_78_shifted(arrays: Arrays) -> Metrics:
    found = {"error_rate_label_free": _error_share(arrays, "only 7 and 8, label-free shift")}
    if "only 7 and 8, best shift.right" in arrays:
        found["error_rate"] = _error_share(arrays, "only 7 and 8, best shift")
        found["error_rate_at_paper_shift"] = _error_share(arrays, "only 7 and 8, the paper's shift")
        found["error_rate_equal_shares"] = _error_share(arrays, "only 7 and 8, equal shares shift")
    if "only 7 and 8, labels alone, best shift.right" in arrays:
        found["error_rate_of_labels"] = _error_share(arrays, "only 7 and 8, labels alone, best shift")
        found["error_rate_saved"] = found["error_rate_of_labels"] - found["error_rate"]
    return found | _shifts(arrays, "only 7 and 8")


def _shifts(arrays: Arrays, net: str) -> Metrics:
    """The shift that is best on the test images, found again; the one of the frequency, as published.

    The second follows from the 60,000 logits of training images, which are too many to publish.
    """
    if f"{net}.needed" not in arrays:
        return {}
    return {"shift": best_shift(arrays, net)[0], "shift_label_free": arrays[f"{net}, label-free shift.shift"]}


def _by_temperature(arrays: Arrays) -> dict[int, Errors]:
    """Errors [seeds] of the students of each width, in units, and temperature; the widest first."""
    widths = {int(name.split(",")[0].removeprefix("units ")) for name in arrays if name.startswith("units ")}
    return {units: errors_by(arrays, f"units {units}, T ") for units in sorted(widths, reverse=True)}


def by_teacher(values: np.ndarray, teachers: int) -> np.ndarray:
    """One value a teacher, [teachers], the mean of its students'; values: [students], turn by turn.

    Students of one teacher are no independent witnesses, so that a test counts teachers.
    """
    return np.array([values[i::teachers].mean() for i in range(min(teachers, len(values)))])


def wide_temperatures(tables: list[Errors], teachers: int) -> Metrics:
    """How alike the temperatures above 8 are, for the width where they are least.

    tables: errors [students] by temperature, one a width. The tests are over teachers.
    """
    students = [[counts for t, counts in sorted(table.items()) if t > 8] for table in tables]
    high = [np.stack([by_teacher(counts, teachers) for counts in each], axis=1) for each in students]
    means = [table.mean(0) for table in high]
    found = {
        "spread": max((m.max() - m.min()) / m.mean() for m in means),
        "seeds_each": min(len(counts) for each in students for counts in each),
    }
    p_values = [stats.friedman(table) for table in high]
    if None not in p_values:
        found["friedman_p"] = min(p_values)
    alike = [stats.equivalence_p(table, 0.1 * table.mean()) for table in high]
    if None not in alike:
        found["equivalence_p"] = max(alike)
    return found


def narrow_temperatures(table: Errors, teachers: int) -> Metrics:
    """What temperatures from 2.5 to 4 save against higher and lower ones, and against their neighbours.

    table: errors [students] by temperature. All figures are over teachers.
    """
    students = min(len(counts) for counts in table.values())
    table = {t: by_teacher(counts, teachers) for t, counts in table.items()}
    inside = np.mean([counts for t, counts in table.items() if 2.5 <= t <= 4], axis=0)
    higher, lower = ({t: c for t, c in table.items() if within(t)} for within in (lambda t: t > 4, lambda t: t < 2.5))
    neighbours = [higher[min(higher)], lower[max(lower)]]
    found = {
        "gain_over_higher": np.mean(list(higher.values()), axis=0) - inside,
        "gain_over_lower": np.mean(list(lower.values()), axis=0) - inside,
        "errors_inside": inside,
        "seeds_each": students,
    }
    p = stats.largest_p([counts - inside for counts in neighbours])
    return found | ({} if p is None else {"neighbours_p": p})


def _some(tables: Mapping[int, Errors], which: slice) -> list[Errors]:
    """Of some widths; raises KeyError where there are none."""
    if not tables:
        raise KeyError("units")
    return list(tables.values())[which]


WAYS: dict[str, Callable[[Arrays], Metrics]] = {
    "mnist.teacher": lambda arrays: {"errors": errors(arrays, "teacher")},
    "mnist.plain": lambda arrays: {"errors": errors(arrays, "plain")},
    "mnist.distilled": _distilled,
    "mnist.temperature.wide": lambda arrays: wide_temperatures(
        _some(_by_temperature(arrays), slice(0, -1)), len(errors(arrays, "teacher"))
    ),
    "mnist.temperature.narrow": lambda arrays: narrow_temperatures(
        _some(_by_temperature(arrays), slice(-1, None))[0], len(errors(arrays, "teacher"))
    ),
    "mnist.omit3": _without_3,
    "mnist.omit3.bias": _without_3_shifted,
    "mnist.only78": _only_78,
    "mnist.only78.bias": _only_78_shifted,
}
