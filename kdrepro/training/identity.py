"""What a training is made of, told apart by short texts, so that a checkpoint is gone on from by its own only."""

import functools
import hashlib
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

DEPTH = 8  # of things within things, from which on they count by their type alone
PLAIN = bool | int | float | str | bytes | torch.dtype | torch.device | np.generic


def digest(*parts: Any) -> str:
    """16 hex digits over whatever a training is made of: tensors, networks, functions, plain values."""
    found = hashlib.sha256()
    for part in parts:
        _add(found, part, depth=0)
    return found.hexdigest()[:16]


def _add(found: Any, part: Any, depth: int) -> None:
    """Add a part to a hash. What is neither data nor code counts by its type alone, and so do things deep within."""
    found.update(type(part).__qualname__.encode())
    if isinstance(part, torch.Tensor):
        tensor = part.detach().cpu().contiguous()
        found.update(repr((tensor.dtype, list(tensor.shape))).encode())
        found.update(tensor.view(-1).view(torch.uint8).numpy())
    elif part is None or isinstance(part, PLAIN):
        found.update(repr(part).encode())
    elif isinstance(part, np.ndarray):
        found.update(repr((part.dtype, part.shape)).encode())
        found.update(np.ascontiguousarray(part).view(np.uint8) if part.dtype != object else repr(part).encode())
    elif depth > DEPTH:
        return
    elif isinstance(part, nn.Module):
        _add(found, [type(m).__qualname__ for m in part.modules()], depth + 1)
        _add(found, part.state_dict(), depth + 1)
    elif isinstance(part, FunctionType):
        _add_function(found, part, depth + 1)
    elif isinstance(part, CodeType):
        found.update(part.co_code + repr(part.co_names).encode())
        _add(found, part.co_consts, depth + 1)
    elif isinstance(part, MethodType):
        _add(found, (part.__self__, part.__func__), depth + 1)
    elif isinstance(part, functools.partial):
        _add(found, (part.func, part.args, part.keywords), depth + 1)
    elif isinstance(part, Mapping):
        for key, value in part.items():
            _add(found, (key, value), depth + 1)
    elif isinstance(part, list | tuple):
        for one in part:
            _add(found, one, depth + 1)
    elif isinstance(part, set | frozenset):
        _add(found, sorted(map(repr, part)), depth + 1)
    else:
        _add(found, getattr(part, "__dict__", None), depth + 1)


def _add_function(found: Any, function: FunctionType, depth: int) -> None:
    """By its name where it is this package's own, by its code where it is the user's; and by what it holds of both."""
    found.update(f"{function.__module__}.{function.__qualname__}".encode())
    if not function.__module__.startswith("kdrepro."):
        _add(found, function.__code__, depth)
        used = (function.__globals__.get(name) for name in function.__code__.co_names)
        _add(found, [value for value in used if isinstance(value, PLAIN | torch.Tensor)], depth)
    named = function.__kwdefaults__
    if named and function.__module__.startswith("kdrepro."):  # whether values are looked at changes no training
        named = {name: value for name, value in named.items() if name != "check"} or None
    _add(found, (function.__defaults__, named), depth)
    for cell in function.__closure__ or ():
        try:
            _add(found, cell.cell_contents, depth)
        except ValueError:  # not filled yet
            continue
