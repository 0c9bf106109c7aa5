"""What one claim needs of its chapter, and nothing else."""

import ast
import json

import nbformat
import numpy as np
import pytest

from kdrepro import paths
from kdrepro.chapters import presets
from kdrepro.errors import InputError
from kdrepro.publishing import book, runner, slices
from kdrepro.publishing.runner import Part
from kdrepro.verdicts import claims, records, verify


def notebook(*sources):
    cells = [nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["parameters"]})]
    return nbformat.v4.new_notebook(cells=cells + [nbformat.v4.new_code_cell(source) for source in sources])


START = "from kdrepro import chapters\nrun = chapters.start('x', preset='smoke')\nsizes = run.sizes"
END = "run.finish()\ndisplay.budget(run)"


def sliced(*sources, claim="c"):
    found = slices.of_claim(notebook(START, *sources, END), claim, "claims/c")
    assert [cell.source for cell in found.cells[:2]] == ["a = 1", found.cells[1].source]
    assert "into='claims/c'" in found.cells[1].source
    assert found.cells[-1].source == "run.finish()"
    return "\n".join(cell.source for cell in found.cells[2:-1])


CASES = {
    "only its own networks": (
        ["teachers = run.train(1)\nplain = run.train(2)", "run.claim('d', teachers)\nrun.claim('c', plain)"],
        "plain = run.train(2)\nrun.claim('c', plain)",
    ),
    "a name that is bound anew": (
        ["plain = demonstration()", "plain = run.train(2)\nrun.claim('c', plain)"],
        "plain = run.train(2)\nrun.claim('c', plain)",
    ),
    "predictions of what it has": (
        [
            "net = run.train(1)\nother = run.train(2)\nrun.predictions |= {'b': other}\nrun.predictions |= {'a': net}",
            "run.claim('c', net)",
        ],
        "net = run.train(1)\nrun.predictions |= {'a': net}\nrun.claim('c', net)",
    ),
    "what changes an object": (
        [
            "rows = []\nfor i in range(3):\n    rows.append(run.train(i))\nother = []\nother.append(1)",
            "run.claim('c', rows)",
        ],
        "rows = []\nfor i in range(3):\n    rows.append(run.train(i))\nrun.claim('c', rows)",
    ),
    "an item that is set": (
        ["d = {}\nd['x'] = run.train(1)\nrun.claim('c', d)"],
        "d = {}\nd['x'] = run.train(1)\nrun.claim('c', d)",
    ),
    "what a function takes from outside": (
        ["k = 3\ni = 7\ndef f(x):\n    i = x\n    return run.train(i + k)\nnet = f(1)\nrun.claim('c', net)"],
        "k = 3\ndef f(x):\n    i = x\n    return run.train(i + k)\nnet = f(1)\nrun.claim('c', net)",
    ),
    "variables of comprehensions": (
        ["n = 5\nnets = [run.train(n) for n in range(2)]\nrun.claim('c', nets)"],
        "nets = [run.train(n) for n in range(2)]\nrun.claim('c', nets)",
    ),
    "publications of its own nets": (
        [
            "p = run.train(1)\nq = run.train(2)\nrun.claim('c', p)",
            "run.publish_predictions('p', p)\nrun.publish_predictions('q', q)",
        ],
        "p = run.train(1)\nrun.claim('c', p)\nrun.publish_predictions('p', p)",
    ),
}


@pytest.mark.parametrize(("sources", "expected"), CASES.values(), ids=CASES)
def test_a_slice_holds_what_the_claim_depends_on(sources, expected):
    assert sliced(*sources) == expected


def test_a_claim_that_no_cell_makes():
    with pytest.raises(InputError, match="No cell of this chapter measures e"):
        sliced("run.claim('c', 1)", claim="e")


def test_all_claims_of_a_chapter_need_no_more_than_each():
    sources = ["a = run.train(1)\nrun.claim('c', a)", "shown = run.train(2)", "run.claim('d', a)\ndraw(shown)"]
    assert sliced(*sources, claim="") == "a = run.train(1)\nrun.claim('c', a)\nrun.claim('d', a)"
    with pytest.raises(InputError, match="measures a claim"):
        sliced(sources[1], claim="")


def measured(chapter):
    """The claims that a chapter's source measures."""
    text = (paths.NOTEBOOKS / f"{chapter}.ipynb").read_text()
    return [c for c in claims.load().values() if c.chapter == chapter and f'\\"{c.id}\\"' in text]


