"""The page of questions: its lines run, its figures are the records', and it stands before chapters 8 and 9 are run."""

import re

import pytest
import torch

from kdrepro import paths
from kdrepro.publishing import front, roles
from kdrepro.verdicts import records

PAGE = (paths.BOOK / "own-net.md").read_text()
ASKED = re.findall(r"\{claim\}`([^`]+)`", PAGE)


def test_there_are_sixteen_questions_each_with_a_line_of_code():
    parts = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    assert [int(part.partition(".")[0]) for part in parts] == list(range(1, 17))
    assert all("```python" in part for part in parts)


def test_its_lines_run():
    torch.manual_seed(0)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert names["found"] == []


@pytest.mark.parametrize("asked", sorted(set(ASKED)))
def test_every_figure_is_one_that_records_have_or_will_have(asked):
    assert roles.said(asked, records.read_all())


def test_no_measured_figure_is_typed():
    told = re.sub(r"```python.*?```|`[^`]*`", "", PAGE, flags=re.DOTALL)
    assert not re.findall(r"\d+(?:\.\d+)? (?:errors|points|%)", told.replace("on 3 % of the data", ""))


def test_chapters_that_are_not_published_are_told_and_not_linked():
    before = front.later_chapters(set())
    assert "{doc}" not in before
    assert "kdrepro run 08-pitfalls --preset full" in before
    after = front.later_chapters({"08-pitfalls"})
    assert "{doc}`chapters/08-pitfalls`" in after
    assert "{doc}`chapters/09-after-2015`" not in after
