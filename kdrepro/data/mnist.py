"""MNIST: 60,000 training and 10,000 test digits of 28 x 28 pixels, read from torchvision's layout."""

import hashlib
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision

from kdrepro.data.images import ImageData
from kdrepro.errors import InputError

# md5 of the four files as Yann LeCun published them, and the shape each must hold.
FILES = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", (60000, 28, 28)),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", (60000,)),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", (10000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", (10000,)),
}


def mnist(root: Path | str) -> ImageData:
    """Read MNIST from `root`/MNIST/raw, the layout that `torchvision.datasets.MNIST` keeps.

    Returns uint8 images [60000, 28, 28] and [10000, 28, 28]. Nothing is downloaded: see `fetch_mnist`.
    Raises InputError when the files are absent, cut short, of another format or not MNIST's.
    """
    folder = _raw_folder(Path(root))
    tensors = []
    for name, (md5, shape) in FILES.items():
        content = _read(folder / name)
        tensor = _parse_idx(content, folder / name)
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{folder / name} holds an array of {list(tensor.shape)} where MNIST has {list(shape)}: "
                "delete it and run `kdrepro data fetch mnist`."
            )
        if hashlib.md5(content).hexdigest() != md5:
            raise InputError(
                f"{folder / name} differs from the original MNIST (md5 {md5}): "
                "delete it and run `kdrepro data fetch mnist`."
            )
        tensors.append(tensor)
    train_images, train_labels, test_images, test_labels = tensors
    return ImageData.of("mnist", train_images, train_labels.long(), test_images, test_labels.long(), 10)


def fetch_mnist(root: Path | str) -> Path:
    """Download MNIST into `root` from torchvision's mirrors, unless a good copy is there; returns its folder.

    The download goes to a temporary folder beside its place and is moved in only after its checksums
    were right, so an interruption, or two downloads at once, never leave a bad file.
    Raises InputError when no mirror can be reached or the folder cannot be written.
    """
    root = Path(root)
    folder = root / "MNIST" / "raw"
    try:
        mnist(root)
        return folder
    except InputError:
        pass  # absent or damaged: fetch it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".mnist-") as part:
            torchvision.datasets.MNIST(part, download=True)
            mnist(part)
            for name in FILES:
                os.replace(Path(part) / "MNIST" / "raw" / name, folder / name)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        raise InputError(
            f"MNIST could not be downloaded into {root} ({_first_line(error)}): connect to the internet and "
            "try again, or set KDREPRO_DATA to a folder that holds MNIST/raw; the smoke preset needs no download."
        ) from error
    return folder


def read_idx(path: Path) -> torch.Tensor:
    """Read one idx file of unsigned bytes (magic 0x0801 to 0x0804) as a uint8 tensor.

    Raises InputError when the file is absent, has another magic number or another length than its
    header says.
    """
    return _parse_idx(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run `kdrepro data fetch mnist`.") from error


def _parse_idx(content: bytes, path: Path) -> torch.Tensor:
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise InputError(
            f"{path} is not an idx file of bytes (it starts with {content[:4].hex() or 'nothing'}): "
            "delete it and run `kdrepro data fetch mnist`."
        )
    dims = content[3]
    start = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", content[4:start]) if len(content) >= start else ()
    expected = start + int(np.prod(shape, dtype=object)) if shape else start
    if not shape or len(content) != expected:
        raise InputError(
            f"{path} has {len(content):,} bytes where its header asks for {expected:,}: "
            "it was cut short or is damaged; delete it and run `kdrepro data fetch mnist`."
        )
    if 0 in shape:  # whose other sizes may be anything
        raise InputError(f"{path} holds no case: delete it and run `kdrepro data fetch mnist`.")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _raw_folder(root: Path) -> Path:
    folder = root / "MNIST" / "raw"
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"MNIST is not in {folder} ({missing[0]} is missing): run `kdrepro data fetch mnist`, or set "
            "KDREPRO_DATA (or data_root) to the folder that holds MNIST/raw; the smoke preset needs no download."
        )
    return folder


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
