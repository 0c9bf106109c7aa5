"""What builders are told: the example of networks of one's own, the wheel, its types, and what needs no extra."""

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
import warnings

import pytest
import yaml

from kdrepro import paths

EXAMPLE = paths.BOOK / "example_builder.py"
EXTRAS = ("sklearn", "matplotlib", "pandas", "torchvision", "joblib", "papermill", "IPython", "filelock", "soundfile")
PUBLIC = ("losses", "ensembles", "biases", "networks", "training", "specialists", "acoustic", "store", "data")


def python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_the_example_of_ones_own_networks_distils():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that they train one after the other here
        errors = runpy.run_path(str(EXAMPLE))["main"]()
    assert list(errors) == ["teacher", "asked", "T = 1", "T = 4", "T = 20"]
    assert all(0 <= wrong < 250 for wrong in errors.values())  # of 500 images of ten classes


def test_the_example_has_thirty_lines():
    code = EXAMPLE.read_text().partition("\n\nif __name__")[0]
    ast.parse(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def test_the_public_rooms_need_no_extra():
    """With every library of an extra hidden; what needs one says so, with the command that installs it."""
    code = f"""
import importlib, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
for name in {PUBLIC}:
    importlib.import_module("kdrepro." + name)
from kdrepro import data, specialists
import torch
for work in (data.digits, lambda: data.glyphs(4), lambda: specialists.cluster_classes(torch.eye(4), 2, 2, seed=0)):
    try:
        work()
    except ValueError as error:
        print(error)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [re.search(r"needs (\w+), .*: pip install 'kdrepro\[(\w+)\]'", line).groups() for line in said] == [
        ("sklearn", "sklearn"),
        ("matplotlib", "plots"),
        ("sklearn", "sklearn"),
    ]


def test_what_only_some_need_is_in_an_extra():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[<>=\[]", one)[0] for one in project["dependencies"]}
    assert {"torch", "numpy", "safetensors", "pydantic"} <= core
    assert not core & {"scikit-learn", "torchvision", "matplotlib", "pandas", "papermill", "ipykernel", "joblib"}
    assert "kdrepro[plots,sklearn,speech,torchvision]" in project["optional-dependencies"]["notebooks"]


def test_a_checker_sees_the_types(tmp_path):
    assert (paths.ROOT / "kdrepro" / "py.typed").exists()
    assert "py.typed" in (paths.ROOT / "pyproject.toml").read_text()
    pytest.importorskip("mypy")
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom kdrepro.losses import distillation_loss\n"
        "z = torch.zeros(2, 3)\nreveal_type(distillation_loss(z, z, temperature=2.0))\n"
        "distillation_loss(z, z, temperature='hot')\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, "mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": str(paths.ROOT)},
    )
    assert 'Revealed type is "torch._tensor.Tensor"' in done.stdout
    assert 'incompatible type "str"' in done.stdout


def of_extra(project, extra):
    """What an extra needs, with the extras that it names and what all of the package needs."""
    found = list(project["dependencies"])
    for one in project["optional-dependencies"][extra]:
        inner = re.fullmatch(r"kdrepro\[(.*)\]", one)
        found += [need for name in inner[1].split(",") for need in of_extra(project, name)] if inner else [one]
    return found


def test_the_lock_names_hashes_and_no_host():
    lock = (paths.ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = re.findall(r"^([a-z0-9.-]+)==\S+", lock, re.MULTILINE)
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=\[]", one)[0].lower() for one in of_extra(project, "test")}
    assert names <= set(pinned), "pyproject.toml has changed: CONTRIBUTING.md says how the lock is made again"
    for entry in re.split(r"\n(?=\w)", lock.strip()):
        assert "--hash=sha256:" in entry, entry


def test_dockerfile_and_devcontainer_run_the_two_commands():
    docker = (paths.ROOT / "Dockerfile").read_text()
    known = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "CMD", "USER", "ARG"}
    lines = [line for line in docker.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    assert {line.split()[0] for line in lines} <= known
    assert lines[-1] == 'CMD ["sh", "-c", "make book && make test"]'
    container = yaml.safe_load((paths.ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (paths.ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve() == paths.ROOT / "Dockerfile"
