"""Tasks, and how they travel: packed with cloudpickle, what many of them have in common once and for itself."""

import hashlib
import io
import os
import pickle
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cloudpickle
import torch

from kdrepro import __version__
from kdrepro.errors import InputError


class DiedError(Exception):
    """A task's worker has died, and nobody knows more."""


@dataclass(frozen=True)
class Desk:
    """What a task finds where it is carried out.

    owner: the task's name among all, the same when it is tried again. tell: called with a line of progress.
    """

    owner: str
    tell: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Task:
    """Work that any process can do.

    work: called with the `Desk`; what comes of it, it puts into a store. gives: the keys of that. needs: keys that
    other tasks may give, and must have given before. shared: an object that `work` holds and other tasks' work too.
    """

    name: str
    work: Callable[[Desk], None]
    gives: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    shared: "Shared | None" = None


class Shared:
    """An object that many tasks hold, packed once. Whoever unpacks a second one of the same token gets the first."""

    def __init__(self, value: Any):
        self.value = value

    @cached_property
    def content(self) -> bytes:
        """The object as bytes."""
        return cloudpickle.dumps(self.value)

    @cached_property
    def token(self) -> str:
        """A name by its content."""
        return hashlib.sha256(self.content).hexdigest()[:32]


@dataclass(frozen=True)
class Packed:
    """A task as it travels. token: of what it shares with others, "" for nothing. threads: of its PyTorch."""

    name: str
    owner: str
    content: bytes
    token: str
    threads: int
    made_with: Mapping[str, str] = field(default_factory=lambda: versions())


def versions() -> dict[str, str]:
    """What must be the same where a task is packed and where it is carried out, for bytes and numbers to be."""
    return {"kdrepro": __version__, "Python": ".".join(platform.python_version_tuple()[:2]), "torch": torch.__version__}


def pack(task: Task, owner: str, threads: int) -> Packed:
    """A task as bytes. Raises InputError for one that holds what no other process can have."""
    file = io.BytesIO()
    try:
        _Packer(file, task.shared).dump(task.work)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(f"{task.name} cannot be sent to a worker ({error}): run it with --executor local.") from error
    return Packed(task.name, owner, file.getvalue(), task.shared.token if task.shared else "", threads)


class _Packer(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: Shared | None):
        super().__init__(file)
        self.shared = shared

    def persistent_id(self, thing: Any) -> str | None:
        return self.shared.token if self.shared is not None and thing is self.shared.value else None


class _Unpacker(pickle.Unpickler):
    def __init__(self, content: bytes, shared: Callable[[str], Any]):
        super().__init__(io.BytesIO(content))
        self.persistent_load = shared


# What a worker's process has unpacked and its next tasks share: it stays as long as the process, one object at a time.
_unpacked: dict[str, Any] = {}


def carry_out(packed: Packed, fetch: Callable[[str], bytes], tell: Callable[[str], None]) -> InputError | None:
    """Do a task in this process; returns what it ended with where its input was bad.

    fetch: the bytes of what has this token, asked for once a process. tell: called with lines of progress. Whatever
    else goes wrong is raised.
    """

    def shared(token: str) -> Any:
        if token not in _unpacked:
            _unpacked.clear()
            _unpacked[token] = pickle.loads(fetch(token))
        return _unpacked[token]

    try:
        _check_versions(packed)
        torch.set_num_threads(packed.threads)
        work = _Unpacker(packed.content, shared).load()
        work(Desk(packed.owner, tell))
    except InputError as error:
        return error.with_traceback(None)
    return None


def _check_versions(packed: Packed) -> None:
    here = versions()
    for name, there in packed.made_with.items():
        if here[name] != there:
            raise InputError(
                f"{this_worker()} has {name} {here[name]}, and the run that sends it work {there}: install the same."
            )


def this_worker() -> str:
    """A short name of this process."""
    return f"{platform.node()}/{os.getpid()}"


def end_with(process: int) -> None:
    """End this process within a second of another one of this machine, which may have been killed.

    A worker may be in a session of its own, which no signal to its driver reaches. What it has trained so far is in the
    store.
    """
    with suppress(ProcessLookupError):
        while True:
            os.kill(process, 0)  # which only asks
            time.sleep(1)
    os._exit(1)
