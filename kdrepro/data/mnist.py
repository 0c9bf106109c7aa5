"""MNIST: 60,000 training and 10,000 test digits of 28 x 28 pixels, read from torchvision's layout."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from kdrepro.data.arrays import read_idx
from kdrepro.data.images import ImageData
from kdrepro.errors import InputError, needed
from kdrepro.paths import expanded

# md5 of the four files as Yann LeCun published them.
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def mnist(root: Path | str) -> ImageData:
    """Read MNIST from `root`/MNIST/raw, the layout that `torchvision.datasets.MNIST` keeps.

    Returns uint8 images [60000, 28, 28] and [10000, 28, 28]. Nothing is downloaded: see `fetch_mnist`.
    Raises InputError when the files are absent, cut short, of another format or not MNIST's.
    """
    folder = expanded(root) / "MNIST" / "raw"
    for name in FILES:
        _check(folder / name)
    train_images, train_labels, test_images, test_labels = (read_idx(folder / name) for name in FILES)
    return ImageData.of("mnist", train_images, train_labels, test_images, test_labels, 10)


def fetch_mnist(root: Path | str) -> Path:
    """Download MNIST into `root` from torchvision's mirrors, unless a good copy is there; returns its folder.

    The download goes to a temporary folder beside its place and is moved in only after its checksums
    were right, so an interruption, or two downloads at once, never leave a bad file.
    Raises InputError when no mirror can be reached or the folder cannot be written.
    """
    root = expanded(root)
    folder = root / "MNIST" / "raw"
    with suppress(InputError):  # absent or damaged: fetch it
        mnist(root)
        return folder
    torchvision = needed("torchvision.datasets", "torchvision", "Downloading MNIST")  # slow to import
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".mnist-") as part:
            torchvision.MNIST(part, download=True)
            mnist(part)
            for name in FILES:
                os.replace(Path(part) / "MNIST" / "raw" / name, folder / name)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        said = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"MNIST could not be downloaded into {root} ({said}): connect to the internet and "
            "try again, or set KDREPRO_DATA to a folder that holds MNIST/raw; the smoke preset needs no download."
        ) from error
    return folder


def _check(path: Path) -> None:
    """Raises InputError unless this is one of MNIST's files, byte for byte."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"MNIST is not in {path.parent} ({path.name} is missing): run `kdrepro data fetch mnist`, or set "
            "KDREPRO_DATA (or data_root) to the folder that holds MNIST/raw; the smoke preset needs no download."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run `kdrepro data fetch mnist`.") from error
    if hashlib.md5(content).hexdigest() != FILES[path.name]:
        raise InputError(
            f"{path} differs from the original MNIST (md5 {FILES[path.name]}): its {len(content):,} bytes were cut "
            "short, are damaged or another data set's; delete it and run `kdrepro data fetch mnist`."
        )
