"""Tasks on processes of this machine that stay: each starts once, and keeps what its tasks have in common."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory

from kdrepro.errors import InputError
from kdrepro.executors.options import Options
from kdrepro.executors.tasks import DiedError, Packed, Shared, carry_out, end_with, this_worker
from kdrepro.files import writing

LINE, OUTCOME = "line", "outcome"  # what a process sends: a line of progress; what a task ended with


class Processes:
    """As many processes as tasks at once, one a core unless the options say otherwise; started when they are needed.

    Raises InputError where what they share cannot be written.
    """

    def __init__(self, options: Options):
        self.workers = options.workers or os.cpu_count() or 1
        self.context = multiprocessing.get_context("spawn")  # a fork would have threads' locks, and no GPU
        with writing("what tasks share to the folder for temporary files"):
            self.folder = TemporaryDirectory(prefix="kdrepro-")
        self.queue: deque[tuple[Hashable, Packed]] = deque()
        self.processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self.running: dict[Connection, Hashable] = {}
        self.said: list[str] = []

    def share(self, shared: Shared) -> None:
        """See `Cluster`: a file, which each process reads once."""
        path = Path(self.folder.name) / shared.token
        with writing(f"what tasks share to {path}"):
            path.write_bytes(shared.content)

    def submit(self, tasks: Sequence[Packed]) -> Sequence[Hashable]:
        """See `Cluster`."""
        handles = [object() for _ in tasks]
        self.queue += zip(handles, tasks, strict=True)
        self._start()
        return handles

    def _start(self) -> None:
        """Hand over what is queued, as far as there are idle processes, or fewer than there may be."""
        while self.queue and len(self.running) < self.workers:
            idle = next((pipe for pipe in self.processes if pipe not in self.running), None)
            pipe = self._begin() if idle is None else idle
            handle, task = self.queue.popleft()
            self.running[pipe] = handle
            with suppress(OSError):  # it has died while it had nothing to do, which `ended` will find
                pipe.send(task)

    def _begin(self) -> Connection:
        here, there = self.context.Pipe()
        process = self.context.Process(target=serve, args=(there, self.folder.name, os.getpid()), daemon=True)
        process.start()
        there.close()  # its own end alone keeps the pipe open, so that its death is an end of file here
        self.processes[here] = process
        return here

    def ended(self, seconds: float) -> Sequence[tuple[Hashable, BaseException | None]]:
        """See `Cluster`."""
        found = []
        for pipe in wait(list(self.running), seconds):
            try:
                kind, content = pipe.recv()
            except (EOFError, OSError):
                kind, content = OUTCOME, self._died(pipe)
            if kind == LINE:
                self.said.append(content)
            else:
                found.append((self.running.pop(pipe), content))
        self._start()
        return found

    def _died(self, pipe: Connection) -> DiedError:
        process = self.processes.pop(pipe)
        process.join()
        return DiedError(f"exit code {process.exitcode}")

    def lines(self) -> Sequence[str]:
        """See `Cluster`."""
        said, self.said = self.said, []
        return said

    def close(self) -> None:
        """See `Cluster`."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.join()
        self.folder.cleanup()


def serve(pipe: Connection, folder: str, driver: int) -> None:
    """Carry out tasks from a pipe until it ends, as the process of a driver. folder: of what they share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C of the terminal is the driver's, which ends this process
    threading.Thread(target=end_with, args=(driver,), daemon=True).start()
    name = this_worker()
    while True:
        try:
            packed = pipe.recv()
        except EOFError:
            return
        try:
            outcome: Exception | None = carry_out(
                packed,
                lambda token: (Path(folder) / token).read_bytes(),
                lambda line: pipe.send((LINE, f"[{name}] {line}")),
            )
        except Exception as error:
            if not isinstance(error, InputError):
                error.add_note(f"In a worker:\n{traceback.format_exc()}")  # which pickling keeps, unlike a traceback
            outcome = _that_travels(error)
        pipe.send((OUTCOME, outcome))


def _that_travels(error: Exception) -> Exception:
    """The error, or one of its words alone where it cannot be unpacked elsewhere."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
