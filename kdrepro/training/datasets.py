"""Cases out of whatever people keep them in: tensors, arrays, datasets, subsets and loaders."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from kdrepro.checks import as_tensor
from kdrepro.training.memory import machine_memory

TOLD_FROM = 2**20  # bytes read from a dataset of which a sentence tells


class Cases(NamedTuple):
    """inputs: [N, ...]; labels: [N], or None; batch_size: a loader's, or None."""

    inputs: torch.Tensor
    labels: Any = None
    batch_size: int | None = None


def as_cases(source: Any, name: str, ordered: bool = False) -> Cases:
    """The cases of a tensor, an array, a dataset, a subset, a loader, or a list of (input, label).

    Tensors are used where they lie, those of a `TensorDataset` too, and of a `Subset` of one the rows that it names.
    Any other dataset or loader is read once, and a warning says what it takes in memory: whatever it draws at random
    is then drawn once.
    ordered: whether something else has one entry a case, in the order of the data.
    Raises ValueError for a loader with an order of its own where that is so, for items that are no (input, label) or
    input alone, or differ in shape, and for more than memory holds.
    """
    if _is_pairs(source):
        x, y = source[0]
        if hasattr(x, "getbands") or (hasattr(x, "__array__") and np.ndim(x)):
            return _read(iter(source), name, torch.stack, len(source))
        if not ordered and isinstance(x, float | np.floating | torch.Tensor) and hasattr(y, "__index__"):
            raise ValueError(
                f"{name} is a list of pairs of numbers, which may be two inputs each, or an input and a label: pass "
                "inputs and labels apart, or the inputs as an array [cases, 2]."
            )
    if isinstance(source, torch.Tensor | list | tuple) or hasattr(source, "__array__"):
        return Cases(_numbers(as_tensor(source, name), name))
    if isinstance(source, TensorDataset):
        return Cases(*_input_and_label(source.tensors, name))
    if isinstance(source, Subset) and isinstance(source.dataset, TensorDataset):
        which = torch.as_tensor(source.indices)
        return Cases(*(t if t is None else t[which] for t in as_cases(source.dataset, name)[:2]))
    if isinstance(source, DataLoader):
        if ordered and not _in_order(source):
            raise ValueError(
                f"{name} is a loader with an order of its own, of which labels, soft targets and whoever reads the "
                "answers know nothing: pass its dataset, or shuffle=False."
            )
        if (
            source.drop_last
            and hasattr(source.dataset, "__len__")
            and len(source) * (source.batch_size or 1) != len(source.dataset)
        ):
            raise ValueError(
                f"{name} is a loader with drop_last=True, whose {len(source)} batches leave out some of its dataset's "
                f"{len(source.dataset)} cases, the same ones in each epoch: pass its dataset, or drop_last=False."
            )
        return _read(iter(source), name, torch.cat, None)._replace(batch_size=source.batch_size)
    if isinstance(source, IterableDataset):
        return _read(iter(source), name, torch.stack, None)
    listed = (
        hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str | bytes | dict)
    )
    if isinstance(source, Dataset) or listed:
        # A dataset's length ends it: not each raises an IndexError itself.
        return _read((source[i] for i in range(len(source))), name, torch.stack, len(source))
    raise ValueError(f"{name} must be a tensor, an array, a dataset or a loader, not a {type(source).__name__}.")


def _is_pairs(source: Any) -> bool:
    """Whether a source is a list of tuples of two, as a dataset's items are."""
    return isinstance(source, list) and bool(source) and all(isinstance(one, tuple) and len(one) == 2 for one in source)


def _in_order(loader: DataLoader) -> bool:
    """Whether a loader gives its dataset's cases in the dataset's order."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    return isinstance(loader.sampler, SequentialSampler) and type(loader.batch_sampler) in (BatchSampler, type(None))


def _numbers(inputs: torch.Tensor, name: str) -> torch.Tensor:
    """The inputs themselves, without the history that a network has left on them."""
    inputs = inputs.detach()
    if inputs.dim() == 0:
        raise ValueError(f"{name} must be [cases, ...], not a single number.")
    if inputs.dtype in (torch.uint16, torch.uint32, torch.uint64):
        raise ValueError(
            f"{name} is {inputs.dtype}, of which networks know nothing: pass floats, divided by their range."
        )
    return inputs


def _input_and_label(item: Any, name: str) -> tuple[Any, Any]:
    """An item's, or a batch's, input and label, None where it has none. Raises ValueError."""
    x, y = item, None
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        x, y = item[0], item[1] if len(item) == 2 else None
    if hasattr(x, "getbands"):  # the user knows what it should become
        raise ValueError(f"{name} gives Pillow images: give the dataset a transform to tensors, such as PILToTensor.")
    if isinstance(x, torch.Tensor) or hasattr(x, "__array__"):
        return x, y
    holds = f" with {', '.join(map(repr, item))}" if isinstance(item, dict) else ""
    holds = f" of {len(item)}" if isinstance(item, tuple | list) else holds
    raise ValueError(
        f"{name} gives a {type(item).__name__}{holds}: let its items be (input, label), or an input alone."
    )


def _read(items: Iterator[Any], name: str, join: Callable[..., torch.Tensor], count: int | None) -> Cases:
    """All items of a dataset, to be stacked, or all batches of a loader, to be put one after the other."""
    inputs: list[torch.Tensor] = []
    labels: list[Any] = []
    for item in items:
        x, y = _input_and_label(item, name)
        inputs.append(as_tensor(x, name))
        labels.append(y)
        if count and len(inputs) == 1:
            _check_memory(inputs[0], count, name)
    if not inputs:
        raise ValueError(f"{name} is empty: there is nothing to train on.")
    if any(y is None for y in labels) and any(y is not None for y in labels):
        raise ValueError(f"{name} gives some items with a label and some without: use -100 for a case that has none.")
    joined = _numbers(join(_alike(inputs, name, join)), name)
    size = joined.numel() * joined.element_size()
    if size >= TOLD_FROM:
        warnings.warn(
            f"{name}: {len(joined):,} cases were read once and stay in memory ({size / 1e6:,.0f} MB); what the dataset "
            "draws at random was drawn once.",
            stacklevel=4,
        )
    if labels[0] is None:
        return Cases(joined)
    if join is torch.cat:
        return Cases(joined, torch.cat([as_tensor(y, "labels") for y in labels]))
    return Cases(joined, as_tensor(labels, "labels"))


def _check_memory(one: torch.Tensor, count: int, name: str) -> None:
    size = one.numel() * one.element_size()
    if count * size > machine_memory():
        raise ValueError(f"{name} has {count:,} cases of {size:,} bytes, more than memory holds: take a Subset.")


def _alike(tensors: list[torch.Tensor], name: str, join: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
    """The tensors, if they can be joined. Raises ValueError."""
    first, what = (0, "item") if join is torch.stack else (1, "batch")
    for i, tensor in enumerate(tensors):
        if tensor.shape[first:] != tensors[0].shape[first:]:
            raise ValueError(
                f"{name} gives {list(tensor.shape)} as {what} {i} and {list(tensors[0].shape)} as the first: bring all "
                "cases to one size."
            )
    return tensors
