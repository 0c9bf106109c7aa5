"""Better words for published chapters, without a run: the sources' markdown cells, wherever they are true of the page.

A published chapter is a run of its source as that was on the day. Its code and outputs stay; of its text, a cell takes
the source's present words where

- the page has every value, figure and label that they name, and
- the code beside them is the page's too, in all but comments and layout; or the page's old words once stood beside the
  source's present code, so that the author let the same words speak of both; or the cell bears the tag `of-no-code`.

A figure takes the source's caption where its own code is the page's.

What cannot be refreshed stays as it was and is named, with the reason.
"""

import ast
import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from kdrepro import paths
from kdrepro.files import atomic_write
from kdrepro.publishing import book
from kdrepro.verdicts import records

OF_NO_CODE = "of-no-code"  # tag of a markdown cell that speaks of no code: theory, exercises, a summary of the paper
_MADE = {"injected-parameters", book.OLDER_TAG}  # tags of cells that publication adds
_GLUED = re.compile(r"\{glue:\w*\}`([^`<]+)`")
_REFERRED = re.compile(r"\{(?:numref|ref|eq)\}`(?:[^`<]*<)?([^`<>]+)>?`")
_DEFINED = re.compile(r"^\(([\w.-]+)\)=$|^:(?:label|name): *(\S+)", re.MULTILINE)


class Kept(NamedTuple):
    """A cell whose old words stay, or that is not added. begins: its first words."""

    cell: str
    begins: str
    why: str


def refresh() -> Iterator[str]:
    """Refresh every published chapter; yields what was done and what was not, a line each. Raises InputError."""
    for path in sorted(paths.PUBLISHED.glob("*.ipynb")):
        source = paths.NOTEBOOKS / path.name
        before = book.read_notebook(path)
        page, kept = with_prose_of(before, book.read_notebook(source), versions(source))
        if page != before:
            atomic_write(path, (nbformat.writes(page) + "\n").encode())
        old = {cell.id: cell.source for cell in before.cells}
        changed = sum(cell.source != old.get(cell.id) for cell in page.cells)
        yield f"{path.stem}: {changed} paragraphs refreshed, {len(kept)} left as they were"
        yield from (f"  {one.cell} ({one.begins} …): {one.why}" for one in kept)
    book.refresh()


def versions(source: Path) -> Iterator[NotebookNode]:
    """What a source was at each commit that changed it, the latest first; none where there is no repository."""
    name = source.relative_to(paths.ROOT).as_posix()
    for commit in records.git("log", "--full-history", "--format=%H", "--", name).split():
        text = records.git("show", f"{commit}:{name}")
        if text:  # "" at the commit that removed it
            yield nbformat.reads(text, 4)


def with_prose_of(
    page: NotebookNode, source: NotebookNode, earlier: Iterable[NotebookNode] = ()
) -> tuple[NotebookNode, list[Kept]]:
    """A published page with its source's words wherever they are true of it, and what had to stay.

    earlier: versions of the source; they show beside which code the page's words have stood.
    """
    earlier, kept = list(earlier), {}
    texts = [cell for cell in source.cells if cell.cell_type == "markdown"]
    while True:  # what one cell leaves undefined, others may name
        made = _replaced(page, source, kept)
        found = {c.id: why for c in texts if c.id not in kept and (why := _untrue(c, made, page, source, earlier))}
        if not found:
            break
        kept |= found
    gone = [c for c in page.cells if c.cell_type == "markdown" and not _is_made(c) and c.id not in _ids(source)]
    left = [Kept(c.id, _begin(c), kept[c.id]) for c in texts if c.id in kept]
    return made, left + [Kept(c.id, _begin(c), "the source no longer has it") for c in gone]


