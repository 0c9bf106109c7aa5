"""Soft targets of frames on disk, where an ensemble's are computed once and read in every epoch."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdrepro.acoustic.frames import Frames
from kdrepro.acoustic.posteriors import log_probabilities
from kdrepro.errors import InputError
from kdrepro.files import read_array, replacing_folder
from kdrepro.training import digest, gains_from_bf16


class SoftTargets:
    """Teacher logits of frames, on disk: all C of them, or the k largest with the rest shared as states are frequent.

    Made by `store_soft_targets`. A frame costs 2 C bytes whole, and 4 k bytes if only the k largest are kept.
    which: take only these of the stored frames.
    Raises InputError when the files are damaged or gone.
    """

    def __init__(self, folder: Path, which: torch.Tensor | None = None):
        self.which = None if which is None else which.numpy()
        try:
            self._map(folder)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The soft targets {folder} are damaged ({error}): delete that folder, and they are made anew."
            ) from error

    def _map(self, folder: Path) -> None:
        self.values = read_array(folder / "values.npy", mmap_mode="r")  # float16 [N, C or k]
        indices = folder / "indices.npy"
        self.indices = read_array(indices, mmap_mode="r") if indices.exists() else None
        self.prior = torch.from_numpy(read_array(folder / "prior.npy"))  # mean over all frames
        self.classes = int((folder / "classes").read_text())

    @property
    def fingerprint(self) -> str:
        """Hex digits that another teacher's, or other frames' soft targets do not have."""
        return digest(self.prior, self.values.shape, self.which)

    def __len__(self) -> int:
        return len(self.values) if self.which is None else len(self.which)

    def logits(self, frames: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
        """Log-probabilities float32 [n, C] of the frames at these positions."""
        frames = frames if self.which is None else self.which[frames]
        values = _sent(torch.from_numpy(self.values[frames]), device).float()
        if self.indices is None:
            return values
        indices = _sent(torch.from_numpy(self.indices[frames].astype(np.int64)), device)
        return spread_rest(values, indices, self.classes, _sent(self.prior, device))


def _sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """On the device, without waiting for what it is doing."""
    return tensor.to(device, non_blocking=True)


def spread_rest(
    values: torch.Tensor, indices: torch.Tensor, classes: int, prior: torch.Tensor | None = None
) -> torch.Tensor:
    """Log-probabilities [n, C] from the k largest [n, k] and their classes, in falling order.

    What they leave of 1 is shared in proportion to prior [C], or evenly. Evenly, a student learns that rare states are
    as likely as frequent ones wherever neither is among the k; divided by their priors, as a decoder does, the rare
    ones then win, and words go missing.
    """
    left = (1 - values.exp().sum(1, keepdim=True)).clamp(min=1e-6)
    even = (left / max(1, classes - values.shape[1])).expand(-1, classes)
    rest = even
    if prior is not None:
        rest = left / (prior.sum() - prior[indices].sum(1, keepdim=True)).clamp(min=1e-9) * prior
        # No state of the rest may pass one of those that were kept: where one would, evenly after all.
        passes = rest.scatter(1, indices, 0).amax(1, keepdim=True) > values[:, -1:].exp()
        rest = torch.where(passes, even, rest)
    rest = torch.minimum(rest.clamp(min=1e-30).log(), values[:, -1:])
    return rest.scatter(1, indices, values)


def store_soft_targets(
    folder: Path,
    networks: Sequence[nn.Module],
    split: Frames,
    which: torch.Tensor | None = None,
    *,
    how: str = "arithmetic",
    top_k: int | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Write the networks' mean log-probabilities over frames of a split, to be read by `SoftTargets`.

    folder: where; whole or not at all, and left alone where another run was faster. which: the frames, ascending; None
    for all. how: see `ensembles.average`. top_k: states kept a frame, None for all of them.
    """
    count, classes = len(split) if which is None else len(which), len(split.states)
    kept = classes if top_k is None else min(top_k, classes)
    whole = kept == classes
    if (folder / "classes").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # what somebody has deleted in part
    with replacing_folder(folder) as part:
        values = _array(part / "values.npy", np.float16, (count, kept))
        indices = None if whole else _array(part / "indices.npy", np.uint16, (count, kept))
        done, prior = 0, torch.zeros(classes, dtype=torch.float64)
        for found in _in_training_precision(networks, split, which, how, torch.device(device)):
            rows = slice(done, done + len(found))
            best, of = (found, None) if whole else found.topk(kept, dim=1)
            values[rows] = best.clamp(min=-6e4).cpu().numpy()
            if not whole:
                indices[rows] = of.cpu().numpy()
            done += len(found)
            prior += found.exp().sum(0, dtype=torch.float64).cpu()
        del values, indices  # written out
        np.save(part / "prior.npy", (prior / count).float().numpy())
        (part / "classes").write_text(str(classes))


def _in_training_precision(networks, split: Frames, which, how: str, device: torch.device) -> Iterator[torch.Tensor]:
    """As `log_probabilities`, with the products of hidden layers as in training: twice as fast on some processors."""
    with torch.autocast(device.type, torch.bfloat16, enabled=gains_from_bf16(device)):
        yield from log_probabilities(networks, split, which, how, device)


def _array(path: Path, dtype: type, shape: tuple[int, int]) -> np.ndarray:
    """A new array on disk. Raises OSError where it does not fit: writing to a mapped file would kill the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
