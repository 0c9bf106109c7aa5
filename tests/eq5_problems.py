"""Random problems of Eq. 5, and a convex solver's answer to them."""

import math

import numpy as np
import torch
from scipy.optimize import minimize

from kdrepro.specialists.combining import objective

KINDS = ("soft", "sharp", "zeros", "certain", "dustbin", "nearly dustbin")


def distributions(generator, cases: int, n: int, kind: str = "soft") -> torch.Tensor:
    """Random distributions [cases, n] in float64: soft or sharp, half of them zeros, all mass or all but 1e-9 on one
    class (the last for the dustbins)."""
    logits = torch.randn(cases, n, generator=generator, dtype=torch.float64)
    if kind == "zeros":
        logits[torch.rand(cases, n, generator=generator) < 0.5] = -math.inf
        logits[:, 0] = 0
    if kind == "soft" or kind == "zeros":
        return torch.softmax(logits, 1)
    if kind == "sharp":
        return torch.softmax(8 * logits, 1)
    chosen = logits.argmax(1) if kind == "certain" else torch.full((cases,), n - 1)
    certain = torch.nn.functional.one_hot(chosen, n).double()
    return certain if kind != "nearly dustbin" else (1 - 1e-9) * certain + 1e-9 * torch.softmax(logits, 1)


def problem(seed: int, cases=8, n_classes=6, n_specialists=3, kinds=("soft",), size=None):
    """generalist, specialists, classes; the kind of each distribution is drawn from `kinds`."""
    generator = torch.Generator().manual_seed(seed)

    def one_of(options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    p_g = distributions(generator, cases, n_classes, one_of(kinds))
    sizes = [size or one_of(range(1, n_classes)) for _ in range(n_specialists)]
    classes = [torch.randperm(n_classes, generator=generator)[:s] for s in sizes]
    return p_g, [distributions(generator, cases, s + 1, one_of(kinds)) for s in sizes], classes


def everyone(p_g, classes) -> torch.Tensor:
    return torch.ones(len(p_g), len(classes), dtype=torch.bool)


def contradicting(doubt: float, n_classes=5, n_specialists=2, cases=1):
    """Specialists of one class each, all but `doubt` sure that it is theirs."""
    p_g = torch.full((cases, n_classes), 1 / n_classes, dtype=torch.float64)
    sure = torch.tensor([[1 - doubt, doubt]], dtype=torch.float64).expand(cases, 2)
    return p_g, [sure] * n_specialists, [torch.tensor([m]) for m in range(n_specialists)]


def convex_minimum(p_g, p_m, classes) -> float:
    """The least objective of one case with every specialist active, by SLSQP over the simplex in numpy.

    By the walls of the simplex it may stop early, even in the best of three runs: there it is an upper bound only.
    """
    outside = np.ones((len(classes), p_g.shape[1]))
    c = p_g[0].numpy().copy()
    for row, p, special in zip(outside, p_m, classes, strict=True):
        row[special.numpy()] = 0
        c[special.numpy()] += p[0, :-1].numpy()
    d = np.array([p[0, -1].item() for p in p_m])

    def value(q):
        return -(c * np.log(q)).sum() - (d * np.log(outside @ q)).sum()

    def slope(q):
        return -c / q - (d / (outside @ q)) @ outside

    n, best = len(c), None
    constraint = {"type": "eq", "fun": lambda q: q.sum() - 1, "jac": lambda q: np.ones(n)}
    bounds = [(1e-13, 1)] * n
    options = {"ftol": 1e-15, "maxiter": 500}
    starts = [np.full(n, 1 / n), (c + 0.01) / (c + 0.01).sum()]
    with np.errstate(all="ignore"):
        for _ in range(3):
            found = minimize(
                value, starts.pop(), jac=slope, method="SLSQP", bounds=bounds, constraints=constraint, options=options
            )
            best = found.x if best is None or value(found.x) < value(best) else best
            starts = starts or [best]
    q = torch.as_tensor(best / best.sum())[None]
    return objective(q, p_g, p_m, classes, everyone(p_g, classes)).item()