@pytest.mark.parametrize("chapter", presets.CHAPTERS)
def test_every_claims_slice_is_a_small_part_that_reads_no_name_that_it_lacks(chapter):
    source = nbformat.read(paths.NOTEBOOKS / f"{chapter}.ipynb", 4)
    whole = sum(len(cell.source) for cell in source.cells if cell.cell_type == "code")
    for claim_id in [*(claim.id for claim in measured(chapter)), ""]:
        found = slices.of_claim(source, claim_id, "claims/x")
        code = "\n".join(cell.source for cell in found.cells)
        bound = {name for node in ast.parse(code).body for name in slices._bound(node)}
        missing = slices._reads(ast.parse(code).body, set()) - bound - set(dir(__builtins__)) - set(__builtins__)
        assert not missing, (claim_id, missing)
        assert len(code) < (0.6 if claim_id else 0.9) * whole


def test_a_plain_net_is_decided_without_teachers():
    source = nbformat.read(paths.NOTEBOOKS / "02-mnist.ipynb", 4)
    code = "\n".join(cell.source for cell in slices.of_claim(source, "mnist.plain", "claims/x").cells)
    assert "teacher" not in code
    assert 'publish_predictions("plain", plain)' in code


# --- run -------------------------------------------------------------------------------------------------------


def asked(first_seed=0):
    return {"preset": "smoke", "seeds": 1, "first_seed": first_seed, "device": "cpu", "data_root": None}


def follows(results):
    """Whether each figure of a run's records follows from what lies beside them."""
    report = verify.verify(results, signed=False)
    assert (report.wrong, report.unsupported) == ([], [])
    return report.checked > 0


@pytest.mark.slow
@pytest.mark.parametrize("chapter", presets.CHAPTERS)
def test_a_part_gives_what_the_whole_gives(chapter, tmp_path, monkeypatch):
    """Each claim of a chapter, with the store that the whole has filled."""
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    whole = runner.run(chapter, asked(2)).parent.parent / "results"
    for claim in measured(chapter):
        part = runner.run(chapter, asked(2), Part(claim.id)).parent.parent / "results"
        assert part.parent == tmp_path / "smoke" / "claims" / claim.id
        one, other = (records.claim_by_data(claim.id, chapter, folder) for folder in (whole, part))
        main = whole / f"{chapter}.json"  # a second record beside it, of data that decide nothing, is the whole's alone
        assert other.keys() == ({records.read(main)["data"]["name"]} if main.exists() else one.keys())
        for data in other:
            drop = {"seconds"}
            assert {k: v for k, v in other[data].items() if k not in drop} == {
                k: v for k, v in one[data].items() if k not in drop
            }
        assert follows(part) or not other  # no claim without its data, of which nothing follows
    assert follows(whole)
    confirmed = runner.run(chapter, asked(2), Part(confirm=True)).parent.parent / "results"
    assert confirmed.parent == tmp_path / "smoke" / "confirm"
    found = sorted(confirmed.glob("*.json"))
    assert found
    for path in found:  # a confirmation has all claims, and not what else the chapter shows
        assert records.read(path)["claims"].keys() == records.read(whole / path.name)["claims"].keys()
    assert follows(confirmed)


def test_fresh_seeds_confirm_in_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    output = runner.run("02-mnist", asked(10), Part("mnist.plain", confirm=True))
    assert output == tmp_path / "smoke/confirm/mnist.plain/notebooks/02-mnist.ipynb"
    record = records.read(output.parent.parent / "results" / "02-mnist.json")
    assert record["claims"].keys() == {"mnist.plain"}
    assert claims.seeds_of(record) == [10]
    text = (tmp_path / "smoke" / "logs" / "02-mnist.log").read_text()
    assert "plain seed 10: trained" in text
    assert "teacher" not in text
    usual = runner.run("02-mnist", asked(0), Part("mnist.plain")).parent.parent / "results" / "02-mnist.json"
    recipes = [one["claims"]["mnist.plain"]["recipes"] for one in (record, records.read(usual))]
    assert recipes[0] == recipes[1]  # told by plans, whatever the seeds


def unconfirmed():
    """The published record of Section 3 as it was before any fresh seeds."""
    record = records.read(paths.RESULTS / "02-mnist.json")
    claims = {name: {k: v for k, v in one.items() if k != "confirm"} for name, one in record["claims"].items()}
    return {**record, "claims": claims}


def fresh_of(published, **provenance):
    """A run of seeds 10 to 14 of the teacher's claim, as far as a confirmation reads it."""
    fresh = {**published, "claims": {"mnist.teacher": dict(published["claims"]["mnist.teacher"])}}
    fresh["provenance"] = json.loads(json.dumps(published["provenance"])) | provenance
    fresh["provenance"]["config"]["seeds"] = [10, 11, 12, 13, 14]
    return fresh


