"""The driver's side: tasks go out when what they need is there, come back when done, and are awaited by key.

Where and when a task runs is the cluster's business (Ray's, Slurm's); here is only what neither knows, which task
needs which network.
"""

import atexit
import itertools
import threading
import uuid
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Protocol

from kdrepro.errors import DivergedError, InputError
from kdrepro.executors.options import Options
from kdrepro.executors.tasks import DiedError, Packed, Shared, Task, pack

PAUSE = 0.2  # seconds between two looks at what has ended


class Cluster(Protocol):
    """What carries out packed tasks. All is called from one thread."""

    workers: int  # tasks at once

    def share(self, shared: Shared) -> None:
        """Make an object known to the tasks that come; called once for each."""
        ...

    def submit(self, tasks: Sequence[Packed]) -> Sequence[Hashable]:
        """Hand tasks over; a handle each."""
        ...

    def ended(self, seconds: float) -> Sequence[tuple[Hashable, BaseException | None]]:
        """The handles that have ended, each once, with what went wrong; waits for one at most so long."""
        ...

    def lines(self) -> Sequence[str]:
        """Lines of progress since the last call."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


class Workers:
    """Tasks of one run, carried out elsewhere.

    options: which cluster, which is started with the first task. folder: of the run, for what jobs need on disk. tell:
    called with lines of progress, from a thread of its own. cluster: one that is started already, for tests.
    """

    def __init__(self, options: Options, folder: Path, tell: Callable[[str], None], cluster: Cluster | None = None):
        self.options, self.folder, self.tell = options, folder, tell
        self._cluster = cluster
        self._run, self._numbers = uuid.uuid4().hex[:8], itertools.count()
        self._changed = threading.Condition()
        self._waiting: list[tuple[Task, Packed]] = []
        self._running: dict[Hashable, tuple[Task, Packed]] = {}
        self._open: dict[str, Task] = {}  # by the keys that are still to come
        self._failed: dict[str, BaseException] = {}
        self._shared: set[str] = set()
        self._tries: dict[str, int] = {}
        self._news = False  # whether a task may have become ready
        self._closed = False
        self._broken: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def count(self) -> int:
        """How many tasks are carried out at once. Starts the cluster. Raises InputError when it does not start."""
        return self._started().workers

    def _started(self) -> Cluster:
        if self._cluster is None:
            if self.options.executor == "ray":
                from kdrepro.executors.on_ray import RayCluster

                self._cluster = RayCluster(self.options)
            elif self.options.executor == "processes":
                from kdrepro.executors.on_processes import Processes

                self._cluster = Processes(self.options)
            else:
                from kdrepro.executors.on_submitit import Jobs

                self._cluster = Jobs(self.options, self.folder)
            atexit.register(self.close)  # now: before what the cluster's library has registered
        return self._cluster

    def describe(self) -> dict[str, object]:
        """What a record says of them: the executor's name, and the threads of a training."""
        return {"executor": self.options.executor, "threads": self.options.threads}

    def knows(self, key: str) -> bool:
        """Whether a task gives this key, or was to."""
        with self._changed:
            return key in self._open or key in self._failed

    def add(self, tasks: Sequence[Task]) -> None:
        """Have tasks carried out, each after those among them, and among earlier ones, that give what it needs.

        Raises InputError where the cluster does not start or a task cannot be sent, and after `close`.
        """
        if tasks and self._closed:
            raise self._broken
        cluster = self._started() if tasks else None
        packed = [pack(task, f"run {self._run}, task {next(self._numbers)}", self.options.threads) for task in tasks]
        with self._changed:
            self._waiting += zip(tasks, packed, strict=True)
            for task in tasks:
                self._open |= dict.fromkeys(task.gives, task)
            self._news = True
            self._changed.notify_all()
        if cluster is not None and self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(cluster,), name="workers", daemon=True)
            self._thread.start()

    def wait(self, key: str) -> None:
        """Until a task has given this key. Raises what it failed with, after all others were ended.

        A training that diverges ends no other: a search goes on.
        """
        try:
            with self._changed:
                while key in self._open and self._broken is None:
                    self._changed.wait(PAUSE)  # with an end, so that Ctrl-C comes through everywhere
                error = self._failed.get(key) or (self._broken if key in self._open else None)
            if error is not None:
                raise error
        except DivergedError:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End what still runs; what it has saved is kept."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._broken = self._broken or InputError(
                "The workers were ended, by an error or by Ctrl-C: start the chapter again; what was trained is kept."
            )
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        elif self._cluster is not None:
            self._cluster.close()

    # --- in the thread of its own ---------------------------------------------------------------

    def _work(self, cluster: Cluster) -> None:
        try:
            while not self._closed:
                self._send(cluster, self._ready())
                ended = cluster.ended(PAUSE) if self._running else self._idle()
                for line in cluster.lines() if ended or self._running else ():
                    self.tell(line)
                for handle, error in ended:
                    self._take_back(*self._running.pop(handle), error)
        except BaseException as error:  # whoever waits is told
            with self._changed:
                self._broken = error
                self._changed.notify_all()
        finally:
            cluster.close()

    def _idle(self) -> tuple:
        """Wait for tasks; nothing has ended."""
        with self._changed:
            if not self._news:
                self._changed.wait(PAUSE)
        return ()

    def _ready(self) -> list[tuple[Task, Packed]]:
        """The tasks whose needs are all there; those of a task that has failed fail with it."""
        with self._changed:
            if not self._news:
                return []
            ready, waiting = [], []
            for one in self._waiting:
                (waiting if one[0].needs & self._open.keys() else ready).append(one)
            self._waiting, self._news = waiting, False
        for task, packed in list(ready):
            lost = next((self._failed[key] for key in task.needs if key in self._failed), None)
            if lost is not None:
                ready.remove((task, packed))
                self._end(task, lost)
        return ready

    def _send(self, cluster: Cluster, tasks: Sequence[tuple[Task, Packed]]) -> None:
        for task, packed in tasks:
            if task.shared is not None and packed.token not in self._shared:
                cluster.share(task.shared)
                self._shared.add(packed.token)
        if tasks:
            self._running |= dict(zip(cluster.submit([packed for _, packed in tasks]), tasks, strict=True))

    def _take_back(self, task: Task, packed: Packed, error: BaseException | None) -> None:
        """A task has ended: well, with an error, or with its worker, and then it is tried again."""
        if isinstance(error, DiedError):
            self._tries[packed.owner] = self._tries.get(packed.owner, 0) + 1
            if self._tries[packed.owner] <= self.options.retries:
                self.tell(f"{task.name}: its worker has died; it goes on from the last checkpoint on another")
                with self._changed:
                    self._waiting.append((task, packed))
                    self._news = True
                return
            error = InputError(
                f"{task.name}: its worker has died {self._tries[packed.owner]} times ({error}), most likely because "
                "memory or time ran out: see to that and give the same command again; what was trained is kept."
            )
        self._end(task, error)

    def _end(self, task: Task, error: BaseException | None) -> None:
        with self._changed:
            for key in task.gives:
                self._open.pop(key, None)
                if error is not None:
                    self._failed[key] = error
            self._news = True
            self._changed.notify_all()
