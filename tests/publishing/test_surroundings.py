"""Commands and imports on a machine that is not what one expects: no name, no home, no repository, no colours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdrepro import paths
from kdrepro.errors import InputError
from kdrepro.publishing import surroundings

# Stands for a user id without a name, as `docker run --user 12345` gives.
NAMELESS = """
import os, pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "TORCHINDUCTOR_CACHE_DIR"):
    os.environ.pop(name, None)
"""
TRAIN = """
import torch
from kdrepro import training
from kdrepro.networks import MLP
batches = training.Batches(torch.zeros(8, 2, 2, dtype=torch.uint8), torch.arange(8) % 2, batch_size=4)
training.fit(MLP([4, 2]), batches, training.hard_targets, training.Recipe(epochs=1, batch_size=4))
"""


def python(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    pipes = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, env={**os.environ, **environment}, **pipes)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("kdrepro", "numpy torch"),
        ("kdrepro.losses", "torchvision torchaudio scipy sklearn pandas matplotlib PIL pydantic yaml safetensors rich"),
        ("kdrepro.ensembles", "torchvision torchaudio scipy sklearn pandas matplotlib PIL pydantic yaml"),
        ("kdrepro.networks", "torchvision torchaudio scipy sklearn pandas matplotlib PIL pydantic yaml"),
        ("kdrepro.training", "torchvision torchaudio scipy sklearn pandas matplotlib PIL yaml"),
        ("kdrepro.chapters", "torchvision torchaudio"),
        ("kdrepro.verdicts.records", "torch"),
        ("kdrepro.cli", "numpy torch scipy pydantic"),
    ],
)
def test_heavy_imports_happen_where_they_are_used(module, absent):
    code = f"import sys, {module}; print([name for name in {absent.split()} if name in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_losses_load_what_torch_and_numpy_load_and_ours():
    """So that importing them takes what importing these takes."""
    code = "import sys, numpy, torch; before = {*sys.modules}; import kdrepro.losses; print(*{*sys.modules} - before)"
    others = [name for name in python(code).stdout.split() if not name.startswith("kdrepro")]
    assert {name.partition(".")[0] for name in others} <= {*sys.stdlib_module_names}


@pytest.mark.parametrize("code", [TRAIN, "import kdrepro.chapters, kdrepro.publishing.book, torchvision.datasets"])
def test_a_user_id_without_a_name(code):
    done = python(NAMELESS + "import kdrepro\n" + code)
    assert done.returncode == 0, done.stderr


def test_no_home_is_no_obstacle(tmp_path):
    """The kernel starts, and nothing is left of the folder that Jupyter was given."""
    code = NAMELESS + (
        "from kdrepro.publishing import surroundings\n"
        "with surroundings.usable_home():\n"
        "    from jupyter_core.paths import jupyter_data_dir\n"
        "    import os\n"
        "    print(jupyter_data_dir(), os.path.isdir(jupyter_data_dir()))\n"
        "print('JUPYTER_DATA_DIR' in os.environ)"
    )
    done = python(code, TMPDIR=str(tmp_path), HOME="")
    assert done.returncode == 0, done.stderr
    folder, *rest = done.stdout.split()
    assert (Path(folder).parent, rest) == (tmp_path, ["True", "False"])
    assert list(tmp_path.iterdir()) == []


def test_a_home_of_ones_own_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JUPYTER_DATA_DIR", raising=False)
    with surroundings.usable_home():
        assert "JUPYTER_DATA_DIR" not in os.environ


def test_nowhere_to_write_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    monkeypatch.setattr(surroundings.tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="set TMPDIR"), surroundings.usable_home():
        pass


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package away from the book, as pip puts it into site-packages, at the end of a long path."""
    folder = tmp_path_factory.mktemp("site") / ("a long path " * 15) / "site-packages"
    shutil.copytree(paths.ROOT / "kdrepro", folder / "kdrepro", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


COMMAND = "from kdrepro.cli import main; main()"


@pytest.mark.parametrize(
    "arguments",
    [
        ["claims"],
        ["claims", "--preset", "smoke"],
        ["run", "02-mnist"],
        ["reproduce", "mnist.plain"],
        ["book", "--published"],
        ["book", "--preset", "smoke"],
        ["publish"],
        ["notebooks"],
    ],
    ids=" ".join,
)
def test_away_from_the_repository_a_command_says_how_to_get_it(installed, tmp_path, arguments):
    done = python(COMMAND, *arguments, cwd=tmp_path, PYTHONPATH=str(installed))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("kdrepro: The book is not beside this package")
    assert "`pip install -e .` there, and give the command again" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_away_from_the_repository_data_and_runs_are_below_the_working_directory(installed, tmp_path):
    code = "from kdrepro import paths; print(paths.data_root().resolve()); print(paths.runs('smoke').resolve())"
    done = python(code, cwd=tmp_path, PYTHONPATH=str(installed), KDREPRO_DATA="", KDREPRO_RUNS="")
    assert done.stdout.splitlines() == [str(tmp_path / "data"), str(tmp_path / "runs" / "smoke")]
    assert paths.data_root("x") == Path("x")