def test_a_confirmation_needs_what_was_frozen_and_happens_once(monkeypatch, tmp_path):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    monkeypatch.setattr(records, "uncommitted", lambda *files: [])
    runner.check_frozen("full", "01-dark-knowledge", "theory.means")
    published = unconfirmed()
    record = tmp_path / "02-mnist.json"
    monkeypatch.setattr(records, "files", lambda chapter: [record])
    records.write(record, published)
    fresh = fresh_of(published)
    merged = records.merge_confirmed(published, fresh)
    assert merged["claims"]["mnist.teacher"]["confirm"]["seeds"] == [10, 11, 12, 13, 14]
    assert merged["claims"]["mnist.teacher"]["confirm"]["metrics"] == fresh["claims"]["mnist.teacher"]["metrics"]
    assert "confirm" not in published["claims"]["mnist.teacher"]
    assert records.merge_confirmed(merged, fresh_of(published, date="2027-01-01")) == merged  # the first look decides
    run = tmp_path / "full" / "confirm" / "mnist.teacher" / "results" / "02-mnist.json"
    run.parent.mkdir(parents=True)
    records.write(run, fresh)
    for claim in ("mnist.teacher", ""):
        with pytest.raises(InputError, match=r"mnist\.teacher was run with fresh seeds already"):
            runner.check_frozen("full", "02-mnist", claim)
    runner.check_frozen("full", "02-mnist", "mnist.distilled")
    run.unlink()
    records.write(record, merged)
    with pytest.raises(InputError, match=r"mnist\.teacher was confirmed with seeds \[10, 11, 12, 13, 14\] already"):
        runner.check_frozen("full", "02-mnist", "mnist.teacher")
    monkeypatch.setattr(records, "uncommitted", lambda *files: ["book/claims.yaml"])
    with pytest.raises(InputError, match=r"book/claims\.yaml has changes that are not committed"):
        runner.check_frozen("full", "02-mnist", "mnist.teacher")
    runner.check_frozen("smoke", "02-mnist", "mnist.teacher")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fresh: fresh["provenance"]["config"].update(seeds=[10, 11]), "are 2 where the record has 5"),
        (lambda fresh: fresh.update(data={"name": "mnist", "fingerprint": "other"}), "are of other data"),
        (lambda fresh: fresh["claims"]["mnist.teacher"].update(recipes="other"), "trained in another way"),
        (lambda fresh: fresh["provenance"].update(dirty=True), "code that was not committed"),
    ],
)
def test_fresh_seeds_of_another_experiment_confirm_nothing(change, said):
    published = unconfirmed()
    fresh = fresh_of(published)
    change(fresh)
    with pytest.raises(InputError, match=said):
        records.merge_confirmed(published, fresh)


def test_a_confirmation_outlives_a_run_of_the_same_recipes():
    published = unconfirmed()
    confirmed = records.merge_confirmed(published, fresh_of(published))
    assert records.kept_confirmed(published, confirmed) == confirmed
    other = json.loads(json.dumps(published))
    other["claims"]["mnist.teacher"]["recipes"] = "another"
    assert "confirm" not in records.kept_confirmed(other, confirmed)["claims"]["mnist.teacher"]


def test_predictions_of_fresh_seeds_lie_beside_the_first_ones_as_long_as_they_confirm(tmp_path):
    published, results = unconfirmed(), tmp_path / "results"
    results.mkdir()
    records.write(results / "02-mnist.json", published, {"plain": np.zeros(3)})
    fresh = fresh_of(published, git="0123456789ab")
    records.write(tmp_path / "02-mnist.json", fresh, {"plain": np.ones(3)})
    assert book._confirm(tmp_path / "02-mnist.json", results) == results / "02-mnist.json"
    confirmed = records.read(results / "02-mnist.json")
    assert records.commits_of_fresh(confirmed) == {"mnist.teacher": "0123456789ab"}
    beside = results / "02-mnist.0123456789ab.npz"
    assert [np.load(path)["plain"].sum() for path in (results / "02-mnist.npz", beside)] == [0, 3]

    records.write(results / "02-mnist.json", published)  # run again by the same recipes, then by another
    book._keep_confirmed(results / "02-mnist.json", confirmed)
    assert records.read(results / "02-mnist.json") == confirmed
    assert beside.exists()
    other = json.loads(json.dumps(published))
    other["claims"]["mnist.teacher"]["recipes"] = "another"
    records.write(results / "02-mnist.json", other)
    book._keep_confirmed(results / "02-mnist.json", confirmed)
    assert not beside.exists()
