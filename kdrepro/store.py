"""Train or load: every network is asked for by its configuration.

An entry is a folder named after the hash of the configuration; inside, `network.safetensors` and, written
last, `entry.json` (configuration, checksum, history). A folder without `entry.json` is a training that has
not finished; its `checkpoint.safetensors` is where the next run goes on. No pickle is ever read.

Several runs may share a store. Each file is replaced whole, and of two runs that train the same configuration the one
that is done first keeps its network: the other takes that one and drops its own.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from kdrepro.files import atomic_write, read_if_there, remove_stale, set_aside, try_folder, writing
from kdrepro.networks import MLP, ConvNet, MixtureOfExperts
from kdrepro.training.checkpoint import Checkpoint, owned

# Raised whenever the same configuration would train to something else than rounding explains (a fixed bug, another
# order of random draws), so that no run loads a network that today's code would not make.
RECIPE_VERSION = 1


def build(config: Mapping[str, Any]) -> nn.Module:
    """The untrained network that `config["network"]` describes, its weights drawn from `config["seed"]`.

    config["network"]: the arguments of `networks.MLP`, or, where it names channels, of `networks.ConvNet`, and where it
    names experts, of `networks.MixtureOfExperts`. Weights are drawn on the CPU, so that they are the same on every
    device.
    """
    arguments = config["network"]
    generator = torch.Generator().manual_seed(config.get("seed", 0))
    kind = MixtureOfExperts if "experts" in arguments else ConvNet if "channels" in arguments else MLP
    return kind(**arguments, generator=generator)


@dataclass(frozen=True)
class Missing:
    """Networks that a store has not got.

    positions: among the configurations that were asked for. networks: untrained, on the CPU. checkpoints: theirs.
    finished: to be called with the number of each network, counted among these, when it is trained: then it is saved.
    """

    positions: list[int]
    networks: list[nn.Module]
    checkpoints: list[Checkpoint]
    finished: Callable[[int], None]


class Store:
    """A folder of trained networks.

    root: the folder, made when the first network is saved.
    warn: called with one sentence about a damaged file that was set aside.
    """

    def __init__(self, root: Path | str, warn: Callable[[str], None] = print):
        self.root = Path(root)
        self.warn = warn

    def key(self, config: Mapping[str, Any]) -> str:
        """Hash of the configuration and the recipe version: 16 hex digits."""
        text = json.dumps({"recipe_version": RECIPE_VERSION, **config}, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def train_or_load(
        self,
        config: Mapping[str, Any],
        train: Callable[[nn.Module, Checkpoint], Any],
        build: Callable[[Mapping[str, Any]], nn.Module] = build,
    ) -> nn.Module:
        """Load the network of this configuration, or build and train it.

        config: whatever decides the result (architecture, recipe, data's fingerprint, seed, the teacher's
            key): values that JSON can hold.
        train: called with the untrained network, to be trained in place, and a checkpoint to hand to
            `training.fit`; only when there is nothing to load. An interrupted training is continued.
        build: makes the untrained network from the configuration.
        Returns the network on the CPU, in eval mode.
        Raises InputError when the store cannot be written; what was saved so far is kept.
        """

        def train_one(missing: Missing) -> None:
            train(missing.networks[0], missing.checkpoints[0])
            missing.finished(0)

        (network,), _ = self.train_or_load_many([config], train_one, [build])
        return network

    def train_or_load_many(
        self,
        configs: Sequence[Mapping[str, Any]],
        train_many: Callable[["Missing"], Any],
        builds: Sequence[Callable[[Mapping[str, Any]], nn.Module]] | None = None,
    ) -> tuple[list[nn.Module], list[int]]:
        """Load the networks of these configurations; those that are not there are trained together.

        A configuration that comes twice is one network.
        train_many: called with what is missing, to hand to `training.fit_many`; not called when nothing is.
        builds: for each configuration, what makes its untrained network; `build` unless given.
        Returns the networks, on the CPU and in eval mode, and the positions of those that were trained.
        Raises InputError when the store cannot be written; what was saved so far is kept.
        """
        keys = [self.key(config) for config in configs]
        once = [keys.index(key) for key in dict.fromkeys(keys)]
        networks = {keys[i]: (builds[i] if builds else build)(configs[i]) for i in once}
        positions = [i for i in once if not self._load_into(networks[keys[i]], configs[i])]
        if positions:
            self._check_writable(configs[positions[0]])
            missing = [networks[keys[i]] for i in positions]
            checkpoints = [self._checkpoint(configs[i]) for i in positions]

            def finished(n: int) -> None:
                self._save(missing[n].cpu().eval(), configs[positions[n]], checkpoints[n])

            train_many(Missing(positions, missing, checkpoints, finished))
        return [networks[key].eval() for key in keys], positions

    def compute_or_load(
        self, config: Mapping[str, Any], compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Arrays that follow from a configuration (an evaluation, say): computed once, then read back.

        config: whatever decides them, the keys of networks included. Raises InputError when the store cannot be
        written.
        """
        path = self._folder(config) / "arrays.npz"
        found = self._read_arrays(path)
        if found is not None:
            return found
        arrays = {name: np.asarray(array) for name, array in compute().items()}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        described = {"config": dict(config), "sha256": hashlib.sha256(content.getvalue()).hexdigest()}
        found = self._read_arrays(path)
        if found is not None:  # another run was faster
            return found
        with self.writing():
            atomic_write(path, content.getvalue())
            atomic_write(path.with_suffix(".json"), json.dumps(described, indent=1).encode())
        return arrays

    def _read_arrays(self, path: Path) -> dict[str, np.ndarray] | None:
        described = path.with_suffix(".json")  # written last
        about, content = read_if_there(described), read_if_there(path)
        if about is None or content is None:
            return None
        try:
            expected = json.loads(about)["sha256"]
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError("its checksum is wrong")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._set_aside(path, str(error))
            with self.writing():
                described.unlink(missing_ok=True)
            return None

    def folder(self, config: Mapping[str, Any]) -> Path:
        """The folder of a configuration, for what is too large for `compute_or_load`."""
        return self._folder(config)

    def entry(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is known of a trained network (config, sha256, history), or None if it is not there."""
        path = self._folder(config) / "entry.json"
        content = read_if_there(path)
        if content is None:
            return None
        try:
            entry = json.loads(content)
            if _is_entry(entry):
                return entry
            reason = "keys or values are missing"
        except (ValueError, RecursionError) as error:
            reason = str(error)
        self._set_aside(path, reason)
        return None

    def writing(self) -> AbstractContextManager[None]:
        """Turn what goes wrong when writing into an InputError that says what to do."""
        return writing(f"to the store {self.root}")

    def _checkpoint(self, config: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(self._folder(config) / "checkpoint.safetensors", warn=self.warn)

    def _folder(self, config: Mapping[str, Any]) -> Path:
        return self.root / self.key(config)

    def _load_into(self, network: nn.Module, config: Mapping[str, Any]) -> bool:
        entry = self.entry(config)
        path = self._folder(config) / "network.safetensors"
        content = None if entry is None else read_if_there(path)
        if content is None:
            return False
        try:
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise ValueError("its checksum is wrong")
            network.load_state_dict(load(content))
        except (SafetensorError, ValueError, RuntimeError) as error:
            self._set_aside(path, str(error))
            return False
        return True

    def _check_writable(self, config: Mapping[str, Any]) -> None:
        """Raises InputError when nothing can be written: said before a training, and not after its first epoch."""
        with self.writing():
            try_folder(self._folder(config))

    def _save(self, network: nn.Module, config: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        """Put a trained network in its place; where another run was faster, take that run's instead."""
        folder = self._folder(config)
        if not self._load_into(network, config):
            content = save(owned(network.state_dict()))
            entry = {
                "config": {"recipe_version": RECIPE_VERSION, **config},
                "sha256": hashlib.sha256(content).hexdigest(),
                "history": checkpoint.history,
            }
            with self.writing():
                atomic_write(folder / "network.safetensors", content)
                atomic_write(folder / "entry.json", json.dumps(entry, indent=1).encode())
        with self.writing():
            checkpoint.remove()
        remove_stale(folder, ".*.part")

    def _set_aside(self, path: Path, reason: str) -> None:
        with self.writing():
            aside = set_aside(path)
        if aside is not None:
            self.warn(
                f"The stored file {path.parent.name}/{path.name} is damaged ({reason}): "
                f"set aside as {aside.name}, and it is made again."
            )


def _is_entry(found: Any) -> bool:
    """Whether this is what `Store._save` writes."""
    if not isinstance(found, dict) or not {"sha256", "history", "config"} <= found.keys():
        return False
    return isinstance(found["history"], list) and all(isinstance(row, dict) for row in found["history"])
