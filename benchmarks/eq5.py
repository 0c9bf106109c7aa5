"""Eq. 5 two ways: seconds of `combine` with method "em" against "gradient", to the same objective.

    python benchmarks/eq5.py                    # 10,000 cases, 200 classes, 15 specialists; gradient on a share of them
    python benchmarks/eq5.py --gradient-cases 10000

Gradient descent is timed on the first cases only unless told otherwise, and "em" beside it on the same ones; the cases
are independent, so that the ratio is that of the whole. Nothing is written.
"""

import argparse
import statistics
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table

from kdrepro.specialists.combining import active, combine, objective
from kdrepro.specialists.solvers import TOLERANCE


def problem(cases: int, n_classes: int, n_specialists: int, special: int, seed: int, at_odds: float):
    """A generalist that is mostly right, and specialists that lean towards it, in float32.

    Networks that have learnt the same cases: their logits share the case's own part and differ by noise. Each
    specialist's dustbin holds any share of its mass. In a fraction `at_odds` of the cases the specialists are sure,
    and at odds: each is certain of one of its classes, or that the case is none of them, at random.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    shared = 2.5 * normal(cases, n_classes)
    p_g = torch.softmax(shared + normal(cases, n_classes), 1)
    classes = [torch.randperm(n_classes, generator=generator)[:special] for _ in range(n_specialists)]
    odd = torch.rand(cases, 1, generator=generator) < at_odds
    p_m = []
    for k in classes:
        within = torch.softmax(shared[:, k] + normal(cases, special), 1)
        dustbin = torch.rand(cases, 1, generator=generator)
        sure = 1e-4 * torch.softmax(normal(cases, special + 1), 1)
        certain = torch.randint(special + 1, (cases, 1), generator=generator)
        certain = torch.where(torch.rand(cases, 1, generator=generator) < 0.5, special, certain)
        sure = sure.scatter_add(1, certain, torch.full((cases, 1), 1 - 1e-4))
        p_m.append(torch.where(odd, sure, torch.cat([within * (1 - dustbin), dustbin], 1)))
    return p_g, p_m, classes


def measure(rows, given, top_n: int, repeats: int):
    """Wall and CPU seconds of every row (cases, method, tolerance), in turn, and its last answer."""
    p_g, p_m, classes = given
    times, answers = {row: [] for row in rows}, {}
    for repeat in range(-1, repeats):  # the first to warm up, uncounted and of a few cases
        for row in rows:
            n, method, tolerance = row
            n = n if repeat >= 0 else min(n, 20)
            wall, cpu = time.perf_counter(), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # cases cut short show in the table's last column
                answers[row] = combine(
                    p_g[:n], [p[:n] for p in p_m], classes, top_n=top_n, method=method, tolerance=tolerance
                )
            if repeat >= 0:
                times[row].append((time.perf_counter() - wall, time.process_time() - cpu))
    return times, answers


def worst_excess(answers, given, top_n: int) -> dict:
    """Per row, the worst case's distance in nats of its objective from the minimum, in float64."""
    p_g, p_m, classes = given
    p_g, p_m = normalised(p_g), [normalised(p) for p in p_m]
    is_active = active(p_g, classes, top_n)
    least = objective(combine(p_g, p_m, classes, top_n=top_n), p_g, p_m, classes, is_active)

    def excess(q):
        n = len(q)
        return objective(normalised(q), p_g[:n], [p[:n] for p in p_m], classes, is_active[:n]) - least[:n]

    return {row: excess(q).max().item() for row, q in answers.items()}


def normalised(p: torch.Tensor) -> torch.Tensor:
    return p.double() / p.double().sum(1, keepdim=True)


def show(times, excess, title: str) -> None:
    table = Table(title=title)
    for column in ("method", "cases", "tolerance", "wall s", "min to max", "CPU s", "excess"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for (n, method, tolerance), taken in times.items():
        wall, cpu = zip(*taken, strict=True)
        seconds = (
            f"{statistics.median(wall):.3f}",
            f"{min(wall):.3f} to {max(wall):.3f}",
            f"{statistics.median(cpu):.3f}",
        )
        table.add_row(method, f"{n:,}", f"{tolerance:.0e}", *seconds, f"{excess[n, method, tolerance]:.0e}")
    Console().print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in [("cases", 10_000), ("classes", 200), ("specialists", 15), ("special", 30), ("top-n", 3)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--gradient-cases", type=int, default=500, help="cases that gradient descent is timed on")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="nats above the minimum, of both where compared")
    parser.add_argument("--at-odds", type=float, default=0.05, help="fraction of cases with specialists at odds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    given = problem(args.cases, args.classes, args.specialists, args.special, args.seed, args.at_odds)
    few = min(args.gradient_cases, args.cases)
    whole = args.cases, "em", TOLERANCE["em"]
    em, gradient = (few, "em", args.tolerance), (few, "gradient", args.tolerance)
    times, answers = measure([whole, em, gradient], given, args.top_n, args.repeats)
    counts = active(given[0], given[2], args.top_n).sum(1)
    title = (
        f"Eq. 5: {args.classes} classes, {args.specialists} specialists of {args.special} classes,\n"
        f"{counts.double().mean():.1f} active a case (at most {int(counts.max())}), {args.at_odds:.0%} of cases at "
        f"odds;\nfloat32, seed {args.seed}, {torch.get_num_threads()} thread(s); tolerance and excess\n"
        "in nats above the minimum"
    )
    show(times, worst_excess(answers, given, args.top_n), title)
    for name, clock in (("wall", 0), ("CPU", 1)):
        ratios = [slow[clock] / fast[clock] for fast, slow in zip(times[em], times[gradient], strict=True)]
        print(
            f'{name} time: "em" is {statistics.median(ratios):.0f} times faster than "gradient" on the same {few:,} '
            f"cases ({min(ratios):.0f} to {max(ratios):.0f} in {args.repeats} interleaved repeats)."
        )


if __name__ == "__main__":
    main()
