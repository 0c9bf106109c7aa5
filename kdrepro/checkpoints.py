"""A training's state on disk: weights, optimiser, generators and history, in one safetensors file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kdrepro.files import atomic_write, set_aside


class Checkpoint:
    """Where a training saves its state, and finds it again after it was killed.

    path: the file; its folder is made when the first state is saved.
    warn: called with one sentence when a file is damaged; the file is then set aside.
    history: the rows of the training that last saved or finished here (see `training.fit`).
    """

    def __init__(self, path: Path, warn=print):
        self.path = Path(path)
        self.warn = warn
        self.history: list[dict[str, Any]] = []

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace the file by this state: tensors by name, and anything JSON can hold."""
        tensors = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
        metadata = {"state": json.dumps(state), "sha256": _digest(tensors)}
        atomic_write(self.path, save(tensors, metadata))

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last state, on the CPU, or None if there is none that can be trusted."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if metadata.get("sha256") == _digest(tensors):
                return tensors, json.loads(metadata["state"])
            reason = "its checksum is wrong"
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            reason = str(error)
        aside = set_aside(self.path)
        self.warn(
            f"The checkpoint {self.path.name} is damaged ({reason}): set aside as {aside.name}, "
            "and this network is trained from its start."
        )
        return None

    def remove(self) -> None:
        """Delete the file; a finished training needs it no more."""
        self.path.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
