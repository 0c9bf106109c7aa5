"""The command line: run chapters, look at claims, build and publish the book, fetch data."""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress
from rich.table import Table

import kdrepro
from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.publishing import surroundings

if TYPE_CHECKING:  # both take seconds to import
    from kdrepro.publishing.runner import Part
    from kdrepro.verdicts.claims import Claim

VERDICT_COLUMNS = {
    "claim": "claim",
    "section": "section",
    "metric": "metric",
    "paper": "paper",
    "ours": "ours: mean [95 % over seeds]",
    "control": "control",
    "marked": "verdict",
    "data": "data, preset",
}
NARROW_COLUMNS = ("claim", "paper", "ours", "marked")
WORKERS_SHOWN = 12  # of those that train at once, as many as a terminal has room for
WIDE = 150  # columns of a terminal that has room for them all
FETCHED = ("mnist", "tiny-imagenet")
# Not needed to import the package.
OF_EXTRAS = ("nbformat", "nbclient", "papermill", "IPython", "jupyter_book", "matplotlib", "pandas", "filelock")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hinton et al. (2015), number by number.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets.")
app.add_typer(data_app, name="data")
store_app = typer.Typer(no_args_is_help=True, help="The trained networks that are kept.")
app.add_typer(store_app, name="store")
presets_app = typer.Typer(no_args_is_help=True, help="The sizes of every chapter.")
app.add_typer(presets_app, name="presets")


def _chapters() -> list[str]:
    """For the shell's completion, which asks at every key: the names alone, without PyTorch."""
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))


def _presets() -> list[str]:
    return sorted(path.stem for path in paths.PRESETS.glob("*.yaml"))


def _claims() -> list[str]:
    from kdrepro.verdicts import claims

    return list(claims.load())


