"""Chapters as readers get them: anchors, labels, tables and figures, from the published notebooks and made-up cells."""

import json
import re

import pytest
from bs4 import BeautifulSoup
from pandas import DataFrame, MultiIndex

from kdrepro import paths
from kdrepro.publishing import dressing, standing

PUBLISHED = sorted(paths.PUBLISHED.glob("*.ipynb"))


@pytest.fixture(params=PUBLISHED, ids=lambda path: path.stem)
def chapter(request, these):
    return request.param.stem, dressing.dress(
        json.loads(request.param.read_bytes()), request.param.stem, these, paths.RESULTS
    )


def test_every_claim_of_a_chapter_has_one_anchor(chapter, these):
    name, page = chapter
    text = "\n".join(dressing._text(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "markdown")
    for one in these:
        if one.claim.chapter == name:
            assert text.count(f'id="at-{standing.slug(one.claim.id)}"') == 1


def test_where_fresh_seeds_decide_the_page_says_so_below_the_first_seeds(chapter, these):
    name, page = chapter
    text = "\n".join(dressing._text(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "markdown")
    mine = [one for one in these if one.claim.chapter == name and one.entry["confirm"]]
    for one in mine:
        seeds, ours = one.entry["confirm"]["seeds"], re.escape(one.row["ours"])
        said = rf"of fresh seeds {min(seeds)} to {max(seeds)} [^<]*{ours}; on [^<]*\): <a[^>]*#{one.anchor}"
        assert re.search(said, text)
    assert text.count("of fresh seeds") == len(mine)


def test_the_summary_stands_below_the_title(chapter):
    first = dressing._text(chapter[1]["cells"][0]["source"])
    assert re.match(r"(\(.*\)=\n)?# .*\n\n:::\{admonition\} In short\n", first)


def test_folded_code_says_what_it_is(chapter):
    for cell in chapter[1]["cells"]:
        if "hide-input" in cell["metadata"].get("tags", []):
            shown = cell["metadata"]["mystnb"]["code_prompt_show"]
            assert re.fullmatch(r"Show the .+ \(\d+ lines?\)", shown)


def test_the_parameters_are_those_of_the_run(chapter):
    tags = [cell["metadata"].get("tags", []) for cell in chapter[1]["cells"]]
    assert sum("parameters" in t and "remove-cell" in t for t in tags) == 1
    shown = [cell for cell in chapter[1]["cells"] if dressing._text(cell["source"]).startswith("# Parameters\n")]
    assert len(shown) == 1
    assert 'preset = "full"' in dressing._text(shown[0]["source"])


def test_only_figures_of_lines_lose_their_ground(chapter):
    for cell in chapter[1]["cells"]:
        for output in cell.get("outputs", []):
            svg = dressing._text(output.get("data", {}).get("image/svg+xml", ""))
            if svg:
                raster, classes = "<image" in svg, cell["metadata"]["mystnb"]["image"]["classes"]
                assert ("picture-figure" in classes) == raster
                assert (dressing.WHITE in svg) == raster


def test_a_claim_that_no_cell_shows_is_anchored_at_the_top(these):
    title = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["(label)=\n", "# Title\n", "Text"]}
    text = dressing.dress({"cells": [title]}, "07-distil-back", these, paths.RESULTS)["cells"][0]["source"]
    assert text.startswith("(label)=\n# Title\n\n:::{admonition} In short")
    assert 'id="at-beyond-distil-back"' in text


def rows_of(frame):
    return [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for row in BeautifulSoup(dressing.table(frame.to_html()), "html.parser").find_all("tr")
    ]


def test_names_of_the_index_share_the_row_of_titles():
    frame = DataFrame({"errors": [1, 2]}, index=MultiIndex.from_tuples([(8, 0), (8, 1)], names=["units", "seed"]))
    assert rows_of(frame)[0] == ["units", "seed", "errors"]
    named = DataFrame([[1, 2]], index=[7])
    named.index.name, named.columns.name = "units", "T"
    assert rows_of(named) == [["units \\ T", "0", "1"], ["7", "1", "2"]]


def test_columns_of_two_storeys_keep_both():
    frame = DataFrame([[1, 2]], columns=MultiIndex.from_tuples([("paper", "a"), ("ours", "a")]))
    assert [row[1:] for row in rows_of(frame)] == [["paper", "ours"], ["a", "a"], ["1", "2"]]


def test_numbers_are_written_as_people_write_them():
    frame = DataFrame(
        {"parameters": [849424.0, 12.0], "rate": [0.5, 1.0], "p": ["2.7e-08", "0.0e+00"], "text": ["a", "b"]}
    )
    assert dressing._power("3.6e-02") == "0.036"
    assert dressing._power("1e-01") == "0.1"
    assert rows_of(frame)[1:] == [
        ["0", "849,424", "0.5", "2.7 × 10−8", "a"],
        ["1", "12", "1.0", "< 10−300", "b"],
    ]
