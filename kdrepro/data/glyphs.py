"""Images of printed characters, as many classes as are asked for: data for specialists that needs no download."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kdrepro.data.characters import Fonts, glyph_classes
from kdrepro.data.drawing import VERSION, Drawing, draw_class
from kdrepro.data.image_cache import SPLITS, ImageRows, load_or_make
from kdrepro.data.images import ImageData
from kdrepro.errors import InputError, needed

WORTH_A_WORKER = 40_000  # images; starting a process takes as long as drawing about as many


def glyphs(
    classes: int = 200,
    *,
    per_class: int = 100,
    validation_per_class: int = 20,
    test_per_class: int = 20,
    size: int = 32,
    seed: int = 0,
    name: str = "glyphs",
    cache: Path | str | None = None,
) -> ImageData:
    """Characters of matplotlib's fonts, each image turned, sheared, scaled, shifted, blurred and noisy at random.

    Grey images, uint8 [classes * per_class, size, size]; `class_names` are the characters, those of
    `glyph_classes(classes)`. Every split uses the same fonts, with draws of its own. An image depends on the seed,
    its character, its split and its place in it, on nothing else: fewer images or classes are the first of more.

    size: 16 or 32 pixels; beyond some 1,500 classes there are signs that 16 cannot show.
    cache: a folder that keeps the images; None to make them each time.
    Raises InputError for sizes that cannot be, and when the cache cannot be written.
    """
    drawing = Drawing(per_class, validation_per_class, test_per_class, size, seed)
    _check(drawing, classes)

    def make() -> ImageRows:
        names = tuple(character for character, _ in glyph_classes(classes))
        images = _draw_all(names, drawing)
        return ImageRows(images, {split: [getattr(drawing, split)] * classes for split in SPLITS}, names)

    fonts = [path.stat().st_size for path in Fonts().paths.values()]
    settings = {"kind": "glyphs", "version": VERSION, "classes": classes, "fonts": fonts, **asdict(drawing)}
    return load_or_make(cache, name, settings, make)[0]


def _check(drawing: Drawing, classes: int) -> None:
    if drawing.size not in (16, 32):
        raise InputError(f"Glyphs are drawn at a size of 16 or 32 pixels, not {drawing.size}.")
    for argument, number, least in (
        ("classes", classes, 2),
        ("per_class", drawing.train, 1),
        ("validation_per_class", drawing.validation, 0),
        ("test_per_class", drawing.test, 1),
        ("seed", drawing.seed, 0),
    ):
        if number < least:
            raise InputError(f"{argument} of glyphs must be at least {least}, not {number}.")


def _draw_all(characters: Sequence[str], drawing: Drawing) -> np.ndarray:
    """All images, split by split and class by class, uint8 [N, size, size].

    Drawn in as many processes as are worth their start, up to one a core. joblib's need no guard in a user's script.
    """
    worth = len(characters) * drawing.per_class // WORTH_A_WORKER
    workers = max(1, min(os.cpu_count() or 1, len(characters), worth))
    shares = [characters[i::workers] for i in range(workers)]
    images = np.empty((len(characters), drawing.per_class, drawing.size, drawing.size), np.uint8)
    joblib = needed("joblib", "plots", "data.glyphs")
    for i, drawn in enumerate(joblib.Parallel(n_jobs=workers)(joblib.delayed(_draw)(one, drawing) for one in shares)):
        images[i::workers] = drawn
    splits = np.split(images, np.cumsum([drawing.train, drawing.validation]), axis=1)
    return np.concatenate([split.reshape(-1, drawing.size, drawing.size) for split in splits])


def _draw(characters: Sequence[str], drawing: Drawing) -> np.ndarray:
    """The images of some characters, uint8 [characters, per_class, size, size]."""
    fonts = Fonts()
    return np.stack([draw_class(fonts, character, drawing) for character in characters])
