"""What a training is made of, told apart by short texts, so that a checkpoint is gone on from by its own only."""

import functools
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

DEPTH = 8  # of things within things, from which on they count by their type alone
PLAIN = bool | int | float | str | bytes | torch.dtype | torch.device | np.generic
DATA = PLAIN | torch.Tensor | np.ndarray | nn.Module | list | tuple | dict | functools.partial
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in a text of a thing: another one in each process


def digest(*parts: Any) -> str:
    """16 hex digits over whatever a training is made of: tensors, networks, functions, plain values.

    A function or a class of the user's counts by its code, and by the data, functions and classes that it names in its
    module; one of this package's counts by its name, and so does an installed one that the user's names.
    """
    found = _Digest()
    found.add(parts, depth=-1)
    return found.hash.hexdigest()[:16]


def form(network: nn.Module) -> list[Any]:
    """What a network computes, apart from its tensors: its layers with their settings, and the user's own code."""
    layers = list(network.modules())
    settings = [{k: v for k, v in vars(m).items() if isinstance(v, PLAIN) and k != "training"} for m in layers]
    return [ADDRESS.sub("", repr(network)), settings, list(dict.fromkeys(type(m) for m in layers))]


class _Digest:
    """A hash that parts are added to, each container with its length, each function once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: set[Any] = set()  # functions and classes, which may name each other in a circle

    def add(self, part: Any, depth: int) -> None:
        """What is neither data nor code counts by its type alone, and so do things deep within."""
        self.hash.update(type(part).__qualname__.encode())
        if isinstance(part, torch.Tensor):
            tensor = part.detach().cpu().contiguous()
            self.hash.update(repr((tensor.dtype, list(tensor.shape))).encode())
            self.hash.update(tensor.view(-1).view(torch.uint8).numpy())
        elif part is None or isinstance(part, PLAIN):
            self.hash.update(repr(part).encode())
        elif isinstance(part, np.ndarray):
            self.hash.update(repr((part.dtype, part.shape)).encode())
            self.hash.update(np.ascontiguousarray(part).view(np.uint8) if part.dtype != object else repr(part).encode())
        elif depth > DEPTH:
            return
        elif isinstance(part, nn.Module):
            self.add(form(part), depth + 1)
            self.add(part.state_dict(), depth + 1)
        elif isinstance(part, FunctionType):
            self._add_function(part)
        elif isinstance(part, type):
            self._add_class(part)
        elif isinstance(part, CodeType):
            self.hash.update(repr((part.co_code, part.co_names)).encode())
            self.add(part.co_consts, depth + 1)
        elif isinstance(part, MethodType):
            self.add((part.__self__, part.__func__), depth + 1)
        elif isinstance(part, functools.partial):
            self.add((part.func, part.args, part.keywords), depth + 1)
        elif isinstance(part, Mapping):
            self._add_each(list(part.items()), depth)
        elif isinstance(part, list | tuple):
            self._add_each(part, depth)
        elif isinstance(part, set | frozenset):
            self._add_each(sorted(map(repr, part)), depth)
        else:
            self._add_class(type(part))
            self.add(getattr(part, "__dict__", None), depth + 1)

    def _add_each(self, parts: Any, depth: int) -> None:
        self.hash.update(f"{len(parts)} parts".encode())
        for one in parts:
            self.add(one, depth + 1)

    def _add_named(self, thing: FunctionType | type) -> bool:
        """Its name; returns whether it is met for the first time."""
        self.hash.update(f"{thing.__module__}.{thing.__qualname__}".encode())
        new = thing not in self.seen
        self.seen.add(thing)
        return new

    def _add_function(self, function: FunctionType) -> None:
        """By its name where it is this package's own, by its code where it is not; and by what it holds of both."""
        if not self._add_named(function):
            return
        ours = f"{function.__module__}".startswith("kdrepro.")
        if not ours:
            self.add(function.__code__, 0)
            self.add(list(_followed(function)), 0)
        named = function.__kwdefaults__
        if named and ours:  # whether values are looked at changes no training
            named = {name: value for name, value in named.items() if name != "check"} or None
        self.add((function.__defaults__, named), 0)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents, 0)
            except ValueError:  # not filled yet
                continue

    def _add_class(self, given: type) -> None:
        """By its name, and where it is the user's by what is in it and in the user's classes that it extends."""
        if not self._add_named(given) or not _users(given.__module__):
            return
        self.add(given.__bases__, 0)
        for name, member in vars(given).items():
            held = getattr(member, "__func__", getattr(member, "fget", member))  # of methods, of properties
            if isinstance(held, FunctionType) or (isinstance(held, DATA) and not name.startswith("__")):
                self.add((name, held), 0)


def _followed(function: FunctionType) -> Iterator[Any]:
    """Data, and functions, classes and callables of the user's, that a function names in its module or another one."""
    names, places = list(_names(function.__code__)), [function.__globals__]
    for name in names:
        one = function.__globals__.get(name)
        if isinstance(one, ModuleType) and _users(one.__name__):
            places.append(vars(one))
    for place in places:
        for value in (place[name] for name in names if name in place):
            code = value if isinstance(value, FunctionType | type) else type(value)
            if isinstance(value, DATA) or (callable(value) and _users(code.__module__)):
                yield value


def _names(code: CodeType) -> Iterator[str]:
    """The names that code looks up, and the functions and comprehensions in it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _users(module: str | None) -> bool:
    """Whether a module is the user's: neither this package's nor an installed one, whose file's folder tells."""
    root = f"{module}".partition(".")[0]
    if root in ("kdrepro", "torch") or root in sys.stdlib_module_names:
        return False
    if root == "__main__":  # though a launcher's file may stand for it
        return True
    file = getattr(sys.modules.get(f"{module}"), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(Path(file).parts)
