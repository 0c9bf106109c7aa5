"""What `make bench` has measured, as a page: a table and a chart for each machine.

A result is one JSON file in `benchmarks/results`, a machine and number of threads each: `provenance` (as a record's),
`settings`, `matrix` (GFLOP/s of matrix products by precision, each repeat) and `workloads`, each with the raw images/s
of every arm and repeat, or the reason for which an arm is absent. Newer ones have `convolutions` (see there).
"""

import hashlib
import json
import re
import statistics
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import convolutions
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdrepro.chapters.figures import COLOURS, STYLE
from kdrepro.errors import InputError
from kdrepro.files import atomic_write
from kdrepro.verdicts.wording import threads

RESULTS = Path(__file__).parent / "results"  # what `make bench` has measured, a file a machine
# Without a teacher's work, so not to be compared with those that do it.
STORED = ("stored-in-turn", "stored-many", "captured-many")
OURS = ("fit", "fit-fp32", "in-turn", "fit-many", *STORED)
OTHERS = ("dataloader", "in-memory", "torchdistill")  # that ours are compared with
COLUMNS = (
    "arm",
    "precision",
    "images/s: median [min to max]",
    "× DataLoader",
    "× in memory",
    "× torchdistill",
    "of the matrix rate",
    "loss − ours",
)
BUSY = 0.5  # processes that were running or waiting before the benchmark began
NOT_RUN = "The benchmark has not been run on any machine yet: `make bench` runs it and makes the table and chart."


