"""Images of printed characters, as many classes as are asked for: data for specialists that needs no download."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from kdrepro.data.characters import Fonts, glyph_classes, glyph_name
from kdrepro.data.drawing import VERSION, Drawing, draw_class
from kdrepro.data.image_cache import SPLITS, ImageRows, load_or_make
from kdrepro.data.images import ImageData
from kdrepro.errors import InputError

__all__ = ["glyph_classes", "glyph_name", "glyphs"]

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
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageData:
    """Characters of matplotlib's fonts, each image turned, sheared, scaled, shifted, blurred and noisy at random.

    Grey images, uint8 [classes * per_class, size, size]; `class_names` are the characters, those of
    `glyph_classes(classes)`. Every split uses the same fonts, with draws of its own. An image depends on the seed,
    its character, its split and its place in it, on nothing else: fewer images or classes are the first of more.

    size: 16 or 32 pixels; beyond some 1,500 classes there are signs that 16 cannot show.
    cache: a folder that keeps the images; None to make them each time.
    workers: processes; None for as many as are worth their start, up to one a core. progress: called with the classes
    that are done and their number.
    Raises InputError for sizes that cannot be, and when the cache cannot be written.
    """
    drawing = Drawing(per_class, validation_per_class, test_per_class, size, seed)
    _check(drawing, classes)

    def make() -> ImageRows:
        names = tuple(character for character, _ in glyph_classes(classes))
        images = _draw_all(names, drawing, workers, progress)
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


def _draw_all(
    characters: Sequence[str], drawing: Drawing, workers: int | None, progress: Callable[[int, int], None] | None
) -> np.ndarray:
    """All images, split by split and class by class, uint8 [N, size, size]."""
    n, size = len(characters), drawing.size
    images = np.empty((n * drawing.per_class, size, size), np.uint8)
    rows = _rows(n, drawing)
    if workers is None:
        workers = min(os.cpu_count() or 1, len(images) // WORTH_A_WORKER)
    drawn = _in_workers if workers > 1 else _here
    for done, (k, of_class) in enumerate(drawn(characters, drawing, min(workers, n)), 1):
        images[rows[k]] = of_class
        if progress:
            progress(done, n)
    return images


def _rows(classes: int, drawing: Drawing) -> np.ndarray:
    """Where the images of each class go, int64 [classes, per_class]."""
    parts, start = [], 0
    for split in SPLITS:
        count = getattr(drawing, split)
        parts.append(start + np.arange(classes * count).reshape(classes, count))
        start += classes * count
    return np.concatenate(parts, 1)


def _here(characters: Sequence[str], drawing: Drawing, workers: int):
    fonts = Fonts()
    for k, character in enumerate(characters):
        yield k, draw_class(fonts, character, drawing)


def _in_workers(characters: Sequence[str], drawing: Drawing, workers: int):
    """The same from fresh interpreters, in the order they finish."""
    with _interpreters(workers) as idle, ThreadPoolExecutor(workers) as pool:
        pending = {pool.submit(_ask, idle, character, drawing): k for k, character in enumerate(characters)}
        try:
            for future in as_completed(pending):
                yield pending.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interpreters(workers: int):
    """Processes that run `serve`; unlike multiprocessing's, they need no guard in a user's script."""
    command = [sys.executable, "-c", "from kdrepro.data.glyphs import serve; serve()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # one a core already
    idle: SimpleQueue = SimpleQueue()
    processes = []
    with tempfile.TemporaryFile() as errors:
        try:
            for _ in range(workers):
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
                processes.append(subprocess.Popen(command, env=environment, **pipes))
                idle.put((processes[-1], errors))
            yield idle
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _ask(idle: SimpleQueue, character: str, drawing: Drawing) -> np.ndarray:
    process, errors = idle.get()
    try:
        shape = (drawing.per_class, drawing.size, drawing.size)
        try:
            pickle.dump((character, drawing), process.stdin)
            process.stdin.flush()
            content = process.stdout.read(int(np.prod(shape)))
        except OSError:  # a pipe that broke
            content = b""
        if len(content) != np.prod(shape):
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-2000:]
            raise RuntimeError(f"A process that draws glyphs ended with {process.wait()}: {said}")
        return np.frombuffer(content, np.uint8).reshape(shape)
    finally:
        idle.put((process, errors))


def serve() -> None:
    """The other end of `_ask`: draw classes until there is no more to read."""
    fonts = Fonts()
    while True:
        try:
            character, drawing = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        sys.stdout.buffer.write(draw_class(fonts, character, drawing).tobytes())
        sys.stdout.buffer.flush()
