"""From runs to pages: staging copies, the strict build, publication, and what is generated from records."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml

from kdrepro import paths
from kdrepro.chapters import presets, searches
from kdrepro.errors import InputError
from kdrepro.files import atomic_write, try_folder
from kdrepro.publishing import aloud, weights
from kdrepro.publishing.runner import strip_metadata
from kdrepro.publishing.tables import history, search_tables, verdict_tables
from kdrepro.verdicts import records
from kdrepro.verdicts import verify as verdicts_verify
from kdrepro.verdicts.verify import Report
from kdrepro.verdicts.wording import duration, threads, trained_elsewhere

OLDER = " (older than its source)"  # said of a page on the status page
OLDER_TAG = "older-than-its-source"
OLDER_NOTE = """```{note}
An earlier state of this chapter made this page: its figures are that run's, its verdicts by the rules of that day, and
its words the present ones where they are true of it. The {ref}`table of verdicts <verdicts>` counts;
{doc}`/book/how-verdicts` says what has changed.
```"""
TABLE_START, TABLE_END = "<!-- verdicts: generated -->", "<!-- end of verdicts -->"


def build_published() -> Path:
    """Build the published book in place, strictly; returns its first page. Raises InputError."""
    paths.need_book()
    return _build(paths.ROOT)


def build_staged(preset: str) -> Path:
    """Build the book from a run's notebooks and records, in a copy that leaves the tree alone.

    Raises InputError when a chapter of that preset has not been run.
    """
    run = paths.runs(preset)
    staging = run / "book"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    shutil.copy(paths.ROOT / "_config.yml", staging / "_config.yml")
    toc = (paths.ROOT / "_toc.yml").read_text(encoding="utf-8")
    (staging / "_toc.yml").write_text(with_chapters(toc, list(presets.CHAPTERS)), encoding="utf-8")
    shutil.copytree(paths.BOOK, staging / "book", ignore=shutil.ignore_patterns("_build", "chapters", "results"))
    if paths.SEARCHES.exists():  # a page shows those that are published, whatever the run
        shutil.copytree(paths.SEARCHES, staging / "book" / paths.SEARCHES.relative_to(paths.BOOK))
    _collect(preset, list(presets.CHAPTERS), staging / "book" / "chapters", staging / "book" / "results")
    _generate(staging / "book", staging / "book" / "results", staging / "book" / "chapters")
    return _build(staging)


def publish(preset: str) -> list[Path]:
    """Copy a run's notebooks and records into the book, and remake the pages that depend on them.

    Chapters that were not run at this preset stay as they were published; the table of contents lists those that are.
    Raises InputError for smoke, whose numbers are not comparable, when no chapter has been run at this preset, and
    when one of them failed.
    """
    presets.load(preset)
    if preset == "smoke":
        raise InputError("smoke is not published: its numbers are not comparable; run and publish full or paper.")
    ran = [chapter for chapter in presets.CHAPTERS if records.has_run(paths.runs(preset), chapter)]
    fresh = sorted((paths.runs(preset) / "confirm").rglob("results/*.json"))
    if not ran and not fresh and not (paths.runs(preset) / "searches").exists():
        raise InputError(f"No chapter has been run at {preset}: `kdrepro run all --preset {preset}` first.")
    copied = _collect(preset, ran, paths.PUBLISHED, paths.RESULTS)
    copied += [found for path in fresh if (found := _confirm(path, paths.RESULTS))]
    for path in sorted((paths.runs(preset) / "searches").glob("*.json")):
        if left := searches.missing(json.loads(path.read_bytes())):
            print(f"{path} has not come to {left[0][1]!r}, as its table says; `kdrepro tune` goes on.", file=sys.stderr)
        paths.SEARCHES.mkdir(parents=True, exist_ok=True)
        copied.append(Path(shutil.copy(path, paths.SEARCHES / path.name)))
        searches.draw(path, paths.SEARCHES / f"{path.stem}.svg")
    weights.publish(paths.store(preset), paths.WEIGHTS)
    refresh()
    return copied


def _confirm(fresh: Path, results: Path) -> Path | None:
    """Put the claims of a run of fresh seeds into the published record of its chapter, its predictions beside it.

    Returns the record; None where that chapter is not published on this data.
    """
    record = results / fresh.name
    if not record.exists():
        return None
    run = records.read(fresh)
    merged, commit = records.merge_confirmed(records.read(record), run), run["provenance"]["git"]
    if commit in records.commits_of_fresh(merged).values() and fresh.with_suffix(".npz").exists():
        shutil.copy(fresh.with_suffix(".npz"), records.of_fresh(record, commit).with_suffix(".npz"))
    records.write(record, merged)
    return record


def refresh() -> None:
    """Remake what follows from the published records: verdicts, checksums, tables, and the list of chapters."""
    verdicts_verify.judge_again(paths.RESULTS)
    _generate(paths.BOOK, paths.RESULTS, paths.PUBLISHED)
    toc = (paths.ROOT / "_toc.yml").read_text(encoding="utf-8")
    there = [chapter for chapter in presets.CHAPTERS if (paths.PUBLISHED / f"{chapter}.ipynb").exists()]
    atomic_write(paths.ROOT / "_toc.yml", with_chapters(toc, there).encode())
    atomic_write(paths.README, _readme(verdict_tables(records.read_all())).encode())


def _readme(table: str) -> str:
    """The README with this verdict table."""
    head, rest = paths.README.read_text(encoding="utf-8").split(TABLE_START)
    return f"{head}{TABLE_START}\n{table}\n{TABLE_END}{rest.split(TABLE_END)[1]}"


def verify(preset: str | None = None) -> Report:
    """Whether records, verdicts and tables that are published follow from what is published beside them.

    preset: whether the records of this preset's run do. Raises InputError where there is no such run.
    """
    if preset is not None:
        folder = paths.runs(preset) / "results"
        if not any(folder.glob("*.json")):
            raise InputError(f"There is no run at {preset} in {folder}: `kdrepro run all --preset {preset}` makes one.")
        return verdicts_verify.verify(folder, signed=False)
    report = verdicts_verify.verify(paths.RESULTS)
    found = records.read_all()
    tables = {paths.README: _readme(verdict_tables(found))}
    tables[paths.BOOK / "history.md"] = history(found) + "\n"
    for path, expected in tables.items():
        if path.read_text(encoding="utf-8") != expected:
            report.wrong.append(f"{path.name}: its table is not that of the records: `kdrepro judge` makes it again.")
    return report


def with_chapters(toc: str, chapters: Sequence[str]) -> str:
    """A table of contents with these chapters, in this order, in the place of those that it lists.

    The published book lists what is published; a chapter that is written but not yet run at full is in the book of a
    run only. Raises ValueError for a table without chapters, which would not say where they go.
    """
    lines = toc.splitlines()
    old = [i for i, line in enumerate(lines) if line.strip().startswith("- file: book/chapters/")]
    if not old:
        raise ValueError("The table of contents has no chapter: it must list at least one file of book/chapters.")
    indent = lines[old[0]].partition("-")[0]
    new = [f"{indent}- file: book/chapters/{chapter}" for chapter in chapters]
    return "\n".join([*lines[: old[0]], *new, *lines[old[-1] + 1 :]]) + "\n"


def page_of(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An executed notebook as a page: papermill's injected cell hidden, its timings and paths dropped."""
    page = copy.deepcopy(notebook)
    took = page.metadata.get("papermill", {}).get("duration")
    strip_metadata(page)
    page.metadata["kdrepro"] = {"seconds": round(took or 0, 1)}
    for cell in page.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
            lines = cell.source.splitlines()
            cell.source = "\n".join(line for line in lines if not line.startswith("data_root"))
    return page


