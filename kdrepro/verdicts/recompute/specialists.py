"""Sections 5 to 8: clusters of classes, what specialists add, what keeps them from overfitting, distilling back."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import spearmanr

from kdrepro.verdicts import stats
from kdrepro.verdicts.recompute.arrays import Arrays, Metrics, accuracy, share


def within_over_between(subsets: Sequence[np.ndarray], family: np.ndarray) -> float:
    """How much more often two classes of a subset are of one family than any two classes are.

    subsets: classes [S] of each. family: a number for each class, [C]. Raises ValueError when no two classes share one.
    """
    anywhere = _same(family)
    if anywhere == 0:
        raise ValueError("No two classes share a family: there is nothing to compare with.")
    return float(np.mean([_same(family[subset]) for subset in subsets]) / anywhere)


def _same(family: np.ndarray) -> float:
    """Share of the pairs that are of one family; 0 where there is no pair."""
    pairs = len(family) * (len(family) - 1)
    counts = np.bincount(family)
    return float((counts * (counts - 1)).sum() / pairs) if pairs else 0.0


def rank_correlation(covering: np.ndarray, cases: np.ndarray, right: np.ndarray, least: int = 1) -> float:
    """Spearman's correlation over the rows of Table 4: how many specialists cover, and the relative change.

    covering, cases: of each class, [C]. right: how many of these the generalist gets right, and then Eq. 5, [2, C].
    least: rows with fewer cases are left out. 0 where fewer than three rows, or no differences, are left.
    """
    rows = [covering == count for count in np.unique(covering)]
    rows = [row for row in rows if cases[row].sum() >= least]
    before, after = np.array([right[:, row].sum(1) for row in rows]).reshape(-1, 2).T
    return _spearman([covering[row][0] for row in rows], (after - before) / np.clip(before, 1, None))


def class_correlation(covering: np.ndarray, cases: np.ndarray, right: np.ndarray) -> float:
    """Spearman's correlation over classes: how many specialists cover each, and its gain in accuracy.

    Arguments as in `rank_correlation`; 0 where fewer than three classes, or no differences, are there.
    """
    there = cases > 0
    return _spearman(covering[there], ((right[1] - right[0])[there] / cases[there]))


def class_p(covering: np.ndarray, cases: np.ndarray, right: np.ndarray) -> float:
    """The one-sided p-value that classes of more specialists gain more: Spearman's test over classes.

    A class counts once, with the means over seeds of its cover and of its gain, since seeds share the test images and
    the classes' difficulty. covering: [seeds, C]. cases: [C]. right: [seeds, 2, C], as in `rank_correlation`.
    1 where fewer than three classes, or no differences, are there.
    """
    there = cases > 0
    cover = covering[:, there].mean(0)
    gain = ((right[:, 1] - right[:, 0])[:, there] / cases[there]).mean(0)
    if len(gain) < 3 or len(set(cover)) == 1 or len(set(gain)) == 1:
        return 1.0
    return float(spearmanr(cover, gain, alternative="greater").pvalue)


def _spearman(of: Sequence[int] | np.ndarray, values: np.ndarray) -> float:
    if len(values) < 3 or len(set(of)) == 1 or len(set(values)) == 1:
        return 0.0
    return float(spearmanr(of, values).statistic)


def _table2(arrays: Arrays) -> Metrics:
    return {"within_over_between": [within_over_between(s, arrays["families"]) for s in arrays["subsets"]]}


# What stands beside Tables 3 and 4: the name of a system in arrays, and in metrics.
CONTROLS = {
    "longer generalist": "longer_generalist",
    "random subsets": "random_subsets",
    "two generalists": "two_generalists",
    "+ specialists, plain mean": "plain_mean",
    "+ specialists, literal dustbin": "literal_dustbin",
    "+ specialists, more guesses": "more_guesses",
}
RIVALS = ("longer generalist", "random subsets", "two generalists")  # whose difference is taken too, seed by seed


def _table3(arrays: Arrays) -> Metrics:
    return _gained(arrays, "accuracy", "right", accuracy)


def _conditional(arrays: Arrays) -> Metrics:
    return _gained(arrays, "conditional_accuracy", "conditional", _conditional_of)


def _gained(arrays: Arrays, metric: str, kind: str, of: Callable[[Arrays, str], np.ndarray]) -> Metrics:
    """What specialists gain, beside each control and rival that the arrays have."""
    alone, together = of(arrays, "generalist"), of(arrays, "+ specialists")
    found = {metric: together, f"{metric}_of_generalist": alone, "relative_gain": (together - alone) / alone}
    there = {name: of(arrays, name) for name in CONTROLS if f"{name}.{kind}" in arrays}
    found |= {f"{metric}_of_{CONTROLS[name]}": values for name, values in there.items()}
    return found | _over_rivals(together, there) | _longer(arrays)


def _over_rivals(together: np.ndarray, of_controls: Arrays) -> Metrics:
    """How much better the specialists are than each rival, [seeds that both have]."""
    there = {name: values for name, values in of_controls.items() if name in RIVALS}
    return {f"gain_over_{CONTROLS[name]}": together[: len(values)] - values for name, values in there.items()}


def _longer(arrays: Arrays) -> Metrics:
    """What a generalist gains on validation images by going on for as long as its specialists train.

    gain_of_longer: [seeds]. gain_of_longer_high: the upper end, over the images, of its mean over seeds.
    """
    if "longer generalist.validation" not in arrays:
        return {}
    cases = int(arrays["validation cases"])
    names = ("longer generalist", "generalist")
    after, before = (np.unpackbits(arrays[f"{name}.validation"], axis=1, count=cases).astype(int) for name in names)
    gained = after - before[: len(after)]
    high = stats.bootstrap(gained.mean(0), np.ones(cases))
    return {"gain_of_longer": gained.mean(1)} | ({} if high is None else {"gain_of_longer_high": high[1]})


def _conditional_of(arrays: Arrays, system: str) -> np.ndarray:
    """Accuracy on cases of special classes, among these, [seeds]; `system.conditional`: how many, [seeds, subsets]."""
    right = arrays[f"{system}.conditional"].astype(int).sum(1)
    return right / arrays["conditional cases"][: len(right)].sum(1)


def _table4(arrays: Arrays) -> Metrics:
    cases, subsets = arrays["cases of class"].astype(int), arrays["subsets"]
    covering = [np.bincount(each.ravel(), minlength=len(cases)) for each in subsets]
    of_class = np.stack([arrays["generalist.of class"], arrays["+ specialists.of class"]], axis=1).astype(int)
    each = list(zip(covering, of_class, strict=True))
    return {
        "rank_correlation": [rank_correlation(c, cases, r, int(arrays["least cases"])) for c, r in each],
        "class_correlation": [class_correlation(c, cases, r) for c, r in each],
        "class_p": class_p(np.stack(covering), cases, of_class),
        "coverages": min(len(np.unique(each)) for each in covering),  # of the seed with the fewest
    } | _longer(arrays)


def _ways(arrays: Arrays) -> Metrics:
    kept = accuracy(arrays, "+ soft targets by class")
    dustbin, stopped, labels = (
        accuracy(arrays, way) for way in ("dustbin", "dustbin, stopped early", "full softmax, labels")
    )
    of_dustbin, of_soft = (overfit(arrays[f"{way}.validation"]) for way in ("dustbin", "+ soft targets by class"))
    return {
        "accuracy": kept,
        "gain_over_dustbin": kept - stopped,
        "gain_over_unstopped": kept - dustbin,
        "gain_over_labels": kept - labels,
        "overfit_of_dustbin": of_dustbin,
        "overfit_of_soft": of_soft,
        "overfit_saved": of_dustbin - of_soft,
    }


def overfit(curves: np.ndarray) -> np.ndarray:
    """Accuracy lost from the best epoch to the last, of the mean curve of each seed's specialists, [seeds].

    One half of the images chooses the epoch, the other says what is lost; the mean of both ways. The best of noisy
    epochs is above the last one on the images that chose it even where nothing is lost.
    curves: [seeds, specialists, epochs, halves].
    """
    means = curves.mean(1)  # [seeds, epochs, halves]
    at_best = np.take_along_axis(means[..., ::-1], means.argmax(1)[:, None], axis=1)[:, 0]
    return (at_best - means[:, -1, ::-1]).mean(1)


def _parallel(arrays: Arrays) -> Metrics:
    """Of a process among two: synchronisations and bytes of a training, as they were counted in it."""
    of_specialists, of_mixture = (arrays[f"{name}.exchange"] for name in ("specialists", "mixture of experts"))
    return {
        "synchronisations": int(of_specialists[1]),
        "synchronisations_of_mixture": int(of_mixture[1]),
        "bytes": int(of_specialists[2]),
        "bytes_of_mixture": int(of_mixture[2]),
    }


def _distilled_back(arrays: Arrays) -> Metrics:
    students = ("student of both", "student of the generalist", "trained on, labels only")
    alone, committee = accuracy(arrays, "generalist"), accuracy(arrays, "generalist + specialists")
    both, itself, labels = (accuracy(arrays, name) for name in students)
    gain = committee - alone
    return {
        "recovered": share(both - alone, gain),
        "recovered_by_self_distillation": share(itself - alone, gain),
        "recovered_by_labels": share(labels - alone, gain),
        "gain_over_labels": both - labels,
        "gain_over_self_distillation": both - itself,
        "gain_of_committee": gain,
        "gain_of_committee_over_labels": committee - labels,
        "accuracy": both,
    }


WAYS: dict[str, Callable[[Arrays], Metrics]] = {
    "specialists.table2": _table2,
    "specialists.table3": _table3,
    "specialists.table3.conditional": _conditional,
    "specialists.table4": _table4,
    "soft.specialists": _ways,
    "moe.parallel": _parallel,
    "beyond.distil_back": _distilled_back,
}
