"""Text of sources reaches published pages where it is true of them, and nowhere else."""

import copy

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kdrepro import paths
from kdrepro.publishing import book, prose

CODE = "errors = train(seeds=5)"


def glued(name):
    data = {"application/papermill.record/text/plain": "'67'"}
    return new_output("display_data", data=data, metadata={"scrapbook": {"name": name, "mime_prefix": ""}})


def source(**words):
    """A tiny chapter: a title, one experiment and what came out; `words` replace the text of cells."""
    texts = {"title": "# Tiny", "before": "We train five.", "result": "It makes {glue:text}`errors` errors."} | words
    return new_notebook(
        cells=[
            new_markdown_cell(texts["title"], id="title"),
            new_code_cell("preset = 'smoke'", id="parameters"),
            new_markdown_cell(texts["before"], id="before"),
            new_code_cell(CODE, id="train", metadata={"mystnb": {"figure": {"name": "fig-tiny"}}}),
            new_markdown_cell(texts["result"], id="result"),
        ]
    )


def published(of=None, code=CODE):
    """A page that was made from a source, by other code where that is given, with `errors` glued."""
    page = copy.deepcopy(of or source())
    page.cells[3].source = code
    page.cells[3].outputs = [glued("errors")]
    injected = new_code_cell("preset = 'full'", id="injected", metadata={"tags": ["injected-parameters"]})
    page.cells.insert(2, injected)
    page.cells.insert(1, new_markdown_cell("Older.", id="older", metadata={"tags": [book.OLDER_TAG]}))
    return page


def text(page):
    return {cell.id: cell.source for cell in page.cells if cell.cell_type == "markdown"}


def test_better_words_replace_old_ones_and_nothing_else_changes():
    new = source(result="**{glue:text}`errors`** errors.", before="Five nets.")
    page = published()
    made, kept = prose.with_prose_of(page, new)
    assert not kept
    assert text(made) == {**text(new), "older": "Older."}
    assert [c for c in made.cells if c.cell_type == "code"] == [c for c in page.cells if c.cell_type == "code"]
    assert prose.with_prose_of(made, new) == (made, [])
    assert text(page) == {**text(source()), "older": "Older."}, "what was handed in is as it was"


@pytest.mark.parametrize(("code", "taken"), [(f"{CODE}  # five", True), ("errors = train(seeds=3)", False)])
def test_a_figure_takes_its_sources_caption_where_its_code_is_the_pages(code, taken):
    new = source()
    new.cells[3].metadata["mystnb"]["figure"]["caption"] = "Better."
    made, _ = prose.with_prose_of(page := published(code=code), new)
    (figure,) = [c for c in made.cells if c.id == "train"]
    assert (figure.metadata["mystnb"]["figure"].get("caption") == "Better.") == taken
    assert figure.source == code
    assert figure.outputs == page.cells[5].outputs


def test_a_paragraph_that_uses_a_value_that_the_page_lacks_stays_and_is_named():
    new = source(result="It makes {glue:text}`errors` errors, {glue:text}`saved` fewer.", before="Five nets.")
    made, kept = prose.with_prose_of(published(), new)
    assert text(made) == {**text(new), "result": text(source())["result"], "older": "Older."}
    assert [(one.cell, one.why) for one in kept] == [("result", "the page does not have saved")]


@pytest.mark.parametrize("code", [f"# five\n{CODE}", "errors = train(\n    seeds=5\n)"])
def test_comments_and_layout_of_code_do_not_matter(code):
    new = source(result="{glue:text}`errors` errors.")
    assert prose.with_prose_of(published(code=code), new)[1] == []


def test_text_stays_beside_other_code_unless_its_old_words_stood_beside_the_new_code():
    new = source(result="{glue:text}`errors` errors.")
    page = published(code="errors = train(seeds=3)")
    made, kept = prose.with_prose_of(page, new)
    assert made == page
    assert [(one.cell, one.why) for one in kept] == [("result", "the code beside it, train, is not the page's")]
    made, kept = prose.with_prose_of(page, new, [source()])  # the same words, already beside train(seeds=5)
    assert not kept
    assert text(made)["result"] == text(new)["result"]
    assert prose.with_prose_of(page, new, [source(result="Other words.")])[1]


def test_new_cells_come_to_their_place_and_those_of_no_code_anywhere():
    new, page = source(), published(code="errors = train(seeds=3)")
    new.cells.insert(1, new_markdown_cell("Motive.", id="motive", metadata={"tags": [prose.OF_NO_CODE]}))
    new.cells.insert(3, new_markdown_cell("Theory.", id="theory", metadata={"tags": [prose.OF_NO_CODE]}))
    new.cells.append(new_markdown_cell("Of the result.", id="remark"))
    made, kept = prose.with_prose_of(page, new)
    names = ["title", "older", "motive", "parameters", "injected", "theory", "before", "train", "result"]
    assert [cell.id for cell in made.cells] == names
    assert [one.cell for one in kept] == ["remark"]


def test_text_that_names_a_figure_or_a_label_that_the_page_lacks_stays():
    new = source(
        before="(five)=\n## Five", result="{numref}`Fig. %s <fig-tiny>`, {ref}`five <five>`, {glue:text}`errors`."
    )
    assert not prose.with_prose_of(published(), new)[1]
    page = published()
    del page.cells[5].metadata["mystnb"]
    assert [one.why for one in prose.with_prose_of(page, new)[1]] == ["the page does not have fig-tiny"]
    page = published(of=source(before="(five)=\n## 5"))
    page.cells[4].id = "another"  # of a source that called its cells otherwise
    _, kept = prose.with_prose_of(page, new)
    assert [(one.cell, one.why) for one in kept] == [
        ("before", "an old paragraph of the page has five already"),
        ("another", "the source no longer has it"),
    ]


def test_the_published_chapters_take_their_sources_words(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "chapters")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(book, "refresh", lambda: None)
    for folder, notebook in (("chapters", published()), ("notebooks", source(before="Five nets."))):
        (tmp_path / folder).mkdir()
        nbformat.write(notebook, tmp_path / folder / "01-tiny.ipynb")
    assert list(prose.refresh()) == ["01-tiny: 1 paragraphs refreshed, 0 left as they were"]
    assert text(nbformat.read(tmp_path / "chapters" / "01-tiny.ipynb", 4))["before"] == "Five nets."
    assert list(prose.refresh()) == ["01-tiny: 0 paragraphs refreshed, 0 left as they were"]


def test_versions_of_a_source_are_those_of_its_commits():
    found = list(prose.versions(paths.NOTEBOOKS / "01-dark-knowledge.ipynb"))
    if not found:
        pytest.skip("this copy has no history")
    assert all(version.cells[0].source.startswith("# ") for version in found)
