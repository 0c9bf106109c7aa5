"""The command line as a user meets it: what it prints, and one sentence with exit code 2 for bad input."""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

import kdrepro as package
from kdrepro import cli, data, paths
from kdrepro.chapters import presets
from kdrepro.errors import InputError
from kdrepro.publishing import runner
from kdrepro.verdicts import claims, records

KDREPRO = [sys.executable, "-c", "from kdrepro.cli import main; main()"]


def kdrepro(*arguments, **environment) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own, without a clock: a busy machine is not a bug."""
    pipes = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    return subprocess.run([*KDREPRO, *arguments], **pipes, env={**os.environ, **environment})


@pytest.fixture
def main(monkeypatch, capsys):
    """Run the command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kdrepro", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out = capsys.readouterr()
        return stopped.value.code or 0, out.out, out.err

    return run


@pytest.fixture
def no_kernel(monkeypatch):
    """Whatever is refused must be refused before a notebook is started."""

    def started(*_):
        raise AssertionError("a notebook was started")

    monkeypatch.setattr(runner, "run", started)


BAD = [
    (["run", "02-mnist", "--preset", "smok"], "did you mean 'smoke'"),
    (["run", "02-mnist", "--seeds", "0"], "seeds must be a whole number of at least 1, not '0'"),
    (["run", "02-mnist", "--seeds", "x"], "seeds must be a whole number of at least 1, not 'x'"),
    (["run", "02-mnist", "--seeds", "1.5"], "seeds"),
    (["run", "03-acoustic-ensemble", "--seeds", "5"], "a member of one ensemble of 3"),
    (["run", "02-mnist", "--first-seed", "-1"], "first_seed"),
    (["run", "02-mnist", "--device", "cuda:99"], "cuda:99"),
    (["run", "02-mnist", "--device", "quantum"], "There is no device 'quantum'"),
    (["run", "02-minst"], "did you mean '02-mnist'"),
    (["run", "nothing"], "choose from"),
    (["reproduce", "mnist.distiled"], "did you mean 'mnist.distilled'"),
    (["tune", "02-mnist", "--executor", "slrum"], "did you mean 'slurm'"),
    (["tune", "02-mnist", "--address", "auto"], "are of an executor: name it"),
    (["publish", "--preset", "smoke"], "smoke is not published"),
    (["run", "02-mnist", "--preset", "smoke", "--device", "²"], "There is no device '²'"),
    (["publish", "--preset", "full"], "No chapter has been run at full"),
    (["book", "--preset", "smoke"], "has not been run at smoke"),
    (["book"], "--published"),
    (["data", "fetch", "imagenet"], "choose mnist or tiny-imagenet"),
    (["claims", "--preset", "huge"], "choose from"),
    (["verify", "--preset", "ful"], "There is no preset 'ful' (did you mean 'full'?)"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(main, no_kernel, arguments, said):
    code, out, err = main(*arguments)
    assert code == 2
    assert said in err
    assert err.startswith("kdrepro: ")
    assert err.count("\n") == 1
    assert out == ""


def test_empty_data_folder(main, no_kernel, tmp_path):
    code, _, err = main("run", "02-mnist", "--preset", "full", "--data-root", str(tmp_path))
    assert code == 2
    assert str(tmp_path) in err
    assert "kdrepro data fetch mnist" in err
    assert err.count("\n") == 1


def test_unknown_preset_key(main, no_kernel, tmp_path, monkeypatch):
    for path in paths.PRESETS.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "mine.yaml").write_text("base: smoke\nchapters:\n  02-mnist: {soft_weigths: [1]}\n")
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    code, _, err = main("run", "02-mnist", "--preset", "mine")
    assert code == 2
    assert "did you mean 'soft_weights'" in err


@pytest.mark.slow
def test_no_network(tmp_path):
    """A real attempt, with every address refused."""
    proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = kdrepro("data", "fetch", "mnist", "--data-root", str(tmp_path), **proxies, no_proxy="", NO_PROXY="")
    assert done.returncode == 2
    assert "could not be downloaded" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_bad_input_inside_a_notebook_is_the_same_sentence(tmp_path):
    """Plain papermill gives the notebook what the command line would have refused."""
    asked = {"preset": "smoke", "seeds": 0, "first_seed": 0, "device": "cpu", "data_root": None}
    with pytest.raises(InputError, match="seeds must be a whole number"):
        runner.run("02-mnist", asked)


def test_claims_prints_every_claim():
    done = kdrepro("claims")
    assert done.returncode == 0
    for claim in ("mnist.distilled", "theory.t2_law", "specialists.table4", "beyond.distil_back"):
        assert claim in done.stdout


def in_a_terminal(columns: int, *arguments) -> str:
    """What a terminal of that width shows."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen([*KDREPRO, *arguments], stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while content := os.read(ours, 65536):
            shown += content
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_claims_never_cuts_an_id(columns):
    """`reproduce` needs it whole."""
    known = list(claims.load())
    assert [word for word in in_a_terminal(columns, "claims").split() if word in known] == known


def test_claims_as_json():
    found = {row["claim"]: row for row in json.loads(kdrepro("claims", "--json").stdout)}
    assert list(found) == list(claims.load())
    row = found["mnist.distilled"]
    assert row["paper"]["errors"] == 74
    assert len(row["metrics"]["errors"]) == len(row["seeds"]) == 5
    assert row["mean"]["errors"] == pytest.approx(sum(row["metrics"]["errors"]) / 5)
    unrun = json.loads(kdrepro("claims", "--json", "--preset", "smoke").stdout)[0]
    assert (unrun["verdict"], unrun["mean"], unrun["seeds"]) == ("not run", None, None)


@pytest.mark.parametrize("module", ["kdrepro", "kdrepro.cli"])
def test_the_package_runs_as_a_module(module):
    command = [sys.executable, "-m", module]
    done = subprocess.run([*command, "run", "nonsense"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("kdrepro: There is no chapter 'nonsense'.*\n", done.stderr)
    assert subprocess.run([*command, "--version"], capture_output=True, text=True).stdout == (
        f"kdrepro {package.__version__}\n"
    )


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["run", ""], {"all", *presets.CHAPTERS}),
        (["run", "02-mnist", "--preset", "s"], {"smoke"}),
        (["claims", "--preset", ""], {"smoke", "full", "paper"}),
        (["reproduce", "mnist.p"], {"mnist.plain"}),
        (["data", "fetch", ""], {"mnist", "tiny-imagenet"}),
    ],
)
def test_a_shell_completes_names(typed, offered, tmp_path):
    script = tmp_path / "kdrepro"
    script.write_text("from kdrepro.cli import main; main()")
    asked = {"COMP_WORDS": " ".join(["kdrepro", *typed]), "COMP_CWORD": str(len(typed))}
    environment = {**os.environ, **asked, "_KDREPRO_COMPLETE": "complete_bash"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "arguments", [["claims"], ["--help"], ["run", "02-minst²"], ["data", "fetch", "日本"]], ids=str
)
def test_no_encoding_of_a_terminal_ends_a_command(encoding, arguments):
    done = kdrepro(*arguments, PYTHONIOENCODING=encoding)
    assert done.returncode == (0 if len(arguments) == 1 else 2)
    assert "Traceback" not in done.stderr


def test_a_working_directory_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    command = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); del sys.argv[1]; " + KDREPRO[-1]
    done = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path / "gone"), "run", "02"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("kdrepro: The working directory is no longer there: .*\n", done.stderr)


@pytest.mark.slow
def test_reproduce_trains_what_the_claim_needs_and_prints_its_row(tmp_path):
    """The whole way at smoke: papermill, record, row; a second time everything is loaded."""
    runs = {"KDREPRO_RUNS": str(tmp_path)}
    first = kdrepro("reproduce", "mnist.distilled", "--preset", "smoke", "--seeds", "1", **runs)
    assert first.returncode == 0, first.stderr
    for heading in ("mnist.distilled", "digits", "errors", "this run (smoke)", "not comparable"):
        assert heading in first.stdout
    assert "Traceback" not in first.stderr
    path = tmp_path / "smoke" / "claims" / "mnist.distilled" / "results" / "02-mnist.json"
    record = json.loads(path.read_text())
    assert record["preset"] == "smoke"
    assert record["data"]["name"] == "digits"
    assert record["claims"].keys() == {"mnist.distilled"}
    assert record["claims"]["mnist.distilled"]["verdict"] == "not run"
    assert not (tmp_path / "smoke" / "results").exists()
    again = kdrepro("reproduce", "mnist.distilled", "--preset", "smoke", "--seeds", "1", **runs)
    assert again.returncode == 0
    rerun = json.loads(path.read_text())
    assert rerun["claims"] == record["claims"]
    log = (tmp_path / "smoke" / "logs" / "02-mnist.log").read_text()
    after = log[log.rindex("02-mnist at smoke") :]
    assert ": epoch " not in after
    assert "loaded" in after


def test_a_run_without_what_a_claim_needs_says_so(monkeypatch, tmp_path):
    """The chapter ran, without the recordings or the aligner that this claim is of."""
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    monkeypatch.setattr(runner, "run", lambda chapter, asked, part: tmp_path / "03.ipynb")
    with pytest.raises(InputError, match=r"This run has no figure of speech.aligned: the data that it needs \(timit"):
        cli.reproduce("speech.aligned", quiet=True)


def test_reproduce_shows_the_run_that_it_made(monkeypatch, capsys, tmp_path):
    """In a folder of the claim's own; on other data neither the paper's value nor a verdict stands beside it."""
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    published = records.read(paths.RESULTS / "02-mnist.json")

    def run(chapter, asked, part):
        seeds = list(range(asked["first_seed"], asked["first_seed"] + asked["seeds"]))
        data = {"smoke": "digits", "full": "mnist"}[asked["preset"]]
        entry = records.claim_entry("mnist.plain", data, 1.0, {"errors": [100 + seed for seed in seeds]})
        provenance = {**published["provenance"], "config": {"seeds": seeds}}
        made = {**published, "data": {"name": data}, "claims": {"mnist.plain": entry}, "provenance": provenance}
        run = tmp_path / asked["preset"] / part.into
        records.write(run / "results" / f"{chapter}.json", made)
        return run / "notebooks" / f"{chapter}.ipynb"

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "checked", lambda chapters, preset, seeds, first, device, data_root: {
        "preset": preset, "seeds": int(seeds), "first_seed": int(first), "device": device, "data_root": data_root
    })  # fmt: skip
    cli.reproduce("mnist.plain", seeds="5", quiet=True)
    shown = capsys.readouterr().out
    assert "100, 101, 102, 103, 104" in shown
    assert "146" not in shown
    assert "not comparable" in shown
    cli.reproduce("mnist.plain", preset="full", seeds="2", first_seed="40", quiet=True)
    shown = capsys.readouterr().out
    assert "140.5 [" in shown
    assert "146" in shown
    assert "for reproduced: lower end of errors ≥ 130: holds" in shown
    assert (tmp_path / "full" / "claims" / "mnist.plain" / "results").is_dir()
    monkeypatch.setattr(runner, "check_frozen", lambda *of: None)
    cli.reproduce("mnist.plain", preset="full", seeds="2", confirm=True, quiet=True)
    assert "110.5 [" in capsys.readouterr().out
    assert (tmp_path / "full" / "confirm" / "mnist.plain" / "results").is_dir()
    with pytest.raises(InputError, match="--confirm takes seeds from 10 on"):
        cli.reproduce("mnist.plain", first_seed="7", confirm=True, quiet=True)


def test_claims_can_be_filtered_and_verified(capsys, tmp_path, monkeypatch):
    cli.claims_command(section="5", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {entry["section"] for entry in found} == {"5.3", "5.5"}
    cli.claims_command(verdict="not decided", as_json=True)
    assert {entry["verdict"] for entry in json.loads(capsys.readouterr().out)} == {"not decided"}
    with pytest.raises(InputError, match="No claim of section 99 is there"):
        cli.claims_command(section="99")
    cli.verify()
    assert "all that can be computed again agrees" in capsys.readouterr().out


def test_the_default_run_needs_no_data():
    assert presets.load("smoke").data == "digits"
    assert runner.checked(["02-mnist"], "smoke", None, "0", "cpu", str(Path("nowhere")))["seeds"] is None


# --- chapters that end before their time ----------------------------------------------------------

STUB = """
import time
from kdrepro import paths
path = paths.runs("smoke") / "begun"
path.parent.mkdir(parents=True, exist_ok=True)
"""
WAITING = """
import os
path.write_text(str(os.getpid()))
time.sleep(600)
"""
FULL = """
import errno, os
from kdrepro.store import Store
def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.replace = os.link = full
Store(paths.runs("smoke") / "store").compute_or_load({"a": 1}, lambda: {"x": [1]})
"""
DYING = """
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""
NAN = """
from kdrepro import chapters
run = chapters.start("02-mnist", preset="smoke", seeds=1)
run.train(run.sizes.plain.but(learning_rate=1e30), 0)
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Chapter 2 with other code."""
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()

    def write(code: str) -> Path:
        given = "preset = 'smoke'\nseeds = None\nfirst_seed = 0\ndevice = 'cpu'\ndata_root = None"
        parameters = nbformat.v4.new_code_cell(given, metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(STUB + code)])
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / "notebooks" / "02-mnist.ipynb")
        return tmp_path / "notebooks"

    return write


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (FULL, "Cannot write to the store .*No space left on device.*: make room or choose a folder that is writable"),
        (NAN, "(training loss is|weights that are) .* in epoch 1: lower the learning rate"),
        (DYING, "The kernel of chapter 02-mnist died.*: free some and give the same command again"),
    ],
    ids=["full disk", "NaN", "killed kernel"],
)
def test_what_stops_a_chapter_is_one_sentence(main, stub, code, said):
    stub(code)
    code, out, err = main("run", "02-mnist", "--quiet")
    assert code == 2
    assert re.search(said, err)
    assert err.startswith("kdrepro: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [["--quiet"], []])
def test_ctrl_c(stub, quiet, tmp_path):
    """One sentence, exit code 130, the kernel gone, and the notebook of an earlier run still there."""
    notebooks, runs = stub(WAITING), tmp_path / "interrupted"
    earlier = runs / "smoke" / "notebooks" / "02-mnist.ipynb"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("earlier")
    code = f"from pathlib import Path; from kdrepro import cli, paths; paths.NOTEBOOKS = Path({str(notebooks)!r}); "
    command = [sys.executable, "-c", code + "cli.main()", "run", "02-mnist", *quiet]
    environment = {**os.environ, "KDREPRO_RUNS": str(runs)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's background jobs, these tests among them, may have Ctrl-C turned off.
    process = subprocess.Popen(
        command, env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes
    )
    begun = runs / "smoke" / "begun"
    while not (begun.exists() and begun.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert re.fullmatch(r"kdrepro: Stopped in 02-mnist: .* kept in .*store, and the same command goes on .*\n", err)
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    assert [path.name for path in earlier.parent.iterdir()] == ["02-mnist.ipynb"]
    assert earlier.read_text() == "earlier"


def test_runs_that_cannot_be_written(main, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path / "file"))
    code, out, err = main("run", "02-mnist", "--quiet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Cannot write the notebook" in err
    assert "set KDREPRO_RUNS" in err


def test_data_that_cannot_be_put_anywhere(main, tmp_path, monkeypatch):
    def refuse(root):
        raise InputError("no internet")

    monkeypatch.setattr(data, "fetch_mnist", refuse)
    (tmp_path / "file").write_text("in the way")
    code, out, err = main("data", "fetch", "mnist", "--data-root", str(tmp_path / "file"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "set KDREPRO_DATA, or give --data-root" in err
    assert "no internet" in main("data", "fetch", "mnist", "--data-root", str(tmp_path))[2]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_elsewhere_is_one_sentence_too(main, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("kdrepro.publishing.book.publish", refuse)
    code, out, err = main("publish")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"kdrepro: some/file cannot be written ({os.strerror(number)}): make room")


def test_reproduce_says_what_the_published_networks_took_and_may_take_here(tmp_path, monkeypatch):
    record = records.read(paths.RESULTS / "02-mnist.json")
    entry = record["claims"]["mnist.distilled"]
    entry |= {"seconds": 6000, "networks": {"teacher": 5, "distilled": 5}}
    record["provenance"]["gflops"] = 120.0
    records.write(tmp_path / "02-mnist.json", record)
    monkeypatch.setattr(records, "files", lambda chapter: [tmp_path / f"{chapter}.json"])
    monkeypatch.setattr(records, "gflops", lambda: 60.0)
    said = cli._expected(claims.get("mnist.distilled"), "full", 2)
    assert said.endswith(
        "The published run had 5 × teacher, 5 × distilled. For 2 seeds these took 40 core-minutes there; here, by the "
        "speed of a matrix product, about 80."
    )
    assert "core-minutes" not in cli._expected(claims.get("mnist.distilled"), "smoke", None)


def test_the_rate_of_a_thread_is_measured_and_threads_stay():
    before = torch.get_num_threads()
    assert records.gflops(size=64) > 0
    assert torch.get_num_threads() == before


def test_presets_show_prints_what_results(main, tmp_path):
    (tmp_path / "my.yaml").write_text("base: smoke\nchapters:\n  02-mnist: {seeds: 1}\n")
    change = "02-mnist.distilled.temperature=7"
    code, out, _ = main("presets", "show", "2", "--preset", str(tmp_path / "my.yaml"), "--set", change)
    assert code == 0
    shown = yaml.safe_load(out)["chapters"]["02-mnist"]
    assert (shown["seeds"], shown["distilled"]["temperature"]) == (1, 7)
    assert "# From smoke, changed: `02-mnist.seeds` 2 → 1; `02-mnist.distilled.temperature` 20 → 7." in out
    (tmp_path / "whole.yaml").write_text("base: smoke\n" + out)  # what is shown can be edited and given back
    assert presets.load(tmp_path / "whole.yaml").chapters["02-mnist"].model_dump(mode="json") == shown


OWN = [
    (["run", "02-mnist", "--set", "02-mnist.distilled.temprature=1"], "did you mean 'temperature'"),
    (["run", "02-mnist", "--preset", "nothing.yaml"], "nothing.yaml: correct the path"),
    (["run", "02-mnist", "--data", "folder:."], "is for 05-specialists"),
    (["run", "02-mnist", "--data", "idx:nothing"], "There is no"),
    (["run", "02-mnist", "--set", "02-mnist.seeds=1", "--confirm"], "leave --set, --data and files out"),
    (["reproduce", "mnist.plain", "--set", "mnist=1"], "write CHAPTER.KEY=VALUE"),
    (["presets", "show", "2", "--preset", "smok"], "did you mean 'smoke'"),
    (["publish", "--preset", "my.yaml"], "a preset of your own"),
]


@pytest.mark.parametrize(("arguments", "said"), OWN, ids=[" ".join(a) for a, _ in OWN])
def test_bad_input_of_ones_own_is_one_sentence(main, no_kernel, arguments, said):
    code, out, err = main(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_what_is_ones_own_reaches_the_notebook_and_nothing_else_does(tmp_path):
    (tmp_path / "my.yaml").write_text("base: smoke\n")
    asked = runner.checked(["02-mnist"], str(tmp_path / "my.yaml"), None, 0, "cpu", None, ["02-mnist.seeds=1"])
    assert asked["preset"] == str(tmp_path / "my.yaml")
    assert (asked["changes"], "own_data" in asked) == (["02-mnist.seeds=1"], False)
    assert runner.place("02-mnist", asked).name == runner.of_parameters(asked).name
    assert "changes" not in runner.checked(["02-mnist"], "smoke", None, 0, "cpu", None)
