"""What a chapter's kernel gains from keeping the memory that it has freed (`kernel.MEMORY`): images a second of `fit`.

    python benchmarks/memory.py            # two minutes
    python benchmarks/memory.py --threads 2 --repeats 9

Processes with the setting and without it run in turn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import convolutions
import torch

from kdrepro import training
from kdrepro.networks import MLP, ConvNet
from kdrepro.publishing.kernel import MEMORY

BATCH, EPOCHS, CLASSES = 256, 4, 10
# Of chapters 5 and 2: a net with the shape of its images, and how many steps of an epoch take about two seconds.
NETS = {
    "ConvNet 32-64-128-256": (lambda: ConvNet(**convolutions.NET), (3, 32, 32), 8),
    "MLP 784-1200-1200-10": (
        lambda: MLP([784, 1200, 1200, CLASSES], input_dropout=0.2, hidden_dropout=0.35),
        (28, 28),
        80,
    ),
}


def images_per_second(name: str, threads: int) -> float:
    """Of one net's training in this process, its first epoch left out."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    make, shape, steps = NETS[name]
    images = torch.randint(256, (steps * BATCH, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    ends = []
    training.fit(
        make(),
        training.Batches(images, labels, batch_size=BATCH),
        training.hard_targets,
        training.Recipe(epochs=EPOCHS, batch_size=BATCH),
        progress=lambda row: ends.append(time.perf_counter()),
    )
    return len(images) * (EPOCHS - 1) / (ends[-1] - ends[0])


def of_a_process(name: str, threads: int, setting: str) -> float:
    """The same in a process of its own, whose C library has this setting; "" for none."""
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    command = [sys.executable, __file__, "--threads", str(threads), "--one", name]
    given = environment | ({"GLIBC_TUNABLES": setting} if setting else {})
    return float(subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=NETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(images_per_second(args.one, args.threads))
        return
    for name in NETS:
        kept, left = [], []
        for _ in range(args.repeats):
            left.append(of_a_process(name, args.threads, ""))
            kept.append(of_a_process(name, args.threads, MEMORY))
        ratio = statistics.median(a / b for a, b in zip(kept, left, strict=True))
        rates = f"{statistics.median(kept):,.0f} images/s with it, {statistics.median(left):,.0f} without"
        print(f"{name}, {args.threads} thread(s): {rates}, {ratio:.2f} times as many")


if __name__ == "__main__":
    main()
