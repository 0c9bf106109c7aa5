"""What a machine with a GPU is for, in pieces of at most eight minutes that go on where the last one ended.

    python benchmarks/gpu.py                  # tests, benchmark, full, pack: one after the other
    python benchmarks/gpu.py full             # a piece of the chapters at full; again, until it says that all are done
    python benchmarks/gpu.py pack             # records and predictions, in archives below 16 MB

It ends with one sentence where PyTorch sees no GPU. Exit code 3 says that a piece ended for its time, and that the same
command goes on.
"""

import argparse
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kdrepro import paths
from kdrepro.chapters import presets
from kdrepro.errors import InputError

SECONDS = 8 * 60  # of a piece
ARCHIVE_BYTES = 16_000_000
AGAIN = 3  # the exit code of a piece that ended for its time
STEPS = ("tests", "bench", "full", "pack")


def check_gpu() -> None:
    """Raises InputError where there is no GPU that PyTorch can use."""
    if not torch.cuda.is_available():
        raise InputError("PyTorch sees no GPU here: `make gpu` is for a machine that has one; `make full` needs none.")


def for_at_most(command: Sequence[str], seconds: float) -> int | None:
    """Run a command; its exit code, or None where it was interrupted, as by Ctrl-C, for its time."""
    # A small network takes less time here than the states of its training take to be written.
    process = subprocess.Popen(list(command), env={"KDREPRO_CHECKPOINTS": "off", **os.environ})
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # what it has trained is kept all the same
            process.kill()
            process.wait()
        return None


def kdrepro(*arguments: str) -> list[str]:
    """A command of the book's own command line."""
    return [sys.executable, "-m", "kdrepro", *arguments]


def tests(seconds: float) -> int:
    """The tests that train, on the GPU."""
    files = [
        "tests/training",
        "tests/chapters/test_experiments.py",
        "tests/chapters/test_committees.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "--device", "cuda", *files]
    code = for_at_most(command, seconds)
    return AGAIN if code is None else code


def bench(seconds: float) -> int:
    """The benchmark; what it has when its time ends is lost, so it is a quick one."""
    code = for_at_most([sys.executable, "benchmarks/bench.py", "--quick", "--device", "cuda"], seconds)
    return AGAIN if code is None else code


def full(seconds: float, run: Callable[[Sequence[str], float], int | None] = for_at_most) -> int:
    """The chapters at full, one after the other; those that have a record are done."""
    import time

    end = time.monotonic() + seconds
    for chapter in sorted(presets.CHAPTERS, key=lambda name: (name != "02-mnist", name)):
        if list((paths.runs("full") / "results").glob(f"{chapter}*.json")):
            continue
        code = run(kdrepro("run", chapter, "--preset", "full", "--device", "cuda"), max(1.0, end - time.monotonic()))
        if code is None:
            print(f"gpu: time is over in {chapter}; the same command goes on there.")
            return AGAIN
        if code:
            return code
    print("gpu: all chapters are done at full.")
    return 0


def pack(run: Path, most: int = ARCHIVE_BYTES) -> list[Path]:
    """Records and predictions of a run in archives `results-<n>.tar` of at most so many bytes each.

    A file that is larger than that alone is left out, and named. Returns the archives.
    """
    found = sorted(path for path in (run / "results").glob("*") if path.suffix in (".json", ".npz"))
    for path in [path for path in found if _packed_bytes(path) > most]:
        print(f"gpu: {path.name} is larger than {most / 1e6:.0f} MB and is left out.", file=sys.stderr)
        found.remove(path)
    archives: list[Path] = []
    while found:
        size, taken = 10_240, []  # an archive's end
        while found and size + _packed_bytes(found[0]) <= most:
            size += _packed_bytes(found[0])
            taken.append(found.pop(0))
        archives.append(run / f"results-{len(archives)}.tar")
        with tarfile.open(archives[-1], "w") as archive:
            for path in taken:
                archive.add(path, arcname=f"results/{path.name}")
        if not taken:
            break
    return archives


def _packed_bytes(path: Path) -> int:
    return 1024 + 512 * -(-path.stat().st_size // 512)  # its header, and what fills its last block


def main() -> int:
    """Do the steps; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", nargs="?", choices=STEPS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a piece")
    given = parser.parse_args()
    try:
        check_gpu()
    except InputError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    for step in [given.step] if given.step else STEPS:
        if step == "pack":
            for archive in pack(paths.runs("full")):
                print(archive)
            continue
        code = {"tests": tests, "bench": bench, "full": full}[step](given.seconds)
        while code == AGAIN and step == "full" and given.step is None:
            code = full(given.seconds)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
