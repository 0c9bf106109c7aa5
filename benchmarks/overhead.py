"""What it costs to train elsewhere: chapter 2's requests here and on workers, and a simulation of many.

    python benchmarks/overhead.py                         # at smoke, on a Ray of this machine, two workers
    python benchmarks/overhead.py --preset full --workers 2             # hours; on an idle machine
    python benchmarks/overhead.py --preset full --workers 2 --epochs 2 --seeds 1  # minutes: fewer, shorter trainings
    python benchmarks/overhead.py --simulate 100000 1000  # the driver alone: networks, workers

Here two groups train side by side in this process, as many as PyTorch has threads: give it as many as workers.
Each run starts from an empty store. Ray's start is timed apart, since a run has it once. What workers cost more than
threads does not grow with the epochs (a task sent, a teacher loaded, leases, entries), so shorter trainings show it in
fewer minutes, and as a larger share than it is of long ones.
"""

import argparse
import heapq
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from kdrepro import chapters, executors
from kdrepro.executors import Task, Workers, options

STACK = 10  # networks of a simulated task
MEAN_SECONDS = 120.0  # of a simulated task


def requests(run, epochs: int | None) -> int:
    """Ask for chapter 2's networks as its first cells do, wait for all, and count them. epochs: of each, at most."""
    sizes = run.sizes
    if epochs is not None:
        sizes = sizes.model_copy(
            update={name: getattr(sizes, name).but(epochs=epochs) for name in ("teacher", "plain", "distilled")}
        )
    teachers = run.train_seeds(sizes.teacher, name="teacher")
    wanted = [run.request(sizes.plain, seed, name="plain") for seed in run.seeds]
    wanted += [run.request(sizes.distilled, s, t, "distilled") for s, t in zip(run.seeds, teachers, strict=True)]
    for width in sizes.widths:
        changes = {"hidden": width.hidden, "epochs": epochs or width.epochs, "learning_rate": width.learning_rate}
        for temperature in sizes.temperatures:
            plan = sizes.distilled.but(temperature=temperature, **changes)
            wanted += [run.request(plan, s, t, f"T {temperature}") for s, t in zip(run.seeds, teachers, strict=True)]
    for net in run.train_many(wanted):
        _ = net.history
    return len(teachers) + len(wanted)


def timed(preset: str, executor: str, workers: int, epochs: int | None, seeds: int | None) -> tuple[float, int]:
    """Seconds of the requests in an empty store, Ray's start left out, and their number."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"KDREPRO_RUNS": folder, options.NAME: executor}
        run = chapters.start("02-mnist", preset=preset, seeds=seeds)
        if run.workers is not None:
            run.workers.options = run.workers.options.model_copy(update={"workers": workers})
            _ = run.workers.count  # starts the cluster
            warm_up(run.workers, workers)
        start = time.perf_counter()
        count = requests(run, epochs)
        took = time.perf_counter() - start
        if run.workers is not None:
            run.workers.close()
        return took, count


def warm_up(workers: Workers, count: int) -> None:
    """Have each worker import what it needs."""

    def work(desk) -> None:
        import kdrepro.chapters  # noqa: F401

        time.sleep(1)

    workers.add([Task(f"warm {i}", work, (f"warm {i}",)) for i in range(count)])
    for i in range(count):
        workers.wait(f"warm {i}")


class Simulated:
    """Workers that take their time and do nothing. clock: their seconds, which pass only while all of them work."""

    def __init__(self, workers: int):
        self.workers, self.clock = workers, 0.0
        self.queue, self.running, self.handles = [], [], itertools.count()
        self.seconds = torch.distributions.Exponential(1 / MEAN_SECONDS)

    def share(self, shared) -> None:
        """Nothing is sent."""

    def submit(self, tasks) -> list[int]:
        """Into a queue, as Ray's or Slurm's."""
        found = [next(self.handles) for _ in tasks]
        self.queue += found
        return found

    def ended(self, seconds: float) -> list[tuple[int, None]]:
        """The next to end, all at the clock's next moment."""
        while self.queue and len(self.running) < self.workers:
            heapq.heappush(self.running, (self.clock + float(self.seconds.sample()), self.queue.pop()))
        until, done = self.clock + seconds, []
        while self.running and self.running[0][0] <= until:
            done.append((heapq.heappop(self.running)[1], None))
        self.clock = until if done or not self.running else self.running[0][0]
        return done

    def lines(self) -> list[str]:
        """They say nothing."""
        return []

    def close(self) -> None:
        """Nothing runs."""


def simulate(networks: int, workers: int) -> None:
    """Students of a hundred teachers in stacks, through the real driver; prints its seconds beside the workers'."""
    torch.manual_seed(0)
    cluster, folder = Simulated(workers), Path(tempfile.gettempdir())
    driver = Workers(options.Options(executor="ray"), folder, lambda line: None, cluster)
    teachers = [f"teacher {i}" for i in range(100)]
    tasks = [Task(name, print, (name,)) for name in teachers]
    for i in range(networks // STACK):
        keys = tuple(f"{i}-{k}" for k in range(STACK))
        tasks.append(Task(f"students {i}", print, keys, frozenset([teachers[i % 100]])))
    start = time.process_time()
    driver.add(tasks)
    for task in tasks:
        driver.wait(task.gives[0])
    took = time.process_time() - start
    driver.close()
    ideal = len(tasks) * MEAN_SECONDS / workers
    print(
        f"{networks:,} networks in {len(tasks):,} tasks on {workers:,} workers: {cluster.clock / 3600:.2f} h of theirs "
        f"({ideal / 3600:.2f} h if none ever waited); the driver worked {took:.1f} s, {1e6 * took / len(tasks):.0f} "
        f"microseconds a task, {100 * took / cluster.clock:.2f} % of that time."
    )


def main() -> None:
    """Measure, or simulate, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--executor", default="ray", choices=[n for n in executors.options.NAMES if n != "local"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--simulate", type=int, nargs=2, metavar=("NETWORKS", "WORKERS"))
    parser.add_argument("--epochs", type=int, help="of each network, in place of the preset's")
    parser.add_argument("--seeds", type=int, help="in place of the preset's")
    given = parser.parse_args()
    if given.simulate:
        return simulate(*given.simulate)
    torch.set_num_threads(given.workers)
    here, _ = timed(given.preset, "local", given.workers, given.epochs, given.seeds)
    there, count = timed(given.preset, given.executor, given.workers, given.epochs, given.seeds)
    epochs = f", {given.epochs} epochs each" if given.epochs else ""
    print(
        f"chapter 2's {count} networks at {given.preset}{epochs}: {here:.1f} s here on {given.workers} threads, "
        f"{there:.1f} s on {given.workers} workers of {given.executor}: {100 * (there / here - 1):+.1f} %, "
        f"{(there - here) / count:+.2f} s a network."
    )
    return None


if __name__ == "__main__":
    sys.exit(main())
