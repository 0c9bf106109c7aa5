"""A training's state on disk: weights, optimiser, generators and history, in one safetensors file."""

import hashlib
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from kdrepro.files import atomic_write, read_if_there, remove_stale, set_aside, writing
from kdrepro.paths import expanded


class Checkpoint:
    """Where a training saves its state, and finds it again after it was killed.

    path: the file, "~" being the user's home; its folder is made when the first state is saved.
    warn: called with one sentence when a file is damaged; the file is then set aside.
    history: the rows of the training that last saved or finished here (see `training.fit`).
    """

    keeps = True  # whether states are kept

    def __init__(self, path: PurePath | str, warn=print):
        self.path = expanded(path) if isinstance(path, str | Path) else path
        self.warn = warn
        self.history: list[dict[str, Any]] = []

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace the file by this state: tensors by name, and anything JSON can hold.

        Raises InputError when it cannot be written; the file is then what it was.
        """
        if not self._due(time.monotonic()):
            return
        tensors = owned({name: t.detach().cpu() for name, t in tensors.items()})
        text = json.dumps(state)
        with writing(f"the checkpoint {self.path}"):
            self._write(save(tensors, {"state": text, "sha256": _digest(tensors, text)}))

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last state, on the CPU, or None if there is none that can be trusted.

        Raises InputError when the file cannot be read, and when a damaged one cannot be set aside.
        """
        content = self._read()  # all of it at once: another process may replace the file meanwhile
        if content is None:
            return None
        try:
            return _parse(content)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.put_aside(f"is damaged ({error})")
        return None

    def put_aside(self, what: str) -> None:
        """Rename the file, and warn: what is the matter with it, and that the training starts anew.

        Raises InputError when that is not possible.
        """
        with writing(f"the checkpoint {self.path}"):
            aside = self._set_aside()
        if aside is not None:
            self.warn(
                f"The checkpoint {self.path.name} {what}: set aside as {aside}, and this network is trained from "
                "its start."
            )

    def remove(self) -> None:
        """Delete the file, and what killed processes left of it; a finished training needs it no more."""
        self.path.unlink(missing_ok=True)
        remove_stale(self.path.parent, f".{self.path.name}.*.part")

    # What a checkpoint that is no file does otherwise (see `kdrepro.store.places`).

    def _due(self, now: float) -> bool:
        """Whether a state is worth saving at this moment, in seconds of `time.monotonic`."""
        return True

    def _read(self) -> bytes | None:
        return read_if_there(self.path)

    def _write(self, content: bytes) -> None:
        atomic_write(self.path, content)

    def _set_aside(self) -> str | None:
        aside = set_aside(self.path)
        return None if aside is None else aside.name


class HistoryAlone(Checkpoint):
    """For trainings that take less time than their states take to be written: it keeps a training's rows, no state.

    Whatever is interrupted begins anew.
    """

    keeps = False

    def remove(self) -> None:
        """Nothing is there."""

    def _due(self, now: float) -> bool:
        return False

    def _read(self) -> None:
        return None


def owned(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, each in memory of its own, as safetensors wants them: tied weights share theirs."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return found


def _parse(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the state of a file. Raises ValueError when the checksum is wrong."""
    tensors = load(content)
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    text, expected = metadata["state"], metadata["sha256"]
    if expected != _digest(tensors, text):
        raise ValueError("its checksum is wrong")
    return tensors, json.loads(text)


def _digest(tensors: Mapping[str, torch.Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(repr((name, str(tensors[name].dtype), list(tensors[name].shape))).encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
