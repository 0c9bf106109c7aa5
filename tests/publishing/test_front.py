"""What the front page shows: finding, picture, table, and each chapter's summary, all from records."""

import json
import re
from html import unescape

import pytest

from kdrepro import paths
from kdrepro.chapters import presets
from kdrepro.publishing import boxes, carried, front, standing


def test_the_finding_has_the_three_nets_and_the_tally(these):
    found = {one.claim.id: one for one in these}
    text = front.finding(these)
    assert standing.tally(these) in text
    for name in ("plain", "distilled", "teacher"):
        one = found[f"mnist.{name}"]
        assert f"{front.wording.written('errors', one.mean)} (paper: {one.row['paper']})" in text
    control = found["mnist.distilled"].deciding["mean"]["errors_of_labels"]
    assert f"by the same recipe, {front.wording.written('errors', control)})" in text


def test_a_book_without_such_records_claims_nothing(tmp_path):
    these = standing.standings(tmp_path)
    assert "decide nothing" in front.finding(these)
    assert "It works" not in front.finding(these)
    assert "<svg" not in front.claims_picture(these)
    assert front.verdict_table(these).count("<tr") == len(these) + 1


def test_figures_of_other_data_do_not_stand_beside_the_papers(tmp_path):
    """A book of a smoke run: it runs, and compares nothing."""
    record = json.loads((paths.RESULTS / "02-mnist.json").read_bytes())
    record |= {"preset": "smoke", "data": {"name": "digits", "fingerprint": "0"}}
    (tmp_path / "02-mnist.json").write_text(json.dumps(record))
    these = standing.standings(tmp_path)
    errors = front.wording.written("errors", record["claims"]["mnist.distilled"]["mean"]["errors"])
    assert errors not in front.verdict_table(these) + front.in_short(these, "02-mnist") + front.finding(these)
    box = boxes.boxes([one for one in these if one.claim.id == "mnist.distilled"], tmp_path, "")
    assert "on digits, which does not decide" in box
    assert errors in box
    assert "| errors | – |" in box


def test_the_table_has_a_row_a_claim_that_leads_to_its_box(these):
    html = front.verdict_table(these)
    rows = re.findall(r"<tr role=\"row\" data-claim.*?</tr>", html, re.DOTALL)
    assert len(rows) == len(these)
    for row, one in zip(rows, these, strict=True):
        assert f'href="claims.html#{one.anchor}"' in row
        assert one.claim.statement in unescape(row)
        assert one.row["ours"] in row
        assert row.count("data-label") == len(front.COLUMNS)


def test_hints_hold_seeds_and_control_of_every_row(these):
    html = front.claims_picture(these)
    hints = json.loads(re.search(r'id="claims-data">(.*?)</script>', html, re.DOTALL)[1])
    for one in front.picture.with_number(these):
        assert hints[one.claim.id]["seeds"] == one.seeds()
        assert hints[one.claim.id]["control"] == one.row["control"]
    for verdict in {one.verdict for one in these}:
        assert f'<option value="{verdict}">' in html


@pytest.mark.parametrize("chapter", [*presets.CHAPTERS])
def test_each_chapter_has_its_claims_in_short(these, chapter):
    box = front.in_short(these, chapter)
    mine = [one for one in these if one.claim.chapter == chapter]
    assert box.count("\n- ") == len(mine)
    for one in mine:
        assert f"../claims.html#{one.anchor}" in box
        assert one.badge in box


def test_a_chapter_without_claims_has_no_box(these):
    assert front.in_short(these, "99-none") == ""


def test_files_name_the_repository_only_where_it_is_known():
    assert carried.WHEEL in front.files("")
    assert "repository" not in front.files("")
    assert "https://example.org/book" in front.files("https://example.org/book")
