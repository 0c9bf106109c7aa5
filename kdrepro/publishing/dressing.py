"""An executed chapter as readers get it: what folds says what it hides, tables are formatted, claims have anchors.

The published notebooks stay as their runs left them; all of this happens while the site is built.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag

from kdrepro.publishing import explore
from kdrepro.publishing.front import in_short
from kdrepro.publishing.standing import Standing, slug
from kdrepro.verdicts import claims, recompute

CLAIMED = re.compile(r"""["']([a-z0-9]+\.[a-z0-9_.]+)["']""")
SMALL = re.compile(r"(-?\d(?:\.\d+)?)e([+-]\d+)")  # 2.7e-08
CHANGED = re.compile(r"^† .*\n", re.MULTILINE)  # what older runs list of a claim's changes; its box has today's list
WHOLE = re.compile(r"-?\d+\.0")
WHITE = 'style="fill: #ffffff"'  # how matplotlib fills what lies behind figure and axes, and nothing else of ours


def dress(notebook: dict[str, Any], chapter: str, these: Sequence[Standing], results: Path) -> dict[str, Any]:
    """The notebook, as parsed JSON, with all that a page needs; changed in place. results: the folder of records."""
    cells = notebook["cells"] = explore.place(
        notebook["cells"], chapter, lambda: recompute.load(results / f"{chapter}.json")
    )
    _show_real_parameters(cells)
    for cell in cells:
        if cell["cell_type"] == "code":
            _label(cell)
            for output in cell["outputs"]:
                _dress_output(cell, output)
    notebook["cells"] = _with_anchors(cells, {one.claim.id: one for one in these if one.claim.chapter == chapter})
    _put_on_top(notebook["cells"][0], in_short(these, chapter))
    return notebook


def _text(value: str | Sequence[str]) -> str:
    """A notebook's text, which may be one string or its lines."""
    return value if isinstance(value, str) else "".join(value)


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def _put_on_top(cell: dict[str, Any], box: str) -> None:
    """Put a box below the title, which the first cell begins with."""
    above, title, rest = re.split(r"^(# .*)$", _text(cell["source"]), maxsplit=1, flags=re.MULTILINE)
    cell["source"] = f"{above}{title}\n\n{box}\n{rest}"


def _show_real_parameters(cells: list[dict[str, Any]]) -> None:
    """Show the parameters that the run had, in the place of the defaults that they replaced."""
    injected = [cell for cell in cells if "injected-parameters" in _tags(cell)]
    if not injected:
        return
    injected[0]["metadata"]["tags"] = ["hide-input"]
    for cell in cells:
        if "parameters" in _tags(cell):
            cell["metadata"]["tags"] = [*_tags(cell), "remove-cell"]


def _label(cell: dict[str, Any]) -> None:
    """Say what a folded cell does, and how long it is."""
    options = cell["metadata"].setdefault("mystnb", {})
    source = _text(cell["source"])
    lines = len(source.splitlines())
    what = _what(cell, source)
    if options.get("code_prompt_show", "").startswith("Code of "):  # the source's own words, which have no length
        what = f"the c{options.pop('code_prompt_show')[1:]}"
    what = f"{what} ({lines} line{'s' if lines != 1 else ''})"
    options.setdefault("code_prompt_show", f"Show {what}")
    options.setdefault("code_prompt_hide", f"Hide {what}")


def _what(cell: Mapping[str, Any], source: str) -> str:
    """What a cell is for, by what it holds."""
    kinds = {name for output in cell["outputs"] for name in output.get("data", {})}
    if source.startswith("# Parameters"):
        return "the parameters of this run"
    if source.startswith(("import ", "from ")):
        return "the imports and the start of the run"
    if "mystnb" in cell["metadata"] and "figure" in cell["metadata"]["mystnb"]:
        return "the code of this figure"
    claimed = re.search(r"(?:display\.claim|run\.claim|\.claim_\w+|display\.elsewhere)\(", source)
    if claimed:
        return "the code of this verdict"
    if ".finish()" in source:
        return "the code of this line"
    if "text/html" in kinds:
        return "the code of this table"
    return "the code"


def _with_anchors(cells: Sequence[dict[str, Any]], mine: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """An anchor before the cell that shows each claim, and after it today's verdict with the way to its box."""
    shown = {}
    for i, cell in enumerate(cells):
        for claim_id in _claims_shown(cell) & mine.keys() - shown.keys():
            shown[claim_id] = i
    for claim_id in mine.keys() - shown.keys():  # not in a cell of its own: the first that names it, or the title
        named = [i for i, cell in enumerate(cells) if claim_id in CLAIMED.findall(_text(cell["source"]))]
        shown[claim_id] = named[0] if named else 0
    placed = []
    for i, cell in enumerate(cells):
        here = [mine[claim_id] for claim_id, at in shown.items() if at == i]
        anchors = "".join(f'<span id="at-{slug(one.claim.id)}"></span>' for one in here)
        if here and i:
            placed.append(_markdown(anchors, f"at-{i}"))
        elif here:
            cell["source"] = f"{_text(cell['source'])}\n\n{anchors}"
        placed.append(cell)
        if here and i:
            placed.append(_markdown("\n".join(map(_today, here)), f"today-{i}"))
    return placed


def _claims_shown(cell: Mapping[str, Any]) -> set[str]:
    """The claims whose figures and verdict a cell's output shows."""
    found = set()
    for output in cell.get("outputs", []):
        text = _text(output.get("data", {}).get("text/markdown", ""))
        found |= set(re.findall(r"^\*\*`([^`]+)`\*\*", text, re.MULTILINE))
    return found


def _today(one: Standing) -> str:
    return (
        f'<p class="claim-today">{one.badge} by today\'s rule{_fresh(one)}: <a href="../claims.html#{one.anchor}">'
        f"<code>{one.claim.id}</code>, with every seed, rule, record and command</a></p>"
    )


def _fresh(one: Standing) -> str:
    """That fresh seeds decide, where they do, and their figure: the page shows the first seeds'."""
    if not (confirm := one.entry["confirm"]):
        return ""
    ours = f"{one.row['metric']} {one.row['ours']}; on {claims.tested_on(confirm)}"
    return escape(f", of {claims.fresh_seeds(confirm)} in the place of the seeds above ({ours})")


def _markdown(source: str, name: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def _dress_output(cell: dict[str, Any], output: dict[str, Any]) -> None:
    data = output.get("data", {})
    if "text/html" in data and "<table" in _text(data["text/html"]):
        data["text/html"] = table(_text(data["text/html"]))
    if "text/markdown" in data:
        data["text/markdown"] = CHANGED.sub("", _text(data["text/markdown"]))
    if "image/svg+xml" in data:
        svg = _text(data["image/svg+xml"])
        lines = "<image" not in svg  # photographs and digits keep their white ground, and their colours in the dark
        data["image/svg+xml"] = svg.replace(WHITE, 'style="fill: none"') if lines else svg
        image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
        image["classes"] = (
            f"{image.get('classes', '')} dark-light {'line-figure' if lines else 'picture-figure'}".strip()
        )


def table(html: str) -> str:
    """pandas' HTML as a table for readers: one row of titles where two say one thing, numbers as people write them."""
    found = BeautifulSoup(html, "html.parser").table
    found.attrs = {"class": ["dataframe"]}
    for tag in found.find_all(True):
        for name in ("style", "valign", "halign", "border"):
            tag.attrs.pop(name, None)
    _merge_titles(found)
    _number_columns(found)
    return f'<div class="table-scroll">{found}</div>'


def _merge_titles(found: Tag) -> None:
    """Put the names of the index, which pandas gives a row of their own, into the row above."""
    rows = found.thead.find_all("tr") if found.thead else []
    first = found.tbody.find("tr") if found.tbody else None
    if len(rows) < 2 or first is None:
        return
    above, names = (row.find_all("th") for row in rows[-2:])
    depth = len(names) - len(first.find_all("td"))
    if depth < 1 or len(above) != len(names) or any(name.get_text(strip=True) for name in names[depth:]):
        return
    for upper, name in zip(above[:depth], names[:depth], strict=True):
        parts = [part for part in (name.get_text(strip=True), upper.get_text(strip=True)) if part]
        upper.string = " \\ ".join(parts)
    rows[-1].decompose()


def _number_columns(found: Tag) -> None:
    """Whole numbers without their .0, with separators; 2.7e-08 as a power of ten."""
    rows = [row.find_all("td") for row in found.tbody.find_all("tr")] if found.tbody else []
    for column in zip(*rows, strict=False) if rows and len({len(row) for row in rows}) == 1 else ():
        texts = [cell.get_text(strip=True) for cell in column]
        whole = all(WHOLE.fullmatch(text) or text in ("", "–", "NaN") for text in texts)
        for cell, text in zip(column, texts, strict=True):
            if whole and WHOLE.fullmatch(text):
                cell.string = f"{int(float(text)):,}"
            elif SMALL.fullmatch(text):
                cell.clear()
                cell.append(BeautifulSoup(_power(text), "html.parser"))


def _power(text: str) -> str:
    digits, exponent = SMALL.fullmatch(text).groups()
    if float(digits) == 0:
        return "&lt; 10<sup>−300</sup>"  # below the least float, which has 308 places
    if int(exponent) >= -3:
        places = -int(exponent) + len(digits.lstrip("-").partition(".")[2])
        return f"{float(f'{digits}e{exponent}'):.{places}f}"
    return f"{digits.replace('-', '−')} × 10<sup>{str(int(exponent)).replace('-', '−')}</sup>"
