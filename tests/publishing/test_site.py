"""The Sphinx extension's own parts; the whole site is looked at in test_browser.py."""

import re

import pytest
from docutils import nodes
from docutils.utils import new_document

from kdrepro import paths
from kdrepro.publishing import site

ASKING = [path for path in sorted(paths.BOOK.glob("*.md")) if site.ASKED.search(path.read_text())]


class App:
    """What the extension asks of Sphinx."""

    def __init__(self, repository=""):
        self.srcdir = paths.ROOT
        self.config = type("Config", (), {"html_theme_options": {"repository_url": repository}})
        site._read_records(self)


def test_every_generated_part_that_a_page_asks_for_is_there():
    assert {path.name for path in ASKING} >= {"index.md", "claims.md", "run.md"}
    app = App()
    for path in ASKING:
        source = [path.read_text()]
        site._fill(app, f"book/{path.stem}", source)
        assert "<!-- generated:" not in source[0]
    with pytest.raises(KeyError):
        site._part(app, "nothing-of-the-kind")


def test_no_page_speaks_of_a_repository_that_has_no_address():
    for path in [*paths.BOOK.glob("*.md")]:
        assert "<this repository>" not in path.read_text()


def test_the_address_comes_from_one_setting():
    assert site.repository_of({"repository_url": "https://example.org/book/"}) == "https://example.org/book"
    assert site.repository_of({}) == site.repository_of({"repository_url": ""}) == ""
    assert "https://example.org/book" in site._part(App("https://example.org/book"), "files")


def test_a_page_is_described_by_its_first_words():
    document = new_document("page")
    box = nodes.admonition("", nodes.paragraph("", "In a box, which is no part of the running text of the page."))
    document += [box, nodes.paragraph("", "Short."), nodes.paragraph("", "word " * 100)]
    text = site._first_words(document)
    assert re.fullmatch(r"(word )+…", text)
    assert len(text) <= 202
    assert site._first_words(new_document("empty")) == ""
