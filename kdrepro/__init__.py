"""kdrepro: Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", number by number."""

import getpass
import importlib
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # takes seconds, and not every command needs it
    from collections.abc import Sequence
    from typing import Any

    from torch import nn


__version__ = "0.1.0"


def load(claim_id: str) -> "nn.Module":
    """The network that a claim is about, from its published weights: `kdrepro.load("mnist.plain")`.

    Of the claim's first seed, float32 on the CPU, in eval mode; its weights were rounded to float16. Give it images
    [N, H, W] by `training.logits`.
    Raises InputError when no weights of this claim are published, or the book is not here.
    """
    # By name: the package's root imports no room, since rooms import the root.
    return importlib.import_module("kdrepro.publishing.weights").load(claim_id)


def doctor(teacher: "nn.Module", student: "nn.Module", batch: "Sequence[Any]", **given: "Any") -> "list[Any]":
    """What is wrong with a distillation: `kdrepro.doctor(teacher, student, (inputs, labels), loss=loss)`.

    Arguments, findings and errors are those of `kdrepro.diagnosis.doctor`; no finding where nothing is wrong.
    """
    return importlib.import_module("kdrepro.diagnosis").doctor(teacher, student, batch, **given)


def _cache_of_nameless_users() -> None:
    """Name PyTorch's cache where the user id has no name, as in `docker run --user 12345`.

    PyTorch names it after the user at an optimiser's first step, and would end there in getpass's error.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # by Python's version and system
        folder = os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)


_cache_of_nameless_users()
