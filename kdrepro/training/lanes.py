"""Trainings side by side, each on one of the processor's threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch

# Of a network; the steps of smaller ones are as much Python as arithmetic, and Python runs on one thread at a time.
LEAST_WEIGHTS = 100_000
WAKE_SECONDS = 0.5  # between two looks for Ctrl-C, which a waiting thread does not notice on every system


class StoppedError(Exception):
    """Another lane has failed, or somebody has asked for an end."""


class Lane:
    """What a training that runs beside others knows of them.

    count: of lanes, itself included.
    """

    def __init__(self, count: int = 1, stop: threading.Event | None = None):
        self.count, self._stop = count, stop

    def check(self) -> None:
        """Between two steps. Raises StoppedError when the training is to end."""
        if self._stop is not None and self._stop.is_set():
            raise StoppedError


def side_by_side(train: Callable[[Any, Lane], None], groups: Sequence[Any]) -> None:
    """Call train(group, lane) for all groups at once, PyTorch's operations on one thread each.

    Raises what the first one to fail has raised, and KeyboardInterrupt, when the others have stopped (see
    `Lane.check`). A single group keeps all threads.
    """
    if len(groups) == 1:
        return train(groups[0], Lane())
    stop = threading.Event()

    def on_one_thread(group: Any) -> None:
        torch.set_num_threads(1)  # of this thread's operations
        train(group, Lane(len(groups), stop))

    with threads(), ThreadPoolExecutor(len(groups)) as pool:
        running = [pool.submit(on_one_thread, group) for group in groups]
        try:
            while not _over(running):
                wait(running, timeout=WAKE_SECONDS, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # which those that have ended well no longer see
            wait(running)
    for error in filter(None, (one.exception() for one in running)):
        if not isinstance(error, StoppedError):
            raise error


def _over(running: Sequence[Future]) -> bool:
    """Whether all have ended, or one has failed."""
    return all(one.done() for one in running) or any(one.done() and one.exception() for one in running)


@contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """In here PyTorch's operations run on `count` threads, None for as they are; afterwards on as many as before."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
