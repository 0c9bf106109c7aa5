"""Images a second of distillation: this package, ordinary PyTorch loops and torchdistill, all doing the same work.

    python benchmarks/bench.py                # the whole measurement, written to benchmarks/results and into the book
    python benchmarks/bench.py --quick        # seconds, on small networks; nothing is written
    python benchmarks/bench.py --threads 1 --steps 200 --repeats 7

Before anything is timed, every arm takes one step on the same batch from the same weights in float32, and is refused
unless its loss is ours to 1e-4. Then the arms run in turn, all of them once in each repeat.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import convolutions
import flops
import speed_page as speed
import torch
from arms import ARMS, TORCHDISTILL, Arm, Work, reference_loss, work
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from kdrepro import paths, training
from kdrepro.verdicts import records

TOLERANCE = 1e-4  # nats between an arm's loss and ours
TEACHER = (1200, 1200)


def check(arm: Arm, one_batch: Work) -> dict[str, Any]:
    """An arm's entry before it is timed: its loss beside ours, or why it is absent."""
    entry = {"arm": arm.name, "title": arm.title.format(n=one_batch.networks), "networks": arm.networks(one_batch)}
    if reason := arm.missing(one_batch.device):
        return entry | {"absent": reason}
    difference = arm.prepare(one_batch, "fp32")() - reference_loss(one_batch)
    if not abs(difference) <= TOLERANCE:  # a NaN is refused, too
        return entry | {"absent": f"refused: its loss differs from ours by {difference:.1e}"}
    return entry | {"precision": resolved(arm.precision, one_batch.device), "loss_difference": difference}


def resolved(precision: str, device: torch.device) -> str:
    """The precision of the matrix products that `auto` stands for here."""
    return {True: "bf16", False: "fp32"}[training.gains_from_bf16(device)] if precision == "auto" else precision


def timed(arm: Arm, given: Work) -> tuple[float, float]:
    """Seconds of one training, the preparation left out, and the mean loss of its last epoch."""
    train = arm.prepare(given, arm.precision)
    flops.synchronize(given.device)
    start = time.perf_counter()
    loss = train()
    flops.synchronize(given.device)
    return time.perf_counter() - start, loss


def prepared(sizes: Mapping[str, Any], device: torch.device, arms: Sequence[Arm]) -> list[tuple[Work, dict]]:
    """Every workload with its entry in the result, in which each arm has been checked and warmed up."""
    found = []
    for student in sizes["students"]:
        for batch_size in sizes["batch_sizes"]:
            widths = [784, *student, 10], [784, *sizes["teacher"], 10]
            count = batch_size * sizes["steps"] // sizes["epochs"]
            options = {k: sizes[k] for k in ("epochs", "temperature", "soft_weight", "networks", "workers")}
            given = work(*widths, count, sizes["seed"], device, batch_size=batch_size, **options)
            entries = [check(arm, given.first(batch_size)) for arm in arms]
            for arm, entry in zip(arms, entries, strict=True):
                entry["flops_per_image"] = flops.training(widths[0]) if arm.stored else flops.distillation(*widths)
            for arm, entry in zip(arms, entries, strict=True):
                if "absent" not in entry:
                    timed(arm, given.first(2 * batch_size))
                    entry.update(images_per_second=[], last_loss=[])
            workload = {"student": widths[0], "batch_size": batch_size}
            found.append((given, workload | {"arms": entries}))
    return found


def measure(sizes: Mapping[str, Any], device: torch.device, arms: Sequence[Arm] = ARMS, say=lambda text: None) -> dict:
    """The result's parts that are measured: `matrix` and `workloads`. sizes: see `SIZES`."""
    say("comparing the losses, warming up")
    works, matrix = prepared(sizes, device, arms), {name: [] for name in flops.DTYPES}
    for repeat in range(sizes["repeats"]):
        gc.collect()
        for name, dtype in flops.DTYPES.items():
            rates = [flops.matrix_rate(n, dtype, device, sizes["matrix_seconds"]) for n in sizes["matrix_sizes"]]
            matrix[name].append(round(max(rates), 2))
        for given, workload in works:
            turn = repeat % len(arms)  # so that no arm always runs behind the same other one
            pairs = list(zip(arms, workload["arms"], strict=True))
            for arm, entry in pairs[turn:] + pairs[:turn]:
                if "absent" in entry:
                    continue
                say(f"repeat {repeat + 1} of {sizes['repeats']}: {speed.workload_title(workload)}: {entry['title']}")
                seconds, loss = timed(arm, given)
                trained = entry["networks"] * given.epochs * len(given.inputs)
                entry["images_per_second"].append(round(trained / seconds, 1))
                entry["last_loss"].append(round(loss, 6))
    return {"matrix": matrix, "workloads": [workload for _, workload in works]}


