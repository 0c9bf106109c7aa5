"""The sources, the published book and what is said in it."""

import ast
import json
import re
import runpy
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import yaml

from kdrepro import data, paths
from kdrepro.chapters import presets
from kdrepro.publishing import book, tables
from kdrepro.verdicts import claims, records

PARAMETERS = {"preset": "smoke", "seeds": None, "first_seed": 0, "device": "cpu", "data_root": None}
PARAMETERS |= {"changes": None, "own_data": None}
SOURCES = [paths.NOTEBOOKS / f"{chapter}.ipynb" for chapter in presets.CHAPTERS]
PUBLISHED = sorted(paths.PUBLISHED.glob("*.ipynb"))
RECORDS = sorted(paths.RESULTS.glob("*.json"))
# Published before their sources took their present form; each is published again when its claims are decided anew.
OLDER = {"09-after-2015"}
OF_FEWER_SEEDS = {"word_errors_saved_over_half_again"}  # against a control that the first seeds have


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_parameters_are_literals_with_the_agreed_names(source):
    cells = [c for c in nbformat.read(source, 4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    assigned = {t.targets[0].id: ast.literal_eval(t.value) for t in ast.parse(cells[0].source).body}
    assert assigned == PARAMETERS


@pytest.mark.parametrize("path", [*SOURCES, *PUBLISHED], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_pages_are_executed_and_clean(path):
    notebook = nbformat.read(path, 4)
    text = path.read_text()
    assert "tqdm" not in text
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert cell.execution_count is not None
        assert len(cell.source.splitlines()) <= 40, "a cell should fit on a screen"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
        figures = [o for o in cell.outputs if "image/svg+xml" in o.get("data", {}) or "image/png" in o.get("data", {})]
        if "remove-cell" in cell.metadata.get("tags", []):
            assert all("scrapbook" in o.get("metadata", {}) for o in cell.outputs), "shown to nobody"
        if figures:
            assert len(figures) == 1
            assert cell.metadata["mystnb"]["figure"]["caption"]
            assert cell.metadata["mystnb"]["figure"]["name"].startswith("fig-")
            assert cell.metadata["mystnb"]["image"]["alt"]


def test_the_table_of_contents_lists_what_is_published():
    toc = (paths.ROOT / "_toc.yml").read_text()
    assert PUBLISHED
    assert book.with_chapters(toc, [path.stem for path in PUBLISHED]) == toc
    every = book.with_chapters(toc, list(presets.CHAPTERS))
    assert [line for line in every.splitlines() if "chapters/" in line] == [
        f"      - file: book/chapters/{chapter}" for chapter in presets.CHAPTERS
    ]
    assert [line for line in every.splitlines() if "chapters/" not in line] == [
        line for line in toc.splitlines() if "chapters/" not in line
    ]
    with pytest.raises(ValueError, match="has no chapter"):
        book.with_chapters("format: jb-book\n", ["01-dark-knowledge"])


def test_figures_that_claims_name_exist():
    names = {
        c.metadata["mystnb"]["figure"]["name"]
        for p in SOURCES
        for c in nbformat.read(p, 4).cells
        if "mystnb" in c.metadata
    }
    assert {c.figure for c in claims.load().values() if c.figure} <= names


def test_every_chapter_ends_with_its_deviations():
    for path in SOURCES:
        text = "\n".join(c.source for c in nbformat.read(path, 4).cells)
        assert "## Deviations from the paper" in text
        assert "## What was easy, what was hard" in text


def test_published_chapters_are_runs_of_their_sources():
    """The same cells, papermill's parameters apart; the list of those that are older only shrinks."""
    assert {page.stem for page in PUBLISHED if book.is_older(page)} == OLDER
    about = (paths.BOOK / "run-times.md").read_text()
    assert {
        page.stem for page in PUBLISHED if book.OLDER_NOTE in (c.source for c in nbformat.read(page, 4).cells)
    } == OLDER
    assert about.count(book.OLDER) == sum(path.name.startswith(tuple(OLDER)) for path in RECORDS)


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_records_agree_with_themselves_and_with_the_rules(path):
    """Means, intervals and verdicts are recomputed from the raw values of every seed."""
    record = records.read(path)
    assert record["preset"] in ("full", "paper")
    assert not record["provenance"]["dirty"]
    for claim_id, entry in record["claims"].items():
        for one in filter(None, (entry, entry.get("confirm"))):
            given = (one["seconds"], one["metrics"], one.get("pooled"))
            again = records.claim_entry(claim_id, record["data"]["name"], *given)
            assert again == {name: value for name, value in one.items() if name in again}
        seeds = len(record["provenance"]["config"]["seeds"])
        if not record["data"]["name"].startswith("glyphs"):  # a second data set, which decides nothing
            assert seeds >= 5
        rule = claims.get(claim_id).rule
        for metric, values in entry["metrics"].items():  # what stands beside may have fewer
            all_of_them = metric in rule.metrics - OF_FEWER_SEEDS
            assert len(values) == seeds if all_of_them else 1 <= len(values) <= seeds


def test_predictions_give_the_errors_of_the_record(mnist_root):
    record = records.read(paths.RESULTS / "02-mnist.json")
    labels = data.mnist(mnist_root).test_labels.numpy()
    predictions = np.load(paths.RESULTS / "02-mnist.npz")
    for name in ("teacher", "plain", "distilled"):
        right = np.unpackbits(predictions[f"{name}.right"], axis=1, count=len(labels)).astype(bool)
        assert np.array_equal(right, predictions[name] == labels)
        others = [predictions[of] for of in predictions.files if of.startswith(f"{name}, student")]
        each = [right, *(np.unpackbits(one, axis=1, count=len(labels)) for one in others)]
        errors = np.mean([(one == 0).sum(1) for one in each], axis=0).tolist()
        assert errors == record["claims"][f"mnist.{name}"]["metrics"]["errors"]


def test_statistics_from_published_predictions():
    """The site's example prints the record's own errors, and needs no data."""
    example = paths.BOOK / "example_statistics.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = records.read(paths.RESULTS / "02-mnist.json")["claims"]
    errors = [found[f"mnist.{name}"]["metrics"]["errors"] for name in ("plain", "distilled")]
    assert done.stdout.splitlines()[0] == f"errors of each seed: {errors[0]} {errors[1]}"


def test_generated_parts_are_those_of_the_records():
    """The README's table and the status page's differ from the records' in nothing."""
    readme = paths.README.read_text()
    table = readme.split(book.TABLE_START)[1].split(book.TABLE_END)[0].strip()
    found = records.read_all()
    assert table == tables.verdict_tables(found)
    assert (paths.BOOK / "run-times.md").read_text().strip() == book._run_times(found, paths.PUBLISHED)


def test_readme_names_no_result_outside_its_table():
    """Numbers of ours are not typed by hand: outside the generated table only the paper's figures appear."""
    readme = paths.README.read_text()
    prose = readme.split(book.TABLE_START)[0] + readme.split(book.TABLE_END)[1]
    counts = set(re.findall(r"(\d+(?:\.\d+)?) (?:test )?errors", prose))
    assert counts <= {"67", "146", "74"}


def test_injected_parameters_are_hidden_and_no_path_stays():
    notebook = nbformat.v4.new_notebook()
    injected = nbformat.v4.new_code_cell("preset = 'full'\ndata_root = '/home/somebody/data'")
    injected.metadata["tags"] = ["injected-parameters"]
    injected.metadata["papermill"] = {"duration": 3}
    notebook.cells.append(injected)
    notebook.metadata["papermill"] = {"duration": 12.34, "output_path": "/home/somebody/out.ipynb"}
    page = book.page_of(notebook)
    assert "remove-cell" in page.cells[0].metadata["tags"]
    assert "somebody" not in nbformat.writes(page)
    assert page.metadata["kdrepro"]["seconds"] == 12.3


def test_the_sites_address_leads_to_its_first_page(tmp_path):
    (tmp_path / "book").mkdir()
    head = '<title>\n A &amp; B</title><meta name="description" content="About"><meta property="og:title" content="A">'
    (tmp_path / "book" / "index.html").write_text(f"<html><head>{head}<script></script></head></html>")
    book._write_entrance(tmp_path, "book/index")
    page = (tmp_path / "index.html").read_text()
    assert 'content="0; url=book/index.html"' in page
    assert '<meta name="description" content="About">' in page
    assert "<title>A &amp; B</title>" in page


def test_site_configuration():
    config = yaml.safe_load((paths.ROOT / "_config.yml").read_text())
    assert config["execute"]["execute_notebooks"] == "off"
    assert (paths.BOOK / "_static" / config["sphinx"]["config"]["mathjax_path"]).exists()
    for page in book._pages(paths.ROOT):
        if page != "index":
            assert any((paths.ROOT / f"{page}{suffix}").exists() for suffix in (".md", ".ipynb"))


EXAMPLE = paths.BOOK / "example_distil.py"


def test_the_readmes_example_distils():
    """It is the site's too, and soft targets help whoever runs it."""
    assert EXAMPLE.read_text().strip() in paths.README.read_text()
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout)
    assert found["teacher"] < found["soft targets"] < found["labels alone"]


@pytest.mark.slow
def test_the_readmes_example_distils_with_each_of_ten_seeds():
    example = runpy.run_path(str(EXAMPLE))
    found = [example["main"](seed) for seed in range(10)]
    assert all(row["soft targets"] < row["labels alone"] for row in found)
    # And the README says by how much.
    printed = ast.literal_eval(re.search(r"`({'teacher': .*})`", paths.README.read_text())[1])
    assert found[0] == pytest.approx(printed, abs=5)


@pytest.mark.slow
def test_first_example_of_the_speech_page_runs(tmp_path):
    """As a user would run it: a plain script, without a guard for the processes that prepare the corpus."""
    page = (paths.BOOK / "speech.md").read_text()
    (tmp_path / "script.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    frames, states = (int(n) for n in re.match(r"(\d+) training frames, (\d+) states", done.stdout).groups())
    assert 36_000 < frames < 45_000
    assert states == 500


def test_nothing_large_is_tracked():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    sizes = {name: (paths.ROOT / name).stat().st_size for name in tracked if (paths.ROOT / name).exists()}
    assert max(sizes.values()) < 2_000_000
    assert sum(sizes.values()) < 60_000_000


def test_records_are_plain_json():
    for path in RECORDS:
        assert json.loads(path.read_text())["chapter"] in presets.CHAPTERS


def test_a_book_of_ones_own_run_has_the_pictures_that_its_pages_name(monkeypatch, tmp_path):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))

    def collect(preset, wanted, chapters, results):
        for folder in (chapters, results):
            folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(book, "_collect", collect)
    monkeypatch.setattr(book, "_build", lambda source: source)
    pages = book.build_staged("smoke") / "book"
    named = re.findall(r"\{image\} (\S+)", (pages / "searches.md").read_text(encoding="utf-8"))
    assert len(named) == len(list(paths.SEARCHES.glob("*.json"))) > 0
    assert [name for name in named if not (pages / name).exists()] == []