def slug(provenance: Mapping[str, Any]) -> str:
    """A result's name: its processor (or GPU) and threads, nothing that says whose machine it is."""
    device = provenance["cpu"] if provenance["device"] == "cpu" else f"{provenance['device']} {provenance['cpu']}"
    plain = re.sub(r"\((R|TM)\)", "", f"{device} {threads(provenance)}").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Save a result."""
    atomic_write(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())


def read(path: Path) -> dict[str, Any]:
    """Load a result. Raises InputError when it is not one."""
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"The result {path} cannot be read ({error}): run `make bench` again.") from error
    if not isinstance(result, dict) or not {"provenance", "settings", "matrix", "workloads"} <= result.keys():
        raise InputError(f"{path} is not a result of the benchmark: run `make bench` again.")
    return result


def workload_title(workload: Mapping[str, Any]) -> str:
    """The student and the batch size."""
    return f"student {'-'.join(map(str, workload['student']))}, batch {workload['batch_size']}"


def rows(workload: Mapping[str, Any], matrix: Mapping[str, Any]) -> list[list[str]]:
    """A workload's table, a row an arm, in `COLUMNS`; an absent arm has its reason in the second column."""
    medians = {a["arm"]: statistics.median(a["images_per_second"]) for a in workload["arms"] if "absent" not in a}
    found = []
    for arm in workload["arms"]:
        if "absent" in arm:
            found.append([arm["title"], f"absent: {arm['absent']}", *[""] * (len(COLUMNS) - 2)])
            continue
        rates, median = arm["images_per_second"], medians[arm["arm"]]
        compared = () if arm["arm"] in STORED else medians
        ratios = [f"{median / medians[other]:.2f}" if other in compared else "–" for other in OTHERS]
        share = median * arm["flops_per_image"] / 1e9 / statistics.median(matrix[arm["precision"]])
        spread = f"{_rounded(median)} [{_rounded(min(rates))} to {_rounded(max(rates))}]"
        found.append([arm["title"], arm["precision"], spread, *ratios, f"{share:.0%}", _signed(arm["loss_difference"])])
    return found


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The generated part of the page on speed, from results by their name."""
    if not results:
        return NOT_RUN
    return "\n\n".join(_section(name, result) for name, result in sorted(results.items()))


def _section(name: str, result: Mapping[str, Any]) -> str:
    p, settings = result["provenance"], result["settings"]
    machine = f"{p['cpu']}, {threads(p)}" if p["device"] == "cpu" else f"{p['device']} ({p['cpu']})"
    rates = [f"{statistics.median(gflops):,.0f} GFLOP/s in {dtype}" for dtype, gflops in result["matrix"].items()]
    theirs = f", torchdistill {settings['torchdistill']}" if settings["torchdistill"] else ""
    made = (
        f"Made by `{settings['command']}` on {p['date']} with Python {p['python']}, torch {p['torch']}{theirs} and "
        f"kdrepro at {p['git']}{' with changes' if p['dirty'] else ''}: {settings['repeats']} interleaved repeats of "
        f"{settings['steps']} steps in {settings['epochs']} epochs, teacher "
        f"{'-'.join(map(str, settings['teacher']))}, T = {settings['temperature']:g}, soft targets weighing "
        f"{settings['soft_weight']:g}. The machine's matrix products: {' and '.join(rates)}."
    )
    load = f"The machine was busy when it began (a load of {settings['load']:.1f}): others may find other ratios."
    busy = [load] if settings["load"] > BUSY else []
    tables = [f"**{workload_title(w).capitalize()}**\n\n{_table(w, result['matrix'])}" for w in result["workloads"]]
    tables += [convolutions.section(result["convolutions"])] if "convolutions" in result else []
    return "\n\n".join([f"## {machine}", made, *busy, _figure(name, machine, result), *tables])


def _figure(name: str, machine: str, result: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            f"```{{figure}} speed/{name}.svg",
            f":name: fig-speed-{name}",
            f":alt: Bars of images per second for every arm of {len(result['workloads'])} workloads.",
            "",
            f"Images a second on {machine}: bars are medians, dots the repeats. Arms of several networks are summed "
            "over them. Blue is this package, orange the others; each panel has its own scale.",
            "```",
        ]
    )


def _table(workload: Mapping[str, Any], matrix: Mapping[str, Any]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---|---|{'--:|' * (len(COLUMNS) - 2)}"]
    for arm, *cells in rows(workload, matrix):
        # Numbers stay on one line (a wide table scrolls); the reason for an absence may not, nor hold a column's mark.
        kept = [c.replace("|", " ") if c.startswith("absent") else c.replace(" ", "\N{NO-BREAK SPACE}") for c in cells]
        lines.append(f"| {' | '.join([arm, *kept])} |")
    return "\n".join(lines)


def chart(result: Mapping[str, Any]) -> Figure:
    """A panel a workload, a bar an arm: ours in one colour, the others in another."""
    workloads = result["workloads"]
    columns = 2 if len(workloads) > 1 else 1
    lines = -(-len(workloads) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.6 + 2.7 * lines))
        axes = figure.subplots(lines, columns, squeeze=False)
        for i, ax in enumerate(axes.flat):
            if i < len(workloads):
                _bars(ax, workloads[i], labelled=i % columns == 0)
            else:
                ax.axis("off")
    return figure


def _bars(ax: Axes, workload: Mapping[str, Any], labelled: bool) -> None:
    arms = workload["arms"]
    for i, arm in enumerate(arms):
        rates = arm.get("images_per_second")
        if rates is None:
            ax.text(0, i, " absent", va="center", fontsize=8)
            continue
        colour = COLOURS[0 if arm["arm"] in OURS else 4]
        ax.barh(i, statistics.median(rates), height=0.62, color=colour, alpha=0.55)
        ax.plot(rates, [i] * len(rates), "o", ms=3, color="black", alpha=0.6)
        ax.text(max(rates), i, f"  {_rounded(statistics.median(rates))}", va="center", fontsize=8)
    ax.set_yticks(range(len(arms)), [arm["title"] for arm in arms] if labelled else [""] * len(arms), fontsize=9)
    ax.set_ylim(len(arms) - 0.5, -0.5)
    ax.set_xlim(0, 1.25 * max([max(arm.get("images_per_second", [0])) for arm in arms], default=1))
    ax.grid(axis="y", visible=False)
    ax.locator_params(axis="x", nbins=4)
    ax.xaxis.set_major_formatter(lambda rate, _: f"{rate / 1000:g}k")
    ax.tick_params(axis="x", labelsize=9)
    ax.set_title(workload_title(workload), fontsize=9)
    ax.set_xlabel("images/s", fontsize=9)


def fingerprint(path: Path) -> str:
    """What a chart says of the file that it was drawn from."""
    return f"drawn from {path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def generate(book: Path, folder: Path = RESULTS) -> None:
    """Make the book's table and charts of every result in a folder, and drop charts of results that are gone."""
    found = sorted(folder.glob("*.json"))
    atomic_write(book / "speed-results.md", (page({path.stem: read(path) for path in found}) + "\n").encode())
    for old in (book / "speed").glob("*.svg"):
        if old.stem not in {path.stem for path in found}:
            old.unlink()
    for path in found:
        drawn = BytesIO()
        with matplotlib.rc_context(STYLE):  # its salt makes the same file of the same figure
            # A date would change the file every time.
            chart(read(path)).savefig(drawn, format="svg", metadata={"Date": None, "Description": fingerprint(path)})
        atomic_write(book / "speed" / f"{path.stem}.svg", drawn.getvalue())


def _signed(difference: float) -> str:
    """A difference to one digit, with a minus at which no line breaks."""
    return f"{difference:+.0e}".replace("-", "\N{MINUS SIGN}") if difference else "0"


def _rounded(rate: float) -> str:
    """Images a second to three digits, which is what repeats agree in."""
    return f"{float(f'{rate:.3g}'):,.0f}"
