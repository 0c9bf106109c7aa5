"""The command line: run chapters, look at claims, build and publish the book, fetch data."""

import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress
from rich.table import Table

from kdrepro.errors import InputError
from kdrepro.files import UNWRITABLE

OF_EXTRAS = ("nbformat", "nbclient", "papermill", "IPython", "jupyter_book")  # not needed to import the package

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Hinton et al. (2015), number by number.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets.")
app.add_typer(data_app, name="data")

PresetOption = Annotated[str, typer.Option(help="smoke, full or paper.")]
SeedsOption = Annotated[str | None, typer.Option(help="How many seeds; the preset's number if not given.")]
FirstSeedOption = Annotated[str, typer.Option(help="The first seed.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
DataOption = Annotated[str | None, typer.Option(help="Folder of the data sets; KDREPRO_DATA or data/ if not given.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print only the result.")]


@app.command()
def run(
    chapter: Annotated[str, typer.Argument(help="A chapter's name or number, or all.")],
    preset: PresetOption = "smoke",
    seeds: SeedsOption = None,
    first_seed: FirstSeedOption = "0",
    device: DeviceOption = "cpu",
    data_root: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a chapter with papermill; networks that the store holds are loaded instead of trained."""
    from kdrepro.chapters import presets
    from kdrepro.publishing import runner

    chosen = list(runner.in_order()) if chapter == "all" else [presets.check_chapter(chapter)]
    asked = runner.checked(chosen, preset, seeds, first_seed, device, data_root)
    for name in chosen:
        output = _run_shown(name, asked, quiet)
        print(f"{name}: {output}")


@app.command(name="claims")
def claims_command(
    preset: Annotated[str | None, typer.Option(help="Show this preset's run instead of what is published.")] = None,
) -> None:
    """Print the verdict table."""
    from kdrepro import paths
    from kdrepro.chapters import presets
    from kdrepro.verdicts import claims, records

    if preset is not None:
        presets.load(preset)
    folder = paths.RESULTS if preset is None else paths.runs(preset) / "results"
    table = Table("claim", "section", "metric", "paper", "ours: mean [95 % over seeds]", "verdict", "data, preset")
    for row in claims.verdict_rows(claims.load().values(), records.read_all(folder)):
        columns = ("claim", "section", "metric", "paper", "ours", "verdict", "data")
        table.add_row(*(row[c].replace("[", r"\[") for c in columns))
    _console().print(table)


@app.command()
def reproduce(
    claim: Annotated[str, typer.Argument(help="A claim's id, as `kdrepro claims` lists them.")],
    preset: PresetOption = "smoke",
    seeds: SeedsOption = None,
    first_seed: FirstSeedOption = "0",
    device: DeviceOption = "cpu",
    data_root: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a claim's chapter and print one row: paper, published, this run, verdict."""
    from kdrepro import paths
    from kdrepro.publishing import runner
    from kdrepro.verdicts import claims, records, wording

    described = claims.get(claim)
    asked = runner.checked([described.chapter], preset, seeds, first_seed, device, data_root)
    _run_shown(described.chapter, asked, quiet)
    theirs = records.claim_by_data(claim, described.chapter)
    ours = records.claim_by_data(claim, described.chapter, paths.runs(preset) / "results")
    if not ours:
        raise InputError(f"Chapter {described.chapter} does not measure {claim} yet.")
    table = Table("claim", "data", "metric", "paper", "published", f"this run ({preset})", "verdict")
    for data, entry in ours.items():
        # A smoke run is on other data than what is published; the deciding data set's figure is then the one to see.
        published = theirs.get(data) or theirs.get(described.data)
        for metric in entry["mean"]:
            cells = (
                wording.written(metric, described.paper.get(metric)),
                wording.written_mean(metric, published) if published else "–",
                wording.written_mean(metric, entry),
                entry["verdict"],
            )
            table.add_row(claim, data, wording.label(metric), *(c.replace("[", r"\[") for c in cells))
    _console().print(table)


@app.command()
def book(
    preset: Annotated[str | None, typer.Option(help="Build from this preset's run, in a staging copy.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Build the published book in place.")] = False,
) -> None:
    """Build the site, failing on a single warning, and print the page to open."""
    from kdrepro.chapters import presets
    from kdrepro.publishing import book

    if published == (preset is not None):
        raise InputError("Say which book: either --preset smoke (a run) or --published.")
    if preset is not None:
        presets.load(preset)
    page = book.build_published() if published else book.build_staged(preset)
    print(f"The book is built. Open {page}")


@app.command()
def publish(preset: PresetOption = "full") -> None:
    """Copy a run's notebooks and records into the book; refuses smoke."""
    from kdrepro import paths
    from kdrepro.publishing import book

    for path in book.publish(preset):
        print(f"published {path.relative_to(paths.ROOT)}")


@app.command()
def notebooks() -> None:
    """Re-execute the chapters' sources at smoke, so that nbval's reference is fresh."""
    from kdrepro.publishing import runner

    for chapter in runner.in_order():
        runner.refresh_source(chapter)
        print(f"refreshed notebooks/{chapter}.ipynb")


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="mnist or tiny-imagenet")],
    data_root: DataOption = None,
) -> None:
    """Download a data set, check it, and print where it is; does nothing if a good copy is there."""
    from kdrepro import data, paths

    root = paths.data_root(data_root)
    if name == "mnist":
        print(f"mnist is in {data.fetch_mnist(root)}")
    elif name == "tiny-imagenet":
        with Progress(*Progress.get_default_columns(), DownloadColumn(), console=_console(stderr=True)) as bar:
            task = bar.add_task(name, total=None)
            found = data.fetch_tiny_imagenet(
                root, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
        print(f"tiny-imagenet is {found}")
    else:
        raise InputError(f"There is no data set {name!r} to fetch: choose mnist or tiny-imagenet.")


def _run_shown(chapter: str, asked: dict, quiet: bool) -> Path:
    """Run a chapter while showing the end of its log: a status line on a terminal, else finished networks."""
    from kdrepro.publishing import runner

    try:
        return runner.run(chapter, asked) if quiet else _run_with_status(chapter, asked)
    except KeyboardInterrupt:
        print(f"kdrepro: {_kept(chapter, asked['preset'])}", file=sys.stderr)
        raise typer.Exit(130) from None


def _kept(chapter: str, preset: str) -> str:
    """What a chapter that was interrupted leaves."""
    from kdrepro import paths

    store = paths.runs(preset) / "store"
    finished, begun = (len(list(store.glob(f"*/{name}"))) for name in ("entry.json", "checkpoint.safetensors"))
    return (
        f"Stopped in {chapter}: networks finished: {finished}, begun: {begun}, each with its last checkpoint; all are "
        f"kept in {store}, and the same command goes on from there."
    )


def _run_with_status(chapter: str, asked: dict) -> Path:
    from kdrepro.publishing import runner

    console, done = _console(stderr=True), threading.Event()
    log = runner.Log(chapter, asked["preset"])
    with console.status(f"{chapter}: starting") as status:

        def show() -> None:
            finished = False
            while not finished:
                finished = done.wait(0.3)  # looked at before the log, so that its last lines are shown too
                for line in log.new_lines():
                    if runner.is_step(line) and console.is_terminal:
                        status.update(f"{chapter}  {line}")
                    elif not runner.is_step(line):
                        console.print(f"{chapter}  {line}", markup=False, highlight=False)

        watcher = threading.Thread(target=show, daemon=True)
        watcher.start()
        try:
            return runner.run(chapter, asked)
        finally:
            done.set()
            watcher.join()


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    # A pipe has no width of its own; 80 columns would fold every row of the verdict table.
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def main() -> None:
    """Run the command line; bad input ends with one sentence and exit code 2, Ctrl-C with 130."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"kdrepro: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OF_EXTRAS:
            raise
        print(f"kdrepro: {error.name} is not installed: pip install 'kdrepro[notebooks,book]'.", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        print(
            f"kdrepro: {error.filename or 'A file'} cannot be written ({error.strerror}): make room or see to its "
            "permissions, and give the same command again.",
            file=sys.stderr,
        )
        sys.exit(2)