SIZES = {
    "students": [(800, 800), (30, 30)],  # hidden layers
    "teacher": TEACHER,
    "batch_sizes": [128, 512],
    "steps": 100,
    "epochs": 2,  # that the steps are spread over, so that shuffling is part of the work
    "repeats": 5,
    "networks": 10,
    "temperature": 20.0,
    "soft_weight": 1.0,
    "workers": 0,
    "seed": 0,
    "matrix_sizes": (512, 1024, 2048),
    "matrix_seconds": 0.3,
}
LARGE = {"cuda": {"matrix_sizes": (2048, 4096, 8192)}}  # what it takes to fill a GPU
QUICK = SIZES | {
    "students": [(128, 128)],
    "teacher": (256, 256),
    "batch_sizes": [128],
    "steps": 8,
    "repeats": 3,
    "networks": 3,
    "matrix_sizes": (256,),
    "matrix_seconds": 0.05,
}


def torchdistill_version() -> str | None:
    """Of the copy beside this file, or of an installed one."""
    places = [str(TORCHDISTILL)] if TORCHDISTILL.is_dir() else sys.path
    return next((found.version for found in metadata.distributions(name="torchdistill", path=places)), None)


def settings(sizes: Mapping[str, Any], command: str) -> dict[str, Any]:
    """What the numbers depend on beside the machine."""
    kept = {name: value for name, value in sizes.items() if name not in ("students", "batch_sizes", "teacher")}
    widths = [784, *sizes["teacher"], 10]
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0
    return {"command": command, "teacher": widths, "load": load, "torchdistill": torchdistill_version(), **kept}


def command(args: argparse.Namespace) -> str:
    """The command that measures the same again, without where it writes to."""
    asked = {name: value for name, value in vars(args).items() if name not in ("out", "quick") and value is not None}
    options = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items() if value != "cpu"]
    return " ".join(["python benchmarks/bench.py", *["--quick"] * args.quick, *options])


def show(result: Mapping[str, Any], console: Console) -> None:
    """One table of everything."""
    p, matrix = result["provenance"], result["matrix"]
    rates = ", ".join(f"{statistics.median(rate):,.0f} GFLOP/s {dtype}" for dtype, rate in matrix.items())
    table = Table(title=f"Distillation, images a second: {p['cpu']}, {p['threads']} thread(s); matrix products {rates}")
    for column in speed.COLUMNS:
        table.add_column(escape(column), justify="left" if column in speed.COLUMNS[:2] else "right")
    for workload in result["workloads"]:
        table.add_section()
        table.add_row(f"[bold]{speed.workload_title(workload)}[/bold]")
        for row in speed.rows(workload, matrix):
            table.add_row(*map(escape, row))
    console.print(table)
    if "convolutions" in result:
        console.print(Markdown(convolutions.section(result["convolutions"])))
    if result["settings"]["load"] > speed.BUSY:
        console.print(f"The machine was busy (load {result['settings']['load']:.1f}): not figures to publish.")


def arguments(given: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks, a few steps; writes nothing unless --out")
    for name in ("steps", "repeats", "networks", "workers", "seed"):
        parser.add_argument(f"--{name}", type=int, help=f"default {SIZES[name]}")
    parser.add_argument("--soft-weight", type=float, help="of the soft targets; the labels have the rest (default 1)")
    parser.add_argument("--threads", type=int, help="of this process; PyTorch's choice if not given")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--out", type=Path, help="a JSON file; benchmarks/results/<machine>.json if not given")
    args = parser.parse_args(given)
    least = {"steps": 2, "repeats": 1, "networks": 1, "threads": 1}
    for name, value in least.items():
        if getattr(args, name) is not None and getattr(args, name) < value:
            parser.error(f"--{name} must be at least {value}.")
    if args.steps and args.steps % SIZES["epochs"]:
        parser.error(f"--steps must be a multiple of {SIZES['epochs']}, the epochs that they are spread over.")
    return args


def main(given: Iterable[str] | None = None) -> dict[str, Any]:
    args = arguments(given)
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = {name: value for name in SIZES if (value := getattr(args, name, None)) is not None}
    device, console = torch.device(args.device), Console()
    sizes = (QUICK if args.quick else SIZES | LARGE.get(device.type, {})) | chosen
    console = console if console.is_terminal else Console(width=160)
    described = settings(sizes, command(args))  # now, while the load is that of other processes
    with console.status("starting") as status:
        measured = measure(sizes, device, say=status.update)
        status.update("a convolutional net")
        measured["convolutions"] = convolutions.measure(
            convolutions.QUICK if args.quick else convolutions.SIZES, device
        )
    result = {"provenance": records.provenance(device, {}), "settings": described, **measured}
    show(result, console)
    if args.out:
        speed.write_result(result, args.out)
    elif not args.quick:
        name = speed.slug(result["provenance"])
        speed.write_result(result, speed.RESULTS / f"{name}.json")
        speed.generate(paths.BOOK)
        console.print(f"Written to benchmarks/results/{name}.json, and into the book's page on speed.")
    return result


if __name__ == "__main__":
    main()
