"""Tasks as jobs of Slurm, or as processes of this machine, by submitit: it writes the scripts and reads the answers."""

import logging
import os
import threading
import time
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdrepro import paths
from kdrepro.errors import InputError, needed
from kdrepro.executors.options import Options
from kdrepro.executors.tasks import DiedError, Packed, Shared, carry_out, end_with, this_worker
from kdrepro.files import atomic_write, writing

MARK = "kdrepro| "  # before a line of progress among what else a job prints
JOBS = 100  # of Slurm at once, unless the options say otherwise


class Jobs:
    """Jobs of submitit: of Slurm for `slurm`, processes of this machine for `submitit-local`.

    Raises InputError where submitit is not installed, there is no Slurm, its options are wrong, or the folder cannot be
    written.
    """

    def __init__(self, options: Options, run: Path):
        submitit = needed("submitit", "slurm", f"--executor {options.executor}")
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self.local = options.executor == "submitit-local"
        self.folder = paths.expanded(options.folder) if options.folder else run / "jobs"
        self.own: TemporaryDirectory | None = None
        self.workers = options.workers or ((os.cpu_count() or 1) if self.local else JOBS)
        given = {"timeout_min": 24 * 60} | options.submitit
        if not self.local:
            given = {"cpus_per_task": options.threads, "slurm_array_parallelism": self.workers} | given
            given |= {"gpus_per_node": int(options.gpus)} if options.gpus else {}
        try:
            with writing(f"jobs to {self.folder}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                if self.local:  # whose jobs bear their processes' numbers, which come back: old files would answer
                    self.own = TemporaryDirectory(prefix="here-", dir=self.folder, ignore_cleanup_errors=True)
                    self.folder = Path(self.own.name)
                (self.folder / "shared").mkdir(exist_ok=True)
            cluster = "local" if self.local else "slurm"
            self.executor = submitit.AutoExecutor(self.folder, cluster=cluster)
            self.executor.update_parameters(**given)
        except (RuntimeError, TypeError, NameError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            if self.own:
                self.own.cleanup()
            raise InputError(f"--executor {options.executor} cannot start ({error}): correct its options.") from None
        self.submitit = submitit
        self.queue: list[tuple[str, Packed]] = []  # of processes of this machine, which has no queue of its own
        self.jobs: dict[str, Any] = {}
        self.read: dict[str, int] = {}  # of each job's lines, how much
        self.last: list[str] = []
        self.count = 0

    def share(self, shared: Shared) -> None:
        """See `Cluster`: a file in the folder, which the jobs must see too."""
        path = self._part(shared.token)
        if not path.exists():
            with writing(f"what jobs need to {path}"):
                atomic_write(path, shared.content)

    def _part(self, token: str) -> Path:
        return self.folder / "shared" / f"{token or 'nothing'}.pickle"

    def submit(self, tasks: Sequence[Packed]) -> Sequence[Hashable]:
        """See `Cluster`: what comes together is one array of jobs."""
        handles = [f"{self.count + i}" for i in range(len(tasks))]
        self.count += len(tasks)
        self.queue += zip(handles, tasks, strict=True)
        self._start()
        return handles

    def _start(self) -> None:
        """Hand over what is queued, as far as this machine is to do at once; Slurm has a queue of its own."""
        room = self.workers - len(self.jobs) if self.local else len(self.queue)
        now, self.queue = self.queue[: max(0, room)], self.queue[max(0, room) :]
        with self.executor.batch() if len(now) > 1 and not self.local else nullcontext():
            driver = os.getpid() if self.local else None
            submitted = [self.executor.submit(Job(task, self._part(task.token), driver)) for _, task in now]
        for (handle, _), job in zip(now, submitted, strict=True):
            self.jobs[handle], self.read[handle] = job, 0

    def ended(self, seconds: float) -> Sequence[tuple[Hashable, BaseException | None]]:
        """See `Cluster`."""
        time.sleep(seconds)
        done = [handle for handle, job in self.jobs.items() if job.done()]
        self.last = [line for handle in done for line in self._printed(handle)]  # before they are forgotten
        found = [(handle, self._error(self.jobs.pop(handle))) for handle in done]
        self._start()
        return found

    def _error(self, job: Any) -> BaseException | None:
        try:
            return job.result()
        except self.submitit.core.utils.FailedJobError as error:
            return RuntimeError(str(error))
        except self.submitit.core.utils.UncompletedJobError as error:
            return DiedError(" ".join(str(error).split())[:200])

    def lines(self) -> Sequence[str]:
        """See `Cluster`: what the jobs have printed."""
        last, self.last = self.last, []
        return [*last, *(line for handle in self.jobs for line in self._printed(handle))]

    def _printed(self, handle: str) -> list[str]:
        try:
            with Path(self.jobs[handle].paths.stdout).open("rb") as file:
                file.seek(self.read[handle])
                content = file.read()
        except OSError:  # not begun
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.read[handle] += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]

    def close(self) -> None:
        """See `Cluster`."""
        for job in self.jobs.values():
            job.cancel(check=False)
        if self.own:  # Slurm may still put a job into its queue again, and its log is nowhere else
            self.own.cleanup()


class Job:
    """A task as submitit pickles it. Before Slurm ends a job for its time it is put into the queue again.

    driver: the process on whose machine and for which alone it works, whose end is its own; None for a job of Slurm.
    """

    def __init__(self, packed: Packed, part: Path, driver: int | None = None):
        self.packed, self.part, self.driver = packed, part, driver

    def __call__(self) -> InputError | None:
        """Do the task; see `tasks.carry_out`."""
        name = this_worker()
        if self.driver is not None:
            threading.Thread(target=end_with, args=(self.driver,), daemon=True).start()
        return carry_out(
            self.packed, lambda token: self.part.read_bytes(), lambda line: print(f"{MARK}[{name}] {line}", flush=True)
        )

    def checkpoint(self) -> Any:
        """The same again: a training goes on from its own checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
