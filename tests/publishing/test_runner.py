"""Running a chapter: its kernel, its lock, the paths that it is given."""

import json
import subprocess
import sys

import ipykernel
import nbformat
import pytest

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.publishing import kernel, runner
from kdrepro.verdicts import records

ASKED = {"preset": "smoke", "seeds": 1, "first_seed": 0, "device": "cpu", "data_root": None}
HOLDING = """
import sys
from kdrepro.publishing import runner
with runner._alone("02-mnist", "smoke"):
    print("alone", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Chapter 2 with one cell, which notes its interpreter."""
    notebooks = tmp_path / "notebooks {of} mine"
    notebooks.mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", notebooks)
    write(notebooks, "import sys, kdrepro\nprint(sys.executable)")
    return notebooks


def write(folder, code: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "02-mnist.ipynb")


def printed(path) -> str:
    return "".join(output.text for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", []))


def test_braces_in_a_path_are_no_parameters(chapter, tmp_path, monkeypatch):
    """papermill fills in {names}."""
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path / "{runs} of {{me}"))
    done = runner.run("02-mnist", ASKED)
    assert done == tmp_path / "{runs} of {{me}" / "smoke" / "notebooks" / "02-mnist.ipynb"
    assert printed(done).strip() == sys.executable


def test_the_kernel_is_this_python_whatever_is_registered(chapter, tmp_path, monkeypatch):
    registered = tmp_path / "jupyter" / "kernels" / "python3"
    registered.mkdir(parents=True)
    (registered / "kernel.json").write_text('{"argv": ["/gone/python"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert printed(runner.run("02-mnist", ASKED)).strip() == sys.executable


@pytest.mark.parametrize("own", [None, "glibc.malloc.top_pad=1048576"])
def test_the_kernel_keeps_the_memory_that_it_frees_unless_a_user_says_otherwise(chapter, monkeypatch, own):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    write(chapter, "import os\nprint(os.environ['GLIBC_TUNABLES'])")
    assert printed(runner.run("02-mnist", ASKED)).strip() == (own or kernel.MEMORY)


def test_a_kernel_that_does_not_start_is_one_sentence(chapter, tmp_path, monkeypatch, capfd):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ipykernel_launcher.py").write_text("raise ImportError('no module named zmq.²')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(InputError, match=r"did not start \(ImportError: no module named zmq\.²\): mend what it names"):
        runner.run("02-mnist", ASKED)
    assert capfd.readouterr() == ("", "")


def test_figures_are_in_the_page_whatever_backend_a_user_has_set(chapter, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    write(chapter, "import matplotlib.pyplot as plt\nplt.plot([1, 2])")
    (cell,) = (cell for cell in nbformat.read(runner.run("02-mnist", ASKED), 4).cells if "plot" in cell.source)
    assert [output for output in cell.outputs if "image/png" in output.get("data", {})]


def test_what_a_user_has_set_up_for_other_notebooks_changes_no_chapter(chapter, tmp_path, monkeypatch):
    """Start-up files of IPython and Python, matplotlib's style, and modules in the working directory."""
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    for path in (startup, tmp_path / "startup.py"):
        path.write_text("import torch\ntorch.set_default_dtype(torch.float64)")
    (tmp_path / "style").write_text("text.usetex: True")
    (tmp_path / "random.py").write_text("raise ImportError('not that one')")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "startup.py"))
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "style"))
    monkeypatch.chdir(tmp_path)
    write(
        chapter,
        "import random, torch, matplotlib\nprint(torch.get_default_dtype(), matplotlib.rcParams['text.usetex'])",
    )
    assert printed(runner.run("02-mnist", ASKED)).strip() == "torch.float32 False"


@pytest.mark.parametrize("where", ["data_root", "KDREPRO_RUNS"])
def test_a_path_that_a_notebook_cannot_hold_is_named(where, monkeypatch):
    if where == "KDREPRO_RUNS":
        monkeypatch.setenv(where, "/somewhere/r\udce9ns")
    given = "/somewhere/r\udce9ns" if where == "data_root" else None
    with pytest.raises(InputError, match=rf"{where} is /somewhere/r\\xe9ns.*, whose bytes are not UTF-8: rename"):
        runner.checked(["02-mnist"], "smoke", 1, 0, "cpu", given)


@pytest.mark.parametrize("name", ["papermill", "ipykernel"])
def test_what_is_not_installed_is_named(chapter, monkeypatch, name):
    found = runner.importlib.util.find_spec
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda one: None if one == name else found(one))
    with pytest.raises(InputError, match=f"{name} is not installed: pip install"):
        runner.run("02-mnist", ASKED)
    assert ipykernel.__version__


def test_a_second_run_of_a_chapter_is_refused_until_the_first_has_ended(chapter):
    """Also when that one is killed."""
    first = subprocess.Popen([sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "alone\n"
    with pytest.raises(InputError, match=r"02-mnist is already running at smoke in .*: wait .* or set KDREPRO_RUNS"):
        runner.run("02-mnist", ASKED)
    with runner._alone("01-dark-knowledge", "smoke"), runner._alone("02-mnist", "full"):
        pass
    first.kill()
    first.communicate()
    assert runner.run("02-mnist", ASKED).exists()


def test_a_drive_without_locks_is_said(chapter, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(runner.filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="cannot be locked .*no flock here.*: see to it yourself"):
        assert runner.run("02-mnist", ASKED).exists()


def test_refreshing_a_source_that_fails_is_one_sentence(chapter):
    write(chapter, "raise KeyError('missing')")
    before = (chapter / "02-mnist.ipynb").read_text()
    with pytest.raises(InputError, match="Chapter 02-mnist stopped at a cell with KeyError"):
        runner.refresh_source("02-mnist")
    assert (chapter / "02-mnist.ipynb").read_text() == before


def test_fewer_seeds_of_a_claims_part_are_kept_beside_more():
    record = json.loads((paths.RESULTS / "02-mnist.json").read_text(encoding="utf-8"))
    part = runner.Part("mnist.plain")
    folder = paths.runs("smoke") / part.into
    assert runner.place("02-mnist", ASKED, part) == folder
    records.write(folder / "results" / "02-mnist.json", record)  # of five seeds
    assert runner.place("02-mnist", ASKED, part) == folder / "seeds-0"
    assert runner.place("02-mnist", ASKED) == paths.runs("smoke")
