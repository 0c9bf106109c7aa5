"""Processes that work on one store, for the tests that kill them or let several work at once.

    python tests/working_processes.py ROOT KILLS

fills ROOT/alone, where one process works undisturbed; ROOT/killed, where one after the other is killed at a random
moment; and ROOT/several, where four work at once. It prints how many seeds ROOT/killed has. Importing PyTorch
takes longer than all of that work: this process imports it once and forks those that work.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # an optimiser's first step would import it

from kdrepro import training
from kdrepro.store import Store
from kdrepro.verdicts import records

EPOCHS = 12
CASES = 40
# The same seeds in the same order, in another order, and others of its own.
SEVERAL = ((0, 1, 2, 3), (0, 1, 2, 3), (3, 2, 1, 0), (4, 5))


def config(seed: int) -> dict:
    return {"network": {"widths": [6, 5, 3], "hidden_dropout": 0.3}, "seed": seed}


def work(root: Path, seeds: Iterable[int]) -> None:
    """For every seed a training, arrays and a record: all the kinds of files that a run writes."""
    torch.set_num_threads(1)
    address = os.environ.get("WORKING_STORE")  # an S3's, in the place of a folder
    store = Store(f"{address}/{root.name}" if address else root / "store")
    for seed in seeds:
        network = store.train_or_load(config(seed), train_with(seed))
        found = store.compute_or_load(scores(seed), lambda network=network: {"logits": logits(network)})
        name = f"{seed}"
        record = {"chapter": name, "preset": "p", "data": {"name": "d"}, "claims": {}, "provenance": {}}
        records.write(root / "results" / f"{name}.json", record, found)


def train_with(seed: int) -> Callable:
    def train(network, checkpoint):
        inputs, labels = cases()
        batches = training.Batches(inputs, labels, batch_size=20)
        recipe = training.Recipe(epochs=EPOCHS, learning_rate=0.05, precision="fp32")
        training.fit(network, batches, training.hard_targets, recipe, seed=seed, checkpoint=checkpoint)

    return train


def scores(seed: int) -> dict:
    return {"scores": config(seed)}


def cases() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(CASES, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def logits(network: torch.nn.Module) -> np.ndarray:
    return training.logits(network, cases()[0]).numpy()


def fork(root: Path, seeds: Iterable[int]) -> int:
    """Work in a process of its own, which exits with 0 when it has done all; returns its id once it has begun."""
    begun, say = os.pipe()
    pid = os.fork()
    if pid:
        os.close(say)
        os.read(begun, 1)
        os.close(begun)
        return pid
    code = 1
    try:
        os.write(say, b"x")
        work(root, seeds)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_often(root: Path, kills: int, seconds: float) -> int:
    """Kill working processes at random moments; returns how many seeds were begun, all of which are then finished.

    Seeds without end, so that the last kill meets work too. seconds: what one takes undisturbed, so that a slow machine
    gets on too.
    """
    chance = random.Random(kills)
    for _ in range(kills):
        pid = fork(root, count())
        time.sleep(chance.uniform(0.0, 1.5 * seconds))
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
    seeds = len(list((root / "results").glob("*.json"))) + 1
    assert exit_code(fork(root, range(seeds))) == 0
    return seeds


def main() -> None:
    root, kills = Path(sys.argv[1]), int(sys.argv[2])
    began, first = time.monotonic(), range(len({seed for order in SEVERAL for seed in order}))
    assert exit_code(fork(root / "alone", first)) == 0
    seeds = kill_often(root / "killed", kills, (time.monotonic() - began) / len(first))
    assert exit_code(fork(root / "alone", range(seeds))) == 0
    together = [fork(root / "several", order) for order in SEVERAL]
    assert [exit_code(pid) for pid in together] == [0] * len(together)
    print(seeds)


if __name__ == "__main__":
    main()