PresetOption = Annotated[
    str, typer.Option(help="smoke, full or paper; or a .yaml file that names its base.", autocompletion=_presets)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="CHAPTER.KEY=VALUE", help="Change one size: 02-mnist.distilled.temperature=10."),
]
OwnDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="KIND:PATH",
        help="Data of your own: idx:PATH or npz:PATH (chapters 1, 2, 5 to 9), folder:PATH of pictures (5 to 7), "
        "recordings:PATH (3, 4).",
    ),
]
SeedsOption = Annotated[str | None, typer.Option(help="How many seeds; the preset's number if not given.")]
FirstSeedOption = Annotated[str, typer.Option(help="The first seed.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
DataOption = Annotated[str | None, typer.Option(help="Folder of the data sets; KDREPRO_DATA or data/ if not given.")]
ConfirmOption = Annotated[
    bool, typer.Option("--confirm", help="What claims need, with fresh seeds, once, after rules were committed.")
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        help="Who trains: local (this process), processes, ray, slurm or submitit-local.",
        autocompletion=lambda: ["local", "processes", "ray", "slurm", "submitit-local"],
    ),
]
ExecutorOptionsOption = Annotated[
    str | None, typer.Option(metavar="FILE.yaml", help="The executor's options: threads, gpus, workers, submitit, ...")
]
AddressOption = Annotated[str | None, typer.Option(help="Of a Ray cluster; without it one is started here.")]
StoreOption = Annotated[
    str | None, typer.Option("--at", metavar="FOLDER|ADDRESS", help="The store; the preset's own if not given.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print only the result.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kdrepro {kdrepro.__version__}")
        raise typer.Exit


@app.callback()
def _for_all(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    chapter: Annotated[
        str, typer.Argument(help="A chapter's name or number, or all.", autocompletion=lambda: ["all", *_chapters()])
    ],
    preset: PresetOption = "smoke",
    changes: SetOption = None,
    own_data: OwnDataOption = None,
    seeds: SeedsOption = None,
    first_seed: FirstSeedOption = "0",
    device: DeviceOption = "cpu",
    data_root: DataOption = None,
    confirm: ConfirmOption = False,
    executor: ExecutorOption = None,
    executor_options: ExecutorOptionsOption = None,
    address: AddressOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a chapter with papermill; networks that the store holds are loaded instead of trained."""
    paths.need_book()
    _train_with(executor, executor_options, address)
    from kdrepro.chapters import presets
    from kdrepro.publishing import runner

    chosen = list(runner.in_order()) if chapter == "all" else [presets.check_chapter(chapter)]
    own = _own(preset, changes, own_data, confirm)
    asked = runner.checked(chosen, preset, seeds, _first(first_seed, confirm), device, data_root, **own)
    for name in chosen:
        if confirm:
            runner.check_frozen(preset, name, "")
        output = _run_shown(name, asked, quiet, runner.Part(confirm=confirm))
        print(f"{name}: {output}")


@app.command()
def tune(
    chapter: Annotated[str, typer.Argument(help="A chapter's name or number.", autocompletion=_chapters)],
    search: Annotated[str | None, typer.Option(help="One of its searches; all of them if not given.")] = None,
    preset: PresetOption = "smoke",
    changes: SetOption = None,
    device: DeviceOption = "cpu",
    data_root: DataOption = None,
    executor: ExecutorOption = None,
    executor_options: ExecutorOptionsOption = None,
    address: AddressOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a chapter's searches for recipes, on training data alone, and print what they found."""
    paths.need_book()
    _train_with(executor, executor_options, address)
    from kdrepro.chapters import presets, searches
    from kdrepro.chapters.start import start_search

    chapter = presets.check_chapter(chapter)
    loaded = presets.load(preset, changes or ())
    there = list(getattr(loaded.chapters[chapter], "searches", {}))
    for name in [search] if search else there:
        run = start_search(chapter, name, preset=preset, device=device, data_root=data_root, changes=changes or ())
        _shown(chapter, loaded.name, quiet, lambda run=run, name=name: searches.search(run, name), loaded.origin)
        table = searches.table(json.loads(searches.place(run, name).read_bytes()))
        _print_table(_console(), list(table.columns), table.astype(str).to_numpy().tolist())
        print(f"{name}: {searches.place(run, name)}")
    if not there:
        print(f"{chapter} has no searches at {preset}: notebooks/presets/{preset}.yaml would name them.")


@app.command(name="claims")
def claims_command(
    preset: Annotated[
        str | None,
        typer.Option(help="Show this preset's run instead of what is published.", autocompletion=_presets),
    ] = None,
    section: Annotated[str | None, typer.Option(help="Only claims of this section of the paper, 3 or 5.3 say.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only claims with this verdict.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
) -> None:
    """Print the verdict table."""
    paths.need_book()
    from kdrepro.verdicts import claims, records

    if preset is not None:
        from kdrepro.chapters import presets  # and with it PyTorch: seconds

        preset = presets.load(preset).name
    described = claims.load().values()
    found = records.read_all(paths.RESULTS if preset is None else paths.runs(preset) / "results")
    entries = claims.verdict_entries(described, found)
    chosen = [entry["claim"] for entry in entries if _wanted(entry, section, verdict)]
    if not chosen:
        verdicts = ", ".join(dict.fromkeys(entry["verdict"] for entry in entries))
        raise InputError(f"No claim of section {section or 'any'} is {verdict or 'there'}: verdicts are {verdicts}.")
    if as_json:
        print(json.dumps([entry for entry in entries if entry["claim"] in chosen], indent=1))
        return
    console = _console()
    names = [name for name in VERDICT_COLUMNS if console.width >= WIDE or name in NARROW_COLUMNS]
    table = [row for row in claims.verdict_rows(described, found) if row["claim"] in chosen]
    rows = [[row[name] for name in names] for row in table]
    _print_table(console, [VERDICT_COLUMNS[name] for name in names], rows)
    print(claims.tally(described, found))
    if console.width < WIDE:
        print(f"Metrics, sections, data and presets: in a terminal of {WIDE} columns, or with --json.")


def _wanted(entry: Mapping[str, Any], section: str | None, verdict: str | None) -> bool:
    """Whether a claim is of this section, or one within it, and has this verdict."""
    inside = section is None or entry["section"] == section or entry["section"].startswith(f"{section}.")
    return inside and verdict in (None, entry["verdict"])


@app.command()
def verify(
    preset: Annotated[
        str | None, typer.Option(help="Verify this preset's run instead of what is published.", autocompletion=_presets)
    ] = None,
) -> None:
    """Compute every published number, test and verdict again, without training; exit code 1 if one differs."""
    paths.need_book()
    from kdrepro.publishing import book

    if preset is not None:
        from kdrepro.chapters import presets

        preset = presets.load(preset).name
    report = book.verify(preset)
    for sentence in report.wrong:
        print(sentence)
    if report.unsupported:
        print(f"Figures that nothing beside the records supports ({len(report.unsupported)}):")
        for name in report.unsupported:
            print(f"  {name}")
    verdict = f"{len(report.wrong)} things do not follow" if report.wrong else "all that can be computed again agrees"
    print(f"{verdict}: {report.checked} figures from predictions; every mean, interval and verdict from its seeds.")
    if report.wrong:
        raise typer.Exit(1)


@app.command()
def judge() -> None:
    """Judge the published records by the present rules of claims.yaml, and make checksums and tables again."""
    paths.need_book()
    from kdrepro.publishing import book
    from kdrepro.verdicts import claims, records

    book.refresh()
    print(claims.tally(claims.load().values(), records.read_all()))


@app.command()
def reproduce(
    claim: Annotated[str, typer.Argument(help="A claim's id, as `kdrepro claims` lists them.", autocompletion=_claims)],
    preset: PresetOption = "smoke",
    changes: SetOption = None,
    seeds: SeedsOption = None,
    first_seed: FirstSeedOption = "0",
    device: DeviceOption = "cpu",
    data_root: DataOption = None,
    confirm: ConfirmOption = False,
    executor: ExecutorOption = None,
    executor_options: ExecutorOptionsOption = None,
    address: AddressOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run what a claim needs of its chapter, nothing else, and print one row: paper, published, this run, verdict."""
    paths.need_book()
    _train_with(executor, executor_options, address)
    from kdrepro.publishing import runner
    from kdrepro.verdicts import claims, records

    described, part = claims.get(claim), runner.Part(claim, confirm)
    own = _own(preset, changes, None, confirm)
    asked = runner.checked([described.chapter], preset, seeds, _first(first_seed, confirm), device, data_root, **own)
    if confirm:
        runner.check_frozen(preset, described.chapter, claim)
    theirs = records.claim_by_data(claim, described.chapter)
    if not quiet:
        print(_expected(described, preset, seeds and int(seeds)), file=sys.stderr)
    _run_shown(described.chapter, asked, quiet, part)
    folder = runner.place(described.chapter, asked, part) / "results"
    ours = records.claim_by_data(claim, described.chapter, folder)
    if not ours:
        raise InputError(
            f"This run has no figure of {claim}: the data that it needs ({described.data}), or a library, is not "
            "there; its chapter and the book's page on data say which."
        )
    _print_reproduced(described, theirs, ours, preset)
    if own:
        from kdrepro.chapters import display

        loaded = runner.of_parameters(asked)
        print(f"Changed from {loaded.origin}: {display.changes(loaded) or 'nothing'}.")


def _train_with(executor: str | None, file: str | None, address: str | None) -> None:
    """Have notebooks train elsewhere, which they read in the environment. Raises InputError for what is none."""
    from kdrepro.executors import options

    if executor is None and (file or address):
        raise InputError("--executor-options and --address are of an executor: name it, --executor ray or slurm.")
    options.read(executor, file, address)
    os.environ |= options.as_environment(executor, file, address)


def _own(preset: str, changes: list[str] | None, own_data: str | None, confirm: bool) -> dict[str, Any]:
    """What a run has of one's own, as `runner.checked` takes it. Raises InputError for a confirmation with it."""
    from kdrepro.chapters import presets

    given = {"changes": changes, "own_data": own_data}
    own = {name: value for name, value in given.items() if value}
    if confirm and (own or presets.is_file(preset)):
        raise InputError("--confirm decides the book's claims at the book's sizes: leave --set, --data and files out.")
    return own


def _first(first_seed: str, confirm: bool) -> str:
    """The first seed; of a confirmation, one that no choice has seen. Raises InputError."""
    from kdrepro.publishing import runner

    if confirm and first_seed not in ("0", str(runner.CONFIRMING)):
        raise InputError(f"--confirm takes seeds from {runner.CONFIRMING} on: leave --first-seed out.")
    return str(runner.CONFIRMING) if confirm else first_seed


def _expected(claim: "Claim", preset: str, seeds: int | None) -> str:
    """What is going to be trained, and how long that may take here: what it took where it was published, scaled.

    seeds: how many are asked for, None for as many as were published.
    """
    from kdrepro.verdicts import claims, records

    needs = f"{claim.id} trains what its cells in {claim.chapter} need, and loads what the store holds."
    published = [record for record in map(records.read, records.files(claim.chapter)) if claim.id in record["claims"]]
    record = next((r for r in published if r["data"]["name"] == claim.data), None)
    if preset == "smoke" or record is None:
        return needs
    entry, count = record["claims"][claim.id], len(claims.seeds_of(record))
    of_all = ", ".join(f"{number} × {kind}" for kind, number in entry.get("networks", {}).items())
    minutes = entry["seconds"] / 60 * (seeds or count) / count
    then = f" The published run had {of_all}." if of_all else ""
    took = f" For {seeds or count} seeds these took {minutes:.0f} core-minutes there"
    if "gflops" not in record["provenance"]:
        return f"{needs}{then}{took}."
    faster = records.gflops() / record["provenance"]["gflops"]
    return f"{needs}{then}{took}; here, by the speed of a matrix product, about {minutes / faster:.0f}."


def _print_reproduced(claim: "Claim", published: Mapping[str, Any], ours: Mapping[str, Any], preset: str) -> None:
    """One row a data set and metric; on data that does not decide, neither the paper's value nor a verdict."""
    from kdrepro.verdicts import wording

    rows, decides = [], claim.data in ours
    for data, entry in ours.items():
        for metric in entry["mean"]:
            row = [claim.id, data, wording.label(metric)]
            if decides:
                before = published.get(data)
                row += [wording.written(metric, claim.paper.get(metric)) if data == claim.data else "–"]
                row += [wording.written_mean(metric, before) if before else "–"]
            row += [wording.written_mean(metric, entry) if decides else wording.written_seeds(metric, entry)]
            rows.append(row + ([claim.verdict(entry, data)] if decides else []))
    titles = (
        ["claim", "data", "metric"]
        + (["paper", "published"] if decides else [])
        + [f"this run ({preset})" + ("" if decides else ", by seed")]
    )
    _print_table(_console(), titles + (["verdict"] if decides else []), rows)
    if not decides:
        print(f"Everything runs. {claim.data} decides this claim: the figures above are of other data, not comparable.")
    for reason in claim.rule.why(ours[claim.data]) if decides else ():
        print(f"  {'premise' if reason.verdict == 'premise' else f'for {reason.verdict}'}: {reason}")


@app.command()
def book(
    preset: Annotated[
        str | None, typer.Option(help="Build from this preset's run, in a staging copy.", autocompletion=_presets)
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Build the published book in place.")] = False,
) -> None:
    """Build the site, failing on a single warning, and print the page to open."""
    paths.need_book()
    from kdrepro.chapters import presets
    from kdrepro.publishing import book

    if published == (preset is not None):
        raise InputError("Say which book: either --preset smoke (a run) or --published.")
    if preset is not None:
        preset = presets.load(preset).name
    page = book.build_published() if published else book.build_staged(preset)
    print(f"The book is built. Open {page}")


@app.command()
def publish(
    preset: PresetOption = "full",
    prose: Annotated[
        bool, typer.Option("--prose", help="Without a run: the sources' text into the published chapters.")
    ] = False,
) -> None:
    """Copy a run's notebooks and records into the book; refuses smoke. Or only better words, which need no run."""
    paths.need_book()
    from kdrepro.chapters import presets
    from kdrepro.publishing import book

    if prose:
        from kdrepro.publishing import prose as words

        for line in words.refresh():
            print(line)
        return
    if presets.is_file(preset):
        raise InputError(f"{preset} is a preset of your own: only the book's are published, full or paper.")
    for path in book.publish(preset):
        print(f"published {path.relative_to(paths.ROOT)}")


@app.command()
def notebooks() -> None:
    """Re-execute the chapters' sources at smoke, so that nbval's reference is fresh."""
    paths.need_book()
    from kdrepro.publishing import runner

    for chapter in runner.in_order():
        runner.refresh_source(chapter)
        print(f"refreshed notebooks/{chapter}.ipynb")


@presets_app.command(name="list")
def list_presets() -> None:
    """Print the book's presets, and the chapters that they hold."""
    from kdrepro.chapters import presets

    print(f"presets: {', '.join(presets.names())}; chapters: {', '.join(presets.CHAPTERS)}")


@presets_app.command()
def show(
    chapter: Annotated[str, typer.Argument(help="A chapter's name or number.", autocompletion=_chapters)],
    preset: PresetOption = "smoke",
    changes: SetOption = None,
) -> None:
    """Print the sizes of a chapter as YAML, and what differs from the book's preset."""
    import yaml

    from kdrepro.chapters import display, presets

    chapter, loaded = presets.check_chapter(chapter), presets.load(preset, changes or ())
    if loaded.is_own:
        print(f"# From {loaded.origin}, changed: {display.changes(loaded) or 'nothing'}.")
    sizes = {"data": loaded.data, "chapters": {chapter: loaded.chapters[chapter].model_dump(mode="json")}}
    print(yaml.safe_dump(sizes, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100), end="")


@store_app.command(name="ls")
def list_store(
    preset: PresetOption = "smoke",
    at: StoreOption = None,
    begun: Annotated[bool, typer.Option("--begun", help="Only what has not finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Print what a store holds, a row a network."""
    from kdrepro.store import upkeep

    rows = [upkeep.described(item) for item in upkeep.items(_store(preset, at)) if not begun or item.kind == "begun"]
    if as_json:
        for row in rows:
            print(json.dumps(row))
    elif rows:
        _print_table(_console(), list(rows[0]), [list(row.values()) for row in rows])
    else:
        print(f"Nothing {'begun ' if begun else ''}is in {_store(preset, at).root}.")


@store_app.command(name="show")
def show_entry(
    key: Annotated[str, typer.Argument(help="A network's name in the store, or how it begins.")],
    preset: PresetOption = "smoke",
    at: StoreOption = None,
) -> None:
    """Print what is known of a network: configuration, history, and what trained it; as JSON."""
    from kdrepro.store import upkeep

    item = upkeep.one(_store(preset, at), key)
    about = {"key": item.key, "what": item.kind, "files": dict(item.sizes)} | item.entry
    print(json.dumps(about | ({"trained by": item.holder} if item.holder else {}), indent=1))


@store_app.command(name="du")
def usage_of_store(preset: PresetOption = "smoke", at: StoreOption = None) -> None:
    """Print how many files a store has, and what they take."""
    from kdrepro.store import upkeep

    found = upkeep.usage(_store(preset, at))
    rows = [[kind, f"{count:,}", f"{size / 1e6:,.1f}"] for kind, (count, size) in sorted(found.items())]
    total = [f"{sum(count for count, _ in found.values()):,}", f"{sum(size for _, size in found.values()) / 1e6:,.1f}"]
    _print_table(_console(), ["files", "number", "MB"], [*rows, ["all", *total]])


@store_app.command(name="rm")
def remove_from_store(
    keys: Annotated[list[str] | None, typer.Argument(help="Names in the store, or how they begin.")] = None,
    begun: Annotated[bool, typer.Option("--begun", help="All that has not finished and nobody trains.")] = False,
    damaged: Annotated[bool, typer.Option("--damaged", help="All files that were set aside as damaged.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, print what would be.")] = False,
    preset: PresetOption = "smoke",
    at: StoreOption = None,
) -> None:
    """Delete networks, what was begun, or damaged files; says what it would delete unless --yes is given."""
    from kdrepro.files import counted
    from kdrepro.store import upkeep

    if bool(keys) + begun + damaged != 1:
        raise InputError("Say what to delete: names as `kdrepro store ls` prints them, --begun or --damaged.")
    store = _store(preset, at)
    if keys:
        chosen = upkeep.named(store, keys)
    else:
        chosen = [
            item
            for item in upkeep.items(store)
            if (item.damaged if damaged else item.kind == "begun" and not item.holder)
        ]
    freed = 0
    for item in chosen:
        if yes:
            upkeep.remove(store, item, damaged)
        size = sum(item.damaged.values()) if damaged else item.bytes
        part = f"{counted(len(item.damaged), 'damaged file')} of " if damaged else ""
        print(f"{'deleted' if yes else 'would delete'} {part}{item.key} ({item.kind}, {size / 1000:,.0f} KB)")
        freed += size
    print(f"{freed / 1e6:,.1f} MB{'' if yes else '; give --yes to delete them'}.")


@store_app.command(name="export")
def export_from_store(
    to: Annotated[str, typer.Argument(metavar="FOLDER|ADDRESS", help="Another store, made where there is none.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Names in the store; everything if none is given.")] = None,
    preset: PresetOption = "smoke",
    at: StoreOption = None,
) -> None:
    """Copy networks and computed arrays into another store, checked; what that one has stays."""
    from kdrepro.store import Store, upkeep

    store, target = _store(preset, at), Store(to, folders=".")
    chosen = upkeep.named(store, keys) if keys else upkeep.items(store)
    whole = [item for item in chosen if item.kind in ("network", "arrays")]
    copied = sum(upkeep.export(store, item, target) for item in whole)
    print(f"{copied} copied to {target.root}, {len(whole) - copied} were there.")


def _store(preset: str, at: str | None) -> Any:
    """The store of a preset, or the one that was named. Raises InputError where it is no folder."""
    from kdrepro.chapters import presets
    from kdrepro.store import Store

    root = at or paths.store(presets.load(preset).origin)
    store = Store(root)
    if isinstance(store.root, Path) and not store.root.is_dir():
        raise InputError(f"There is no store {store.root}: it is made when the first network is trained; see --at.")
    return store


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="mnist or tiny-imagenet", autocompletion=lambda: list(FETCHED))],
    data_root: DataOption = None,
) -> None:
    """Download a data set, check it, and print where it is; does nothing if a good copy is there."""
    if name not in FETCHED:
        raise InputError(f"There is no data set {name!r} to fetch: choose {' or '.join(FETCHED)}.")
    root = paths.data_root(data_root)
    try:
        print(_fetch(name, root))
    except InputError as error:
        from kdrepro.files import try_folder

        try:
            try_folder(root)
        except OSError as unwritable:
            raise InputError(
                f"{name} cannot be put into {root} ({unwritable.strerror or unwritable}): set KDREPRO_DATA, or give "
                "--data-root, to a folder that is writable."
            ) from error
        raise


def _fetch(name: str, root: Path) -> str:
    """Download a data set; returns where it is. Raises InputError."""
    from kdrepro import data

    if name == "mnist":
        return f"mnist is in {data.fetch_mnist(root)}"
    with Progress(*Progress.get_default_columns(), DownloadColumn(), console=_console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        found = data.fetch_tiny_imagenet(
            root, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    return f"tiny-imagenet is {found}"


def _run_shown(chapter: str, asked: dict, quiet: bool, part: "Part") -> Path:
    """Run a chapter while showing the end of its log."""
    from kdrepro.publishing import runner

    loaded = runner.of_parameters(asked)
    preset = loaded.name
    output = _shown(chapter, preset, quiet, lambda: runner.run(chapter, asked, part), loaded.origin)
    if output != paths.runs(preset) / part.into / "notebooks" / output.name:
        print(
            f"kdrepro: The record of other seeds that was there stays; this run's is in {output.parent.parent}.",
            file=sys.stderr,
        )
    return output


def _shown(chapter: str, preset: str, quiet: bool, work: Callable[[], Any], origin: str = "") -> Any:
    """Do what writes a chapter's log while showing its end: a status line on a terminal, else finished networks.

    origin: the preset whose store has the networks, where it is another.
    """
    try:
        return work() if quiet else _with_status(chapter, preset, work)
    except KeyboardInterrupt:
        print(f"kdrepro: {_kept(chapter, origin or preset)}", file=sys.stderr)
        raise typer.Exit(130) from None


def _kept(chapter: str, preset: str) -> str:
    """What a chapter that was interrupted leaves."""
    store = paths.store(preset)
    if not isinstance(store, Path):
        return f"Stopped in {chapter}: what was trained is kept in {store}, and the same command goes on from there."
    finished, begun = (len(list(store.glob(f"*/{name}"))) for name in ("entry.json", "checkpoint.safetensors"))
    return (
        f"Stopped in {chapter}: networks finished: {finished}, begun: {begun}, each with its last checkpoint; all are "
        f"kept in {store}, and the same command goes on from there."
    )


def _with_status(chapter: str, preset: str, work: Callable[[], Any]) -> Any:
    from kdrepro.publishing import runner

    console, done = _console(stderr=True), threading.Event()
    log, steps = runner.Log(chapter, preset), {}  # the last line of each worker
    with console.status(f"{chapter}: starting") as status:

        def show() -> None:
            finished = False
            while not finished:
                finished = done.wait(0.3)  # looked at before the log, so that its last lines are shown too
                for line in log.new_lines():
                    if runner.is_step(line) and console.is_terminal:
                        steps[runner.worker(line)] = line
                        shown = list(steps.values())[-WORKERS_SHOWN:]
                        status.update("\n  ".join(f"{chapter}  {step}" for step in shown))
                    elif not runner.is_step(line):
                        console.print(f"{chapter}  {line}", markup=False, highlight=False)

        watcher = threading.Thread(target=show, daemon=True)
        watcher.start()
        try:
            return work()
        finally:
            done.set()
            watcher.join()


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    # A pipe has no width of its own; 80 columns would fold every row of the verdict table.
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def _print_table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column, which commands take, is never folded or cut."""
    table = Table()
    for n, title in enumerate(titles):
        table.add_column(title, no_wrap=n == 0, min_width=max(len(row[0]) for row in rows) if n == 0 else None)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)


def main() -> None:
    """Run the command line; bad input ends with one sentence and exit code 2, Ctrl-C with 130."""
    surroundings.write_anything()
    try:
        surroundings.check_working_directory()
        with surroundings.usable_home():
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
        # Not on top: it brings NumPy, which does not load where there is no working directory.
        from kdrepro.files import UNWRITABLE

        if error.errno not in UNWRITABLE:
            raise
        print(
            f"kdrepro: {error.filename or 'A file'} cannot be written ({error.strerror}): make room or see to its "
            "permissions, and give the same command again.",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