def _replaced(page: NotebookNode, source: NotebookNode, kept: Mapping[str, str]) -> NotebookNode:
    """The page with all of the source's text but those cells', each where it is in the source."""
    made, after = copy.deepcopy(page), None
    for cell in source.cells:
        place = next((i for i, there in enumerate(made.cells) if there.id == cell.id), None)
        if cell.cell_type == "markdown" and cell.id not in kept:
            if place is None:
                place = 0 if after is None else after + 1
                while place < len(made.cells) and _is_made(made.cells[place]):
                    place += 1
                made.cells.insert(place, copy.deepcopy(cell))
            else:
                made.cells[place].source = cell.source
        elif place is not None and _same_figure(made.cells[place], cell):
            made.cells[place].metadata["mystnb"] = copy.deepcopy(cell.metadata["mystnb"])
        after = after if place is None else place
    return made


def _same_figure(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two code cells draw one figure, by its label, with the same code."""
    labels = _defined(one) if one.cell_type == other.cell_type == "code" else []
    return labels == _defined(other) != [] and _meaning(one.source) == _meaning(other.source)


def _untrue(
    cell: NotebookNode, made: NotebookNode, page: NotebookNode, source: NotebookNode, earlier: Sequence[NotebookNode]
) -> str:
    """Why the source's words would not be true of the page; "" where they would."""
    old = next((there.source for there in page.cells if there.id == cell.id), None)
    if old == cell.source:
        return ""
    unknown = sorted(set(_GLUED.findall(cell.source)) - _glued(page))
    if unknown:
        return f"the page does not have {', '.join(unknown)}"
    lost = sorted(set(_REFERRED.findall(cell.source)) & set(_labels(source)) - set(_labels(made)))
    if lost:
        return f"the page does not have {', '.join(lost)}"
    there = _labels(made)
    twice = sorted(label for label in _defined(cell) if there.count(label) > 1)
    if twice:
        return f"an old paragraph of the page has {', '.join(twice)} already"
    if OF_NO_CODE in cell.metadata.get("tags", []):
        return ""
    beside = _beside(source, cell.id)
    stood = any(old == _source_of(v, cell.id) and beside == _beside(v, cell.id) for v in earlier) and old is not None
    other = [name for name, code in beside.items() if _code(page, name) != code]
    return f"the code beside it, {' and '.join(other)}, is not the page's" if other and not stood else ""


def _beside(notebook: NotebookNode, name: str) -> dict[str, str]:
    """The code cells before and after a cell, by id; {} where it has no such cell."""
    ids = [cell.id for cell in notebook.cells]
    if name not in ids:
        return {}
    i = ids.index(name)
    sides = (reversed(notebook.cells[:i]), notebook.cells[i + 1 :])
    nearest = [next((c for c in side if c.cell_type == "code" and not _is_made(c)), None) for side in sides]
    return {c.id: _meaning(c.source) for c in nearest if c is not None}


def _code(notebook: NotebookNode, name: str) -> str | None:
    found = _source_of(notebook, name)
    return None if found is None else _meaning(found)


def _source_of(notebook: NotebookNode, name: str) -> str | None:
    return next((cell.source for cell in notebook.cells if cell.id == name), None)


def _meaning(code: str) -> str:
    """Code without its comments and layout."""
    try:
        return ast.dump(ast.parse(code))
    except SyntaxError:  # IPython's own, `%matplotlib` say
        return code


def _glued(page: NotebookNode) -> set[str]:
    """The names of the values that a page's outputs hold."""
    outputs = (output for cell in page.cells for output in cell.get("outputs", []))
    return {output.get("metadata", {}).get("scrapbook", {}).get("name") for output in outputs}


def _labels(notebook: NotebookNode) -> list[str]:
    """What can be referred to: labels of sections, equations, directives and figures."""
    return [label for cell in notebook.cells for label in _defined(cell)]


def _defined(cell: NotebookNode) -> list[str]:
    if cell.cell_type == "code":
        return [name for name in [cell.metadata.get("mystnb", {}).get("figure", {}).get("name")] if name]
    return [one or other for one, other in _DEFINED.findall(cell.source)]


def _ids(notebook: NotebookNode) -> set[str]:
    return {cell.id for cell in notebook.cells}


def _is_made(cell: NotebookNode) -> bool:
    return bool(_MADE & set(cell.metadata.get("tags", [])))


def _begin(cell: NotebookNode) -> str:
    """The first words of a paragraph."""
    return " ".join(cell.source.split()[:6])
