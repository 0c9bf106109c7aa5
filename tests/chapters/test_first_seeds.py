"""The cells of whole notebooks at one seed: they hold for whichever it is, and their records can be computed again."""

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml

from kdrepro import paths
from kdrepro.verdicts import claims, records
from kdrepro.verdicts.verify import verify

CHAPTERS = ("01-dark-knowledge", "02-mnist", "04-soft-targets")

# Whole trainings of one seed, 2, are those of tests/publishing/test_slices.py.
CASES = [
    ("02-mnist", 2),
    *(pytest.param(chapter, seed, marks=pytest.mark.slow) for chapter in CHAPTERS for seed in (1, 3)),
    *(pytest.param(chapter, 1, marks=pytest.mark.slow) for chapter in ("05-specialists", "06-mixtures")),
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
@pytest.mark.parametrize(("chapter", "first_seed"), CASES)
def test_a_chapter_of_one_seed_holds_for_any_first_seed(chapter, first_seed):
    names = {"display": lambda *_: None}
    for cell in nbformat.read(paths.NOTEBOOKS / f"{chapter}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{chapter}: {cell.id}", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"preset": "short", "seeds": 1, "first_seed": first_seed}
        plt.close("all")
    made = list(paths.runs("short").rglob(f"results/{chapter}*.json"))  # beside another seed's, where there is one
    assert [first_seed] in [claims.seeds_of(records.read(path)) for path in made]
    for folder in {path.parent for path in made}:
        report = verify(folder, signed=False)
        assert (report.wrong, report.unsupported) == ([], [])  # each figure follows from what lies beside the record
