"""Train or load: every network is asked for by its configuration.

An entry is a folder named after the hash of the configuration; inside, `network.safetensors` and, written
last, `entry.json` (configuration, checksum, history, and what trained it). A folder without `entry.json` is a training
that has not finished; its `checkpoint.safetensors` is where the next run goes on. No pickle is ever read.

Several runs may share a store, in a folder or at an address (see `places`). While one trains a network it holds a
lease (see `leases`), and the others wait; where that fails, the one that is done first keeps its network, and the
other takes that one and drops its own. Every file is put whole, and an entry only if there is none.
"""

import datetime
import hashlib
import io
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from kdrepro import __version__
from kdrepro.errors import InputError
from kdrepro.files import writing
from kdrepro.networks import MLP, ConvNet, MixtureOfExperts
from kdrepro.paths import expanded
from kdrepro.store.leases import EXPIRES, Leases
from kdrepro.store.places import Folder, is_address, place
from kdrepro.training.checkpoint import Checkpoint, HistoryAlone, owned

# Raised whenever the same configuration would train to something else than rounding explains (a fixed bug, another
# order of random draws), so that no run loads a network that today's code would not make.
RECIPE_VERSION = 1
POLL = 0.05, 5.0  # seconds between two looks for what another run trains: at first, and at the most
TOLD_FROM = 1.0  # such a pause from which on a sentence says who is waited for
PATIENCE = 5.0  # seconds that another run gets between a network and its entry, which it writes one after the other


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
    finished: to be called with the number of each network, counted among these, when it is trained: then it is saved;
    what else the entry is to say of how it was made (its precision, say) by name.
    """

    positions: list[int]
    networks: list[nn.Module]
    checkpoints: list[Checkpoint]
    finished: Callable[..., None]


class Store:
    """A folder of trained networks, or an address of them.

    root: the folder, made when the first network is saved; or an address such as `s3://bucket/store`.
    warn: called with one sentence about a damaged file that was set aside, and where another run is waited for.
    folders: where what is too large for `compute_or_load` lies, on this machine; in the root where that is a folder.
    owner: in whose name networks are trained (see `leases`); this process's unless given. expires: seconds until a
    lease of a holder that is gone ends. checkpoints: whether states of trainings are kept, to go on from.
    Raises InputError for an address of an unknown kind, or one whose library is not installed.
    """

    def __init__(
        self,
        root: Path | str,
        warn: Callable[[str], None] = print,
        *,
        folders: Path | str | None = None,
        owner: str = "",
        expires: float = EXPIRES,
        checkpoints: bool = True,
    ):
        self.root: Path | str = root if is_address(root) else expanded(root)
        self.warn, self.owner, self.expires, self.checkpoints = warn, owner, expires, checkpoints
        self.folders = expanded(folders) if folders is not None else None
        self.place = place(self.root)

    def __getstate__(self) -> dict[str, Any]:
        """Of what goes to another process, the address; the connection is made anew there."""
        return {name: value for name, value in vars(self).items() if name != "place"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, place=place(state["root"]))

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
        Raises InputError when the store cannot be written, what was saved so far being kept, and when the network that
        it has of this configuration has other layers than the one that was built.
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
        Raises InputError as `train_or_load` does.
        """
        keys = [self.key(config) for config in configs]
        once = [keys.index(key) for key in dict.fromkeys(keys)]
        networks = {keys[i]: (builds[i] if builds else build)(configs[i]) for i in once}
        wanted = [i for i in once if not self._load_into(networks[keys[i]], configs[i])]
        if wanted:
            self._check_writable(configs[wanted[0]])
        trained: list[int] = []
        with Leases(self.place, self.owner, self.expires) as leases:
            pause, told = POLL[0], False
            while wanted:
                mine = [i for i in wanted if self._is_mine(leases, networks[keys[i]], configs[i])]
                if mine:
                    self._train([configs[i] for i in mine], [networks[keys[i]] for i in mine], mine, train_many, leases)
                    trained += mine
                wanted = [i for i in wanted if i not in mine and not self._load_into(networks[keys[i]], configs[i])]
                if wanted and not mine:
                    if pause >= TOLD_FROM and not told:
                        told = self._say_who(leases, [keys[i] for i in wanted])
                    time.sleep(pause)
                    pause = min(2 * pause, POLL[1])
        return [networks[key].eval() for key in keys], sorted(trained)

    def _is_mine(self, leases: Leases, network: nn.Module, config: Mapping[str, Any]) -> bool:
        """Whether a network is this run's to train: nobody else does, nor has done a moment ago."""
        key = self.key(config)
        with self.writing():
            if not leases.take(key):
                return False
        if self._load_into(network, config):
            leases.release(key)
            return False
        return True

    def _say_who(self, leases: Leases, keys: Sequence[str]) -> bool:
        owners = sorted({owner for key in keys if (owner := leases.holder(key))})
        if owners:
            self.warn(f"Waiting for {len(keys)} of the networks, which {', '.join(owners)} trains.")
        return bool(owners)

    def _train(
        self,
        configs: Sequence[Mapping[str, Any]],
        networks: Sequence[nn.Module],
        positions: Sequence[int],
        train_many: Callable[[Missing], Any],
        leases: Leases,
    ) -> None:
        """Train networks that this run has the leases of."""
        checkpoints = [self._checkpoint(config) for config in configs]

        def finished(n: int, **made: Any) -> None:
            about = made_by(networks[n]) | made
            self._save(networks[n].cpu().eval(), configs[n], checkpoints[n], about)
            leases.release(self.key(configs[n]))

        train_many(Missing(list(positions), list(networks), checkpoints, finished))

    def compute_or_load(
        self, config: Mapping[str, Any], compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Arrays that follow from a configuration (an evaluation, say): computed once, then read back.

        config: whatever decides them, the keys of networks included. Raises InputError when the store cannot be
        written, and for arrays that it cannot hold: of Python's objects, or named as `numpy.savez` has arguments.
        """
        found = self._read_arrays(config)
        if found is not None:
            return found
        arrays = {name: _storable(name, array) for name, array in compute().items()}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        about = {"config": dict(config), "sha256": sha(content.getvalue())}
        found = self._read_arrays(config)
        if found is not None:  # another run was faster
            return found
        with self.writing():
            self.put(self.key(config), "arrays.npz", content.getvalue(), "arrays.json", about)
        found = self._read_arrays(config)
        return arrays if found is None else found

    def _read_arrays(self, config: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        key = self.key(config)
        about, content = self.place.read(f"{key}/arrays.json"), self.place.read(f"{key}/arrays.npz")
        if about is None or content is None:
            return None
        try:
            if sha(content) != json.loads(about)["sha256"]:
                raise ValueError("its checksum is wrong")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._set_aside(f"{key}/arrays.npz", str(error))
            with self.writing():
                self.place.remove(f"{key}/arrays.json")
            return None

    def folder(self, config: Mapping[str, Any]) -> Path:
        """The folder of a configuration, for what is too large for `compute_or_load`; always on this machine.

        Raises InputError for a store at an address that was given no `folders`.
        """
        if self.folders is None and not isinstance(self.place, Folder):
            raise InputError(f"The store {self.root} has no folder on this machine for large files: give it `folders`.")
        return (self.folders or Path(self.root)) / self.key(config)

    def entry(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is known of a trained network (config, sha256, history, made), or None if it is not there.

        made: device, threads, versions and more of what trained it; older entries have none.
        """
        name = f"{self.key(config)}/entry.json"
        content = self.place.read(name)
        if content is None:
            return None
        try:
            entry = json.loads(content)
            if is_entry(entry):
                return entry
            reason = "keys or values are missing"
        except (ValueError, RecursionError) as error:
            reason = str(error)
        self._set_aside(name, reason)
        return None

    def writing(self) -> AbstractContextManager[None]:
        """Turn what goes wrong when writing into an InputError that says what to do."""
        return writing(f"to the store {self.root}")

    def _checkpoint(self, config: Mapping[str, Any]) -> Checkpoint:
        name = f"{self.key(config)}/checkpoint.safetensors"
        return self.place.checkpoint(name, self.warn) if self.checkpoints else HistoryAlone(PurePosixPath(name))

    def _load_into(self, network: nn.Module, config: Mapping[str, Any]) -> bool:
        key, entry = self.key(config), self.entry(config)
        content = None if entry is None else self.place.read(f"{key}/network.safetensors")
        if content is None:
            return False
        try:
            if sha(content) != entry["sha256"]:
                raise ValueError("its checksum is wrong")
            tensors = load(content)
        except (SafetensorError, ValueError) as error:
            self._set_aside(f"{key}/network.safetensors", str(error))
            with self.writing():
                self.place.remove(f"{key}/entry.json")
            return False
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:  # the file is what was written: it is the code that has changed
            said = str(error).strip().splitlines()[-1].strip(" \t.")
            raise InputError(
                f"The stored network {key} in {self.root} has other layers than what is built for its configuration "
                f"({said}): say in the configuration what has changed, or delete it by `kdrepro store rm {key}`."
            ) from None
        return True

    def _check_writable(self, config: Mapping[str, Any]) -> None:
        """Raises InputError when nothing can be written: said before a training, and not after its first epoch."""
        with self.writing():
            self.place.check(self.key(config))

    def _save(
        self, network: nn.Module, config: Mapping[str, Any], checkpoint: Checkpoint, made: Mapping[str, Any]
    ) -> None:
        """Put a trained network in its place; where another run was faster, take that run's instead."""
        key = self.key(config)
        if not self._load_into(network, config):
            content = save(owned(network.state_dict()))
            entry = {
                "config": {"recipe_version": RECIPE_VERSION, **config},
                "sha256": sha(content),
                "history": checkpoint.history,
                "made": dict(made),
            }
            with self.writing():
                mine = self.put(key, "network.safetensors", content, "entry.json", entry)
            if not mine:
                self._load_into(network, config)
        with self.writing():
            checkpoint.remove()
        self.place.tidy(key)

    def put(self, key: str, name: str, content: bytes, about_name: str, about: Mapping[str, Any]) -> bool:
        """Put a file, and last what describes it, if nobody else has; whether what is there now is this file.

        The description decides: of two runs that put theirs at one moment, the file of the one whose description was
        first ends in its place. To be called when what is there was found to be nothing, or damaged.
        """
        name, about_name = f"{key}/{name}", f"{key}/{about_name}"
        described = self.place.read(about_name)
        if described is not None and self.place.read(name) is None:
            self.place.remove(about_name)  # of a file that was set aside
        if not self.place.create(name, content) and self.place.read(name) != content:
            # Of another run that is between its two files, or was killed there.
            if self._appears(about_name):
                return False
            self.place.write(name, content)
        text = json.dumps(about, indent=1).encode()
        if not self.place.create(about_name, text):
            return False
        if self.place.read(name) != content:
            self.place.write(name, content)
        return True

    def _appears(self, name: str) -> bool:
        """Whether a file is there before `PATIENCE` ends."""
        end = time.monotonic() + PATIENCE
        while self.place.read(name) is None:
            if time.monotonic() >= end:
                return False
            time.sleep(PATIENCE / 50)
        return True

    def _set_aside(self, name: str, reason: str) -> None:
        with self.writing():
            aside = self.place.set_aside(name)
        if aside is not None:
            self.warn(f"The stored file {name} is damaged ({reason}): set aside as {aside}, and it is made again.")


def _storable(name: str, value: Any) -> np.ndarray:
    """An array that is read back as it is written. Raises InputError."""
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise InputError(
            f"What was computed as {name!r} holds Python's objects, which only pickle keeps: give numbers or text."
        )
    if name in ("file", "allow_pickle"):
        raise InputError(f"An array cannot be stored as {name!r}, which numpy.savez takes for an argument: rename it.")
    return array


def made_by(network: nn.Module) -> dict[str, Any]:
    """What trained a network that lies where it was trained: device, threads of this training, versions, the day."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": platform.node(),
        "threads": torch.get_num_threads(),
        "kdrepro": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def sha(content: bytes) -> str:
    """The checksum that stands in entries."""
    return hashlib.sha256(content).hexdigest()


def is_entry(found: Any) -> bool:
    """Whether this is what a store writes of a network."""
    if not isinstance(found, dict) or not {"sha256", "history", "config"} <= found.keys():
        return False
    return isinstance(found["history"], list) and all(isinstance(row, dict) for row in found["history"])
