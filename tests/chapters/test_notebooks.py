"""The notebooks show the experiment: what is hidden, what every chapter does in the package's own words."""

import nbformat
import pytest

from kdrepro import paths

SOURCES = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
HIDING = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
WORDS = [
    *("soften", "distillation_loss", "soft_target_gradient", "fit", "Batches", "Recipe", "hard_targets"),
    *("soft_targets", "logits", "MLP", "ConvNet", "FrameBatches", "Recognizer", "cluster_classes", "with_dustbin"),
    *("HalfSpecial", "correct_dustbin", "combine", "kept_knowledge", "Combined"),
]


def cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def hidden(cell) -> bool:
    return bool(HIDING & set(cell.metadata.get("tags", [])))


def lines(some) -> int:
    return sum(1 for cell in some for line in cell.source.splitlines() if line.strip())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_nearly_half_of_the_code_is_visible(path):
    shown = [cell for cell in cells(path) if not hidden(cell)]
    assert lines(shown) >= 0.45 * lines(cells(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_hidden_code_says_what_it_shows(path):
    for cell in cells(path):
        if "hide-input" in cell.metadata.get("tags", []):
            assert cell.metadata["mystnb"]["code_prompt_show"].startswith("Code of ")


def test_some_chapter_uses_every_public_name():
    shown = "\n".join(cell.source for path in SOURCES for cell in cells(path) if not hidden(cell))
    assert not [word for word in WORDS if f"{word}(" not in shown and f"{word}," not in shown]
