"""The house's rules: who may import whom, what stands on the top floor, and one way to ask for trained networks."""

import ast
import subprocess
import sys

import pytest
from importlinter.cli import lint_imports

from kdrepro import paths

PACKAGE = paths.ROOT / "kdrepro"


def test_no_room_imports_one_above_it_and_there_is_no_circle():
    assert lint_imports(config_filename=str(paths.ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_top_floor_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_public_names():
    from kdrepro import acoustic, data, ensembles, losses, specialists, store, training

    for module, names in {
        losses: "soften distillation_loss logit_matching_loss",
        ensembles: "average",
        specialists: "cluster_classes correct_dustbin combine",
        training: "fit fit_many Batches Recipe hard_targets soft_targets matched_logits logits",
        store: "Store",
        data: "mnist digits timit synthetic_speech tiny_imagenet image_folder speech_folder glyphs",
        acoustic: "load_speech FrameBatches Recognizer decode",
    }.items():
        assert not [name for name in names.split() if not callable(getattr(module, name, None))]


@pytest.mark.parametrize("name", ["fit", "fit_many"])
def test_only_train_many_trains(name):
    """The engine is called from one place of the package, so that every network is stored, logged and counted alike."""
    callers = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name:
                callers.append(path.relative_to(PACKAGE).as_posix())
    assert callers == (["chapters/experiment.py"] if name == "fit_many" else [])


def test_speech_starts_without_pytorch():
    """Its workers start often; what import-linter sees in the source holds for what is really loaded."""
    code = "import sys, kdrepro.speech.shards, kdrepro.speech.synthesis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
