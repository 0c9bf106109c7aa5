"""What two processes tell each other while they train, counted as it happens: PyTorch's gloo, on this machine."""

import copy
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PROCESSES = 2
# Whatever a process may tell another by: calls of all of these are counted.
COLLECTIVES = (
    *("all_reduce", "broadcast", "reduce", "all_gather", "gather", "scatter", "reduce_scatter", "all_to_all"),
    *("send", "recv", "barrier", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single"),
)


@dataclass(frozen=True)
class Exchange:
    """What one of the processes counted.

    steps: optimiser's steps of a network, in which were: synchronisations, times that it waited for the other process,
    and bytes_sent, bytes that it handed over. bytes_before: bytes handed over before the first step.
    """

    steps: int
    synchronisations: int
    bytes_sent: int
    bytes_before: int


@dataclass(frozen=True)
class Job:
    """Networks to train on two processes.

    networks: with their initial weights. cases: of each network inputs (floats, [N, ...]) and labels [N], N a multiple
    of batch_size; each batch is a step. together: whether both processes train every network, on half of each batch
    with averaged gradients (data-parallel, as `DistributedDataParallel` does it); else every network is trained by one
    of them on its own.
    """

    networks: Sequence[nn.Module]
    cases: Sequence[tuple[torch.Tensor, torch.Tensor]]
    batch_size: int
    together: bool
    learning_rate: float = 1e-3


def count_exchange(jobs: Mapping[str, Job]) -> dict[str, Exchange]:
    """Train the jobs' networks on two new processes, one job after the other, and count what these exchange.

    Before a job begins, its networks' weights are sent from the first process to the second. The networks that are
    given stay as they are. Raises what a process raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, (folder, dict(jobs)), nprocs=PROCESSES)
        found = json.loads((Path(folder) / "counted.json").read_bytes())
    return {name: Exchange(**counted) for name, counted in found.items()}


class _Counter:
    """Counts what is handed to the process group."""

    def __init__(self) -> None:
        self.events = self.bytes = 0

    def note(self, tensor: Any) -> None:
        self.events += 1
        self.bytes += tensor.numel() * tensor.element_size() if isinstance(tensor, torch.Tensor) else 0

    def hook(self, group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """DistributedDataParallel's: averages a bucket of gradients over the processes."""
        self.note(bucket.buffer())
        reduced = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
        return reduced.then(lambda future: future.value()[0])

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Every call of `torch.distributed` that exchanges something, counted; the hook's own is counted there."""
        before = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}
        for name, function in before.items():
            setattr(dist, name, self._counted(function))
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(dist, name, function)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **also: Any) -> Any:
            if not also.get("async_op"):  # the hook's, which is counted already
                self.note(given[0] if given else None)
            return function(*given, **also)

        return counted


def _work(rank: int, folder: str, jobs: Mapping[str, Job]) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    if loopback := [name for _, name in socket.if_nameindex() if name.startswith("lo")]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])  # a machine's own name may lead nowhere
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    try:
        # Copies: what a parent process hands over lies in memory that both share.
        own = {name: replace(job, networks=copy.deepcopy(list(job.networks))) for name, job in jobs.items()}
        counted = {name: asdict(_trained(job, rank)) for name, job in own.items()}
        if rank == 0:
            (Path(folder) / "counted.json").write_text(json.dumps(counted))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _trained(job: Job, rank: int) -> Exchange:
    """Train a job's networks, or this process's part of them."""
    before, during, steps = _Counter(), _Counter(), 0
    with before.counting():
        for network in job.networks:
            for parameter in network.parameters():
                dist.broadcast(parameter.data, 0)
    mine = range(len(job.networks)) if job.together else range(rank, len(job.networks), PROCESSES)
    with during.counting():
        for i in mine:
            inputs, labels = (tensor.split(job.batch_size) for tensor in job.cases[i])
            network: nn.Module = job.networks[i].train()
            if job.together:
                # Nothing goes round the hook: weights are alike, and batch normalisation stays each process's own.
                network = DistributedDataParallel(network, broadcast_buffers=False, init_sync=False)
                network.register_comm_hook(None, during.hook)
                inputs, labels = ([t.chunk(PROCESSES)[rank] for t in parts] for parts in (inputs, labels))
            optimizer = torch.optim.SGD(network.parameters(), lr=job.learning_rate)
            for x, y in zip(inputs, labels, strict=True):
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                optimizer.step()
                steps += 1
    return Exchange(steps, during.events, during.bytes, before.bytes)
