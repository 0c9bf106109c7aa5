"""Pictures for tests: made with a seed, encoded, and put into folders a class."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def picture(seed: int, width: int = 64, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Soft random colours, which JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def fill(folder: Path, classes: Iterable[str] = "abc", each: int = 6, start: int = 0) -> Path:
    """A folder a class, with so many pictures in each."""
    for k, name in enumerate(classes):
        for i in range(each):
            write(folder / name / f"{i}.jpg", encoded(picture(start + 100 * k + i, 20, 16)))
    return folder


def rows(*images: torch.Tensor) -> set[bytes]:
    return {bytes(x.contiguous().numpy()) for part in images for x in part}
