"""The cells of whole notebooks at one seed: they must hold for whichever it is, and however good its networks are."""

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml

from kdrepro import paths
from kdrepro.verdicts import records

CHAPTERS = ("01-dark-knowledge", "02-mnist", "04-soft-targets")

CASES = [
    ("02-mnist", 2, "short"),
    *(pytest.param(chapter, seed, "short", marks=pytest.mark.slow) for chapter in CHAPTERS for seed in (0, 1, 3)),
    *(pytest.param(chapter, 2, "smoke", marks=pytest.mark.slow) for chapter in CHAPTERS),
]


def shortened(sizes):
    """The same sizes with trainings of an epoch, after which networks err in every way."""
    if isinstance(sizes, dict):
        return {key: 1 if key == "epochs" else shortened(value) for key, value in sizes.items()}
    return sizes


@pytest.fixture
def short(tmp_path, monkeypatch) -> None:
    """A preset of that name beside smoke."""
    smoke = (paths.PRESETS / "smoke.yaml").read_text(encoding="utf-8")
    (tmp_path / "smoke.yaml").write_text(smoke, encoding="utf-8")
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(shortened(yaml.safe_load(smoke))), encoding="utf-8")
    monkeypatch.setattr(paths, "PRESETS", tmp_path)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("chapter", "first_seed", "preset"), CASES)
def test_a_chapter_of_one_seed_holds_for_any_first_seed(chapter, first_seed, preset):
    names = {"display": lambda *_: None}
    for cell in nbformat.read(paths.NOTEBOOKS / f"{chapter}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{chapter}: {cell.id}", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"preset": preset, "seeds": 1, "first_seed": first_seed}
        plt.close("all")
    (record,) = records.files(chapter, paths.runs(preset) / "results")
    assert records.seeds_of(records.read(record)) == [first_seed]