def _collect(preset: str, wanted: Sequence[str], chapters: Path, results: Path) -> list[Path]:
    """Copy these chapters' pages and records, in the place of those that were there."""
    run = paths.runs(preset)
    for chapter in wanted:
        if not records.has_run(run, chapter):
            raise InputError(
                f"{chapter} has not been run at {preset}: `kdrepro run {chapter} --preset {preset}` first."
            )
        about = read_notebook(run / "notebooks" / f"{chapter}.ipynb").metadata.get("papermill", {})
        if about.get("exception") or about.get("end_time", "") is None:  # None: it was killed
            raise InputError(f"The last run of {chapter} at {preset} failed: run it again.")
    chapters.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    copied = []
    for chapter in wanted:
        page = page_of(read_notebook(run / "notebooks" / f"{chapter}.ipynb"))
        nbformat.write(page, chapters / f"{chapter}.ipynb")
        copied.append(chapters / f"{chapter}.ipynb")
        before = {old.name: records.read(old) for old in records.files(chapter, results)}
        for old in records.files(chapter, results):
            old.unlink()
            old.with_suffix(".npz").unlink(missing_ok=True)
        for record in records.files(chapter, run / "results"):
            for path in (record, record.with_suffix(".npz")):
                if path.exists():
                    copied.append(Path(shutil.copy(path, results / path.name)))
        for name, old in before.items():
            _keep_confirmed(results / name, old)
    return copied


def _keep_confirmed(path: Path, before: dict[str, Any]) -> None:
    """Keep what fresh seeds have confirmed of the record that this one replaces; of the rest, no predictions."""
    kept = records.kept_confirmed(records.read(path), before) if path.exists() else {"claims": {}}
    if path.exists():
        records.write(path, kept)
    commits = (set(records.commits_of_fresh(one).values()) for one in (before, kept))
    for commit in set.difference(*commits):
        records.of_fresh(path, commit).with_suffix(".npz").unlink(missing_ok=True)


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """An executed notebook. Raises InputError when it is not whole."""
    try:
        return nbformat.read(path, 4)
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"The notebook {path} cannot be read ({first}): run its chapter again.") from error


