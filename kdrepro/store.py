"""Train or load: every network is asked for by its configuration.

An entry is a folder named after the hash of the configuration; inside, `network.safetensors` and, written
last, `entry.json` (configuration, checksum, history). A folder without `entry.json` is a training that has
not finished; its `checkpoint.safetensors` is where the next run goes on. No pickle is ever read.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from kdrepro.checkpoints import Checkpoint
from kdrepro.errors import InputError
from kdrepro.files import atomic_write, set_aside
from kdrepro.mixtures import MixtureOfExperts
from kdrepro.networks import MLP, ConvNet

# Raised whenever the same configuration would train to something else (a fixed bug, another order of
# random draws), so that no run loads a network that today's code would not make.
RECIPE_VERSION = 1


def build(config: Mapping[str, Any]) -> nn.Module:
    """The untrained network that `config["network"]` describes, its weights drawn from `config["seed"]`.

    config["network"]: the arguments of `networks.MLP`, or, where it names channels, of `networks.ConvNet`, and where it
    names experts, of `mixtures.MixtureOfExperts`. Weights are drawn on the CPU, so that they are the same on every
    device.
    """
    arguments = config["network"]
    generator = torch.Generator().manual_seed(config.get("seed", 0))
    kind = MixtureOfExperts if "experts" in arguments else ConvNet if "channels" in arguments else MLP
    return kind(**arguments, generator=generator)


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
        Raises InputError when the store cannot be written.
        """
        network = build(config)
        if self._load_into(network, config):
            return network.eval()
        checkpoint = self._checkpoint(config)
        with self.writing():
            train(network, checkpoint)
            network = network.cpu().eval()
            self._save(network, config, checkpoint)
        return network

    def train_or_load_many(
        self,
        configs: Sequence[Mapping[str, Any]],
        train_many: Callable[[Sequence[int], Sequence[nn.Module], Sequence[Checkpoint]], Any],
        build: Callable[[Mapping[str, Any]], nn.Module] = build,
    ) -> tuple[list[nn.Module], list[int]]:
        """Load the networks of these configurations; those that are not there are trained together.

        train_many: called once, with the positions in `configs` of the missing ones, their untrained networks and
            their checkpoints, to hand to `training.fit_many`; not called when nothing is missing.
        Returns the networks, on the CPU and in eval mode, and the positions of those that were trained.
        Raises InputError when the store cannot be written.
        """
        networks = [build(config) for config in configs]
        missing = [i for i, c in enumerate(configs) if not self._load_into(networks[i], c)]
        checkpoints = {i: self._checkpoint(configs[i]) for i in missing}
        if missing:
            with self.writing():
                train_many(missing, [networks[i] for i in missing], list(checkpoints.values()))
                for i in missing:
                    networks[i] = networks[i].cpu()
                    self._save(networks[i], configs[i], checkpoints[i])
        return [network.eval() for network in networks], missing

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
        with self.writing():
            atomic_write(path, content.getvalue())
            atomic_write(path.with_suffix(".json"), json.dumps(described, indent=1).encode())
        return arrays

    def _read_arrays(self, path: Path) -> dict[str, np.ndarray] | None:
        described = path.with_suffix(".json")  # written last
        if not described.exists():
            return None
        try:
            content, expected = path.read_bytes(), json.loads(described.read_bytes())["sha256"]
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError("its checksum is wrong")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if path.exists():
                self._set_aside(path, str(error))
            described.unlink()
            return None

    def folder(self, config: Mapping[str, Any]) -> Path:
        """The folder of a configuration, for what is too large for `compute_or_load`."""
        return self._folder(config)

    def entry(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is known of a trained network (config, sha256, history), or None if it is not there."""
        path = self._folder(config) / "entry.json"
        if not path.exists():
            return None
        try:
            entry = json.loads(path.read_bytes())
            if isinstance(entry, dict) and {"sha256", "history", "config"} <= entry.keys():
                return entry
            reason = "keys are missing"
        except ValueError as error:
            reason = str(error)
        self._set_aside(path, reason)
        return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what goes wrong when writing into an InputError that says what to do."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"Cannot write to the store {self.root} ({error.strerror or error}): "
                "make room or choose a folder that is writable; what was saved so far is kept."
            ) from error

    def _checkpoint(self, config: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(self._folder(config) / "checkpoint.safetensors", warn=self.warn)

    def _folder(self, config: Mapping[str, Any]) -> Path:
        return self.root / self.key(config)

    def _load_into(self, network: nn.Module, config: Mapping[str, Any]) -> bool:
        entry = self.entry(config)
        path = self._folder(config) / "network.safetensors"
        if entry is None or not path.exists():
            return False
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise ValueError("its checksum is wrong")
            network.load_state_dict(load(content))
        except (SafetensorError, ValueError, RuntimeError) as error:
            self._set_aside(path, str(error))
            return False
        return True

    def _save(self, network: nn.Module, config: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        folder = self._folder(config)
        content = save(network.state_dict())
        atomic_write(folder / "network.safetensors", content)
        entry = {
            "config": {"recipe_version": RECIPE_VERSION, **config},
            "sha256": hashlib.sha256(content).hexdigest(),
            "history": checkpoint.history,
        }
        atomic_write(folder / "entry.json", json.dumps(entry, indent=1).encode())
        checkpoint.remove()

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = set_aside(path)
        self.warn(
            f"The stored file {path.parent.name}/{path.name} is damaged ({reason}): "
            f"set aside as {aside.name}, and it is made again."
        )
