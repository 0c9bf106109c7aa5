"""Tasks on Ray's workers: it places them, gives each its cores or part of a GPU, and says which have died."""

import os
from collections.abc import Hashable, Sequence
from typing import Any

from kdrepro.errors import InputError, needed
from kdrepro.executors.options import Options
from kdrepro.executors.tasks import DiedError, Packed, Shared, carry_out, this_worker


class RayCluster:
    """A Ray cluster: the one at `options.address` or RAY_ADDRESS, else one of this machine alone, started here.

    Raises InputError where Ray is not installed or does not start, and where no node has room for a worker.
    """

    def __init__(self, options: Options):
        self.ray = ray = needed("ray", "ray", "--executor ray")
        self.options = options
        # Of this process, whose own prints are the notebook's: Ray's lines would stand among its outputs.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        quiet = {"log_to_driver": False, "logging_level": "error", "ignore_reinit_error": True}
        address = options.address or os.environ.get("RAY_ADDRESS")
        try:
            ray.init(address, **quiet, **({} if address else {"include_dashboard": False}))
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"at {address}" if address else "on this machine"
            first = str(error).strip().splitlines()[0]
            raise InputError(f"No Ray cluster {where} answers ({first}): see `ray status` there.") from None
        needs = {"CPU": options.threads, "GPU": options.gpus}
        self.workers = _room(ray.nodes(), needs)
        if not self.workers:
            self.close()
            raise InputError(
                f"No node of the Ray cluster has {needs['CPU']} CPUs and {needs['GPU']:g} GPUs for a worker: ask for "
                "fewer threads or gpus in the executor's options."
            )
        self.workers = min(self.workers, options.workers or self.workers)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self.board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
        resources = {"num_cpus": options.threads, "num_gpus": options.gpus}
        # A worker that has died is this run's business, which says so in the log; see `Workers`.
        self.remote = ray.remote(**resources, max_retries=0)(_carry_out)
        self.parts: dict[str, Any] = {}
        self.running: dict[Any, str] = {}

    def share(self, shared: Shared) -> None:
        """See `Cluster`: once into Ray's object store, from where each node fetches it once."""
        self.parts[shared.token] = self.ray.put(shared.content)

    def submit(self, tasks: Sequence[Packed]) -> Sequence[Hashable]:
        """See `Cluster`."""
        handles = [
            self.remote.options(name=task.name).remote(task, [self.parts.get(task.token)], self.board) for task in tasks
        ]
        self.running |= dict.fromkeys(handles, "")
        return handles

    def ended(self, seconds: float) -> Sequence[tuple[Hashable, BaseException | None]]:
        """See `Cluster`."""
        done, _ = self.ray.wait(list(self.running), timeout=seconds)
        for handle in done:
            del self.running[handle]
        return [(handle, self._error(handle)) for handle in done]

    def _error(self, handle: Any) -> BaseException | None:
        errors = self.ray.exceptions
        try:
            return self.ray.get(handle)
        except errors.RayTaskError as error:
            if not isinstance(error.cause, Exception):
                return RuntimeError(str(error))
            if not isinstance(error.cause, InputError):
                error.cause.add_note(f"In a worker:\n{error}")
            return error.cause
        except errors.RayError as error:  # the worker, its node, or what it was sent is gone
            return DiedError(type(error).__name__)

    def lines(self) -> Sequence[str]:
        """See `Cluster`."""
        try:
            return self.ray.get(self.board.take.remote())
        except self.ray.exceptions.RayError:  # it only shows progress
            return []

    def close(self) -> None:
        """See `Cluster`."""
        for handle in getattr(self, "running", ()):
            self.ray.cancel(handle, force=True)
        self.ray.shutdown()


def _room(nodes: Sequence[dict[str, Any]], needs: dict[str, float]) -> int:
    """How many workers with these needs all nodes together have room for."""
    found = 0
    for node in nodes:
        if node["Alive"]:
            has = node["Resources"]
            found += int(min(has.get(name, 0) / number for name, number in needs.items() if number))
    return found


def _carry_out(packed: Packed, part: list[Any], board: Any) -> InputError | None:
    """In a worker's process. part: a reference to what the task shares with others, which Ray does not look into."""
    import ray

    name = this_worker()
    return carry_out(packed, lambda token: ray.get(part[0]), lambda line: board.add.remote(f"[{name}] {line}"))


class _Board:
    """Where workers leave lines of progress and the driver takes them: an actor on the driver's node."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Leave a line."""
        self.lines.append(line)

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self.lines = self.lines, []
        return lines