def _generate(book: Path, results: Path, chapters: Path) -> None:
    found = records.read_all(results)
    atomic_write(book / "history.md", (history(found) + "\n").encode())
    atomic_write(book / "searches.md", (search_tables() + "\n").encode())
    for page in sorted(chapters.glob("*.ipynb")):
        _mark(page)
    atomic_write(book / "run-times.md", (_run_times(found, chapters) + "\n").encode())


def _mark(page: Path) -> None:
    """Say on a published page that is older than its source that it is, below its title."""
    notebook = read_notebook(page)
    marked = [cell for cell in notebook.cells if OLDER_TAG in cell.metadata.get("tags", [])]
    wanted = [OLDER_NOTE] if is_older(page) else []
    if [cell.source for cell in marked] == wanted:
        return
    notebook.cells = [cell for cell in notebook.cells if cell not in marked]
    notes = [nbformat.v4.new_markdown_cell(text, metadata={"tags": [OLDER_TAG]}, id=OLDER_TAG) for text in wanted]
    notebook.cells[1:1] = notes
    atomic_write(page, (nbformat.writes(notebook) + "\n").encode())


def is_older(page: Path) -> bool:
    """Whether a published chapter is a run of another source than the present one: the commit that it names has it."""
    source, published = (read_notebook(path).cells for path in (paths.NOTEBOOKS / page.name, page))
    made = {"injected-parameters", OLDER_TAG}
    ran = [cell.source for cell in published if not made & set(cell.metadata.get("tags", []))]
    return ran != [cell.source for cell in source]


def _run_times(found: Sequence[dict[str, Any]], chapters: Path) -> str:
    """The status page's table, from provenance alone."""
    lines = [
        "| chapter | preset, data | seeds | networks | training | budget | this run | hardware | versions | made |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in found:
        p, config = record["provenance"], record["provenance"]["config"]
        page = chapters / f"{record['chapter']}.ipynb"
        wall = nbformat.read(page, 4).metadata["kdrepro"]["seconds"]
        older = OLDER if is_older(page) else ""
        hardware = f"{p['device']}: {p['cpu']}, {threads(p)}{trained_elsewhere(p)}"
        lines.append(
            f"| {{doc}}`chapters/{record['chapter']}`{older} | {record['preset']}, {record['data']['name']} "
            f"| {len(config['seeds'])} | {p['networks']} | {duration(p['training_seconds'])} "
            f"| {duration(60 * config['minutes'])} | {duration(wall)} | {hardware} "
            f"| Python {p['python']}, torch {p['torch']}, kdrepro {p['kdrepro']} "
            f"| {p['date']}, {p['git']}{' with changes' if p['dirty'] else ''} |"
        )
    return "\n".join(lines)


def _build(source: Path) -> Path:
    """`jupyter-book build`, failing on a single warning and on a page that is missing."""
    try:
        try_folder(source / "_build")
    except OSError as error:
        raise InputError(
            f"The book cannot be built in {source} ({error.strerror or error}): make room, or build it in a copy of "
            "the repository that is writable."
        ) from error
    # Each build names these files anew, and leaves the old ones.
    shutil.rmtree(source / "_build" / "html" / "_static" / "tippy", ignore_errors=True)
    # The module has no __main__, and the script need not be on the path.
    main = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", main, "build", ".", "-n", "-W", "--keep-going", "--all"]
    # The book's extension is that of this package, wherever the source to build lies.
    path = os.pathsep.join(filter(None, (str(paths.ROOT), os.environ.get("PYTHONPATH"))))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONWARNINGS": "ignore",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(command, cwd=source, capture_output=True, env=environment)
    if done.returncode != 0:
        problems = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        print(*problems, sep="\n", file=sys.stderr)
        raise InputError("The book did not build without a warning: see the output above.")
    html = source / "_build" / "html"
    missing = [name for name in _pages(source) if not (html / f"{name}.html").exists()]
    if missing:
        raise InputError(f"The build left out pages of _toc.yml: {', '.join(missing)}.")
    aloud.add_to(html)
    _write_entrance(html, _pages(source)[0])
    return html / "index.html"


def _write_entrance(html: Path, root: str) -> None:
    """The page at the site's address, which leads to the first page, with what that page says of itself."""
    first = (html / f"{root}.html").read_text(encoding="utf-8")
    about = "\n".join(re.findall(r'<meta (?:name="description"|property="og:)[^>]*>', first))
    title = re.search(r"<title>(.*?)</title>", first, re.DOTALL)[1].strip()
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n{about}\n'
        f'<meta http-equiv="refresh" content="0; url={root}.html">\n</head>\n'
        f'<body><p><a href="{root}.html">{title}</a></p></body>\n</html>\n'
    )
    atomic_write(html / "index.html", page.encode())


def _pages(source: Path) -> list[str]:
    """Every page of the table of contents."""
    toc = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
    parts = toc.get("parts", [])
    return [toc["root"], *(c["file"] for part in parts for c in part["chapters"]), "index"]
