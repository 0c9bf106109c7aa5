"""What learners are given: exercises whose solutions run, words that are explained, a text that can be read aloud."""

import re

import pytest
import torch

from kdrepro import paths

EXERCISES = (paths.BOOK / "exercises.md").read_text()


@pytest.fixture(scope="module")
def solved():
    """The names that the page's code, run from its top to its end, leaves."""
    names = {}
    torch.manual_seed(0)
    for block in re.findall(r"^```python\n(.*?)^```", EXERCISES, re.DOTALL | re.MULTILINE):
        exec(block, names)
    return names


def test_every_exercise_has_one_folded_solution():
    exercises = re.findall(r"\{exercise\} .*\n:label: (\S+)", EXERCISES)
    solutions = re.findall(r"\{solution\} (\S+)\n:class: dropdown\n(.*?)^````$", EXERCISES, re.DOTALL | re.MULTILINE)
    assert [label for label, _ in solutions] == exercises
    assert len(exercises) == len(set(exercises)) == 10
    assert all("```python" in text for _, text in solutions)


@pytest.mark.slow
def test_solutions_do_what_their_text_says(solved):
    torch.testing.assert_close(solved["cold"], torch.tensor([[1.0, 0.0, 0.0]]))
    assert solved["hot"].std() < 0.01
    assert max(solved["second"], key=solved["second"].get) not in (1, 16)
    norm = solved["norm"]
    assert norm[40] / norm[80] == pytest.approx(4, rel=0.05)
    assert norm[1] / norm[2] < 3.5
    assert solved["soft"].item() == pytest.approx(solved["matched"].item(), rel=5e-3)
    assert solved["factor"].item() == pytest.approx(10)
    assert solved["rise"].mean() > 20
    assert 0.2 < solved["right"][0] < solved["right"][1]
    assert solved["winners"] == [0, 1]
    torch.testing.assert_close(solved["q"], torch.tensor([[0.35, 0.45, 0.1, 0.1]]))
    torch.testing.assert_close(solved["world"], torch.tensor([[0.05, 0.05, 0.9]]))


def test_glossary_is_without_doubles_and_terms_that_are_linked_are_in_it():
    glossary = (paths.BOOK / "glossary.md").read_text()
    entries = [line for line in glossary.splitlines() if line and not line.startswith((" ", "`", "#"))]
    assert len(entries) == len(set(entries))
    pages = [*paths.BOOK.glob("*.md"), *paths.NOTEBOOKS.glob("*.ipynb")]
    linked = {term for page in pages for term in re.findall(r"\{term\}`([^`<]+)`", page.read_text())}
    assert linked
    assert linked <= set(entries)


def test_the_paper_in_one_page_has_seventeen_parts_each_tested_somewhere():
    parts = (paths.BOOK / "one-page.md").read_text().split("\n## ")[1:]
    assert [int(part.split(".")[0]) for part in parts] == list(range(1, 18))
    for part in parts:
        told, tested = part.split("\n\nTested: ")
        assert len(told.split()) < 70
        assert re.search(r"\{(doc|numref|eq|ref)\}`", tested)
