"""The book's Sphinx extension: what is made from records as the pages are read, and what the finished site carries.

A page asks for a generated part by a comment of its own, `<!-- generated: finding -->` say.
"""

import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

from kdrepro.publishing import boxes, card, carried, dressing, front, play, weights
from kdrepro.publishing.standing import standings
from kdrepro.verdicts import recompute

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ASKED = re.compile(r"<!-- generated: ([a-z-]+) -->")
# Loaded on every page by other extensions and needed by none: icons come as a font too; nothing runs on a server.
NOT_NEEDED = (
    re.compile(r"<script[^>]*fontawesome[^>]*></script>\s*"),
    re.compile(r'<link rel="preload" as="(?:font|script)"[^>]*(?:fontawesome|all\.min\.js)[^>]*/?>\s*'),
    re.compile(r"<script>const THEBE_JS_URL[^<]*</script>\s*"),
    re.compile(r'<script async="async" src="[^"]*sphinx-thebe\.js[^"]*"></script>\s*'),
    re.compile(r'<link rel="stylesheet" type="text/css" href="[^"]*sphinx-thebe\.css[^"]*" />\s*'),
    re.compile(r'<script type="text/x-thebe-config">.*?</script>\s*', re.DOTALL),
    re.compile(r"<script>kernelName = '[^']*'</script>\s*"),
)


def setup(app: "Sphinx") -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", _read_records)
    app.connect("source-read", _fill)
    app.connect("html-page-context", _describe)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read_records(app: "Sphinx") -> None:
    app.kdrepro_standings = standings(_results(app))


def _results(app: "Sphinx") -> Path:
    return Path(app.srcdir) / "book" / "results"


def _fill(app: "Sphinx", name: str, source: list[str]) -> None:
    """Put what is generated into a page's source, and dress a chapter."""
    these = app.kdrepro_standings
    if name.startswith("book/chapters/") and source[0].lstrip().startswith("{"):
        dressed = dressing.dress(json.loads(source[0]), name.removeprefix("book/chapters/"), these, _results(app))
        source[0] = json.dumps(dressed, ensure_ascii=False)
    elif ASKED.search(source[0]):
        source[0] = ASKED.sub(lambda found: _part(app, found[1]), source[0])


def _part(app: "Sphinx", name: str) -> str:
    """A generated part, by its name. Raises KeyError for one that there is not."""
    these, repository = app.kdrepro_standings, repository_of(app.config.html_theme_options)
    results = _results(app)
    folder = results / "weights"
    parts: dict[str, Callable[[], str]] = {
        "finding": lambda: front.finding(these),
        "claims-picture": lambda: front.claims_picture(these),
        "verdict-table": lambda: front.verdict_table(these),
        "claim-boxes": lambda: boxes.boxes(these, folder, repository),
        "files": lambda: front.files(repository),
        "later-chapters": lambda: front.later_chapters({page.stem for page in results.with_name("chapters").glob("*")}),
        "play-nets": lambda: play.nets(weights.read_index(folder), these),
        "play-images": lambda: play.gallery(_of_mnist(results)),
        "play-twos": lambda: play.twos(weights.read_index(folder), _of_mnist(results)),
        "wheel": lambda: carried.WHEEL,
        "source": lambda: carried.SOURCE,
        "folder": lambda: carried.SOURCE.removesuffix("-source.tar.gz"),
    }
    return parts[name]()


def _of_mnist(results: Path) -> recompute.Arrays:
    """The arrays beside chapter 2's record."""
    return recompute.load(results / "02-mnist.json")


def repository_of(options: dict[str, Any]) -> str:
    """The repository's address, which `repository: url` of _config.yml sets; "" where it is not published."""
    return str(options.get("repository_url") or "").rstrip("/")


def _describe(app: "Sphinx", name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Say in a page's head what it is about, for search engines and for those who are sent it."""
    text = _first_words(doctree) if doctree is not None else ""
    book = app.config.html_title  # Jupyter Book leaves Sphinx's own name of the project unset
    title = re.sub("<[^>]*>", "", context.get("title") or "") or book
    base = (app.config.html_baseurl or "").rstrip("/")
    tags = {"og:type": "article", "og:title": title, "og:site_name": book}
    if text:
        tags["og:description"] = text
    if base:  # a card's picture needs the whole address
        tags |= {"og:image": f"{base}/_static/card.png", "og:url": f"{base}/{name}.html"}
    lines = [f'<meta name="description" content="{escape(text, quote=True)}" />'] if text else []
    lines += [f'<meta property="{key}" content="{escape(value, quote=True)}" />' for key, value in tags.items()]
    lines.append('<meta name="twitter:card" content="summary_large_image" />')
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(lines)


def _first_words(doctree: nodes.document, most: int = 200) -> str:
    """The first paragraph that is no part of a box or table, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        boxed = (nodes.Admonition, nodes.table, nodes.container, nodes.list_item)
        parent = paragraph.parent
        while parent is not None and not isinstance(parent, boxed):
            parent = parent.parent
        text = " ".join(paragraph.astext().split())
        if parent is None and len(text) > 40:
            return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"
    return ""


def _finish(app: "Sphinx", problem: Exception | None) -> None:
    """Take out what no page needs, and put in what the site carries."""
    if problem is not None or app.builder.name != "html":
        return
    site, book = Path(app.outdir), Path(app.srcdir) / "book"
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        lean = text
        for pattern in NOT_NEEDED:
            lean = pattern.sub("", lean)
        if lean != text:
            page.write_text(lean, encoding="utf-8")
    (site / "_static" / "card.png").write_bytes(card.draw(app.kdrepro_standings))
    carried.carry(site, book)
    results = _results(app)
    play.carry(site / "_static" / "play", results / "weights", _of_mnist(results))
