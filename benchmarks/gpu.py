"""What a machine with a GPU is for, in pieces of at most eight minutes that go on where the last one ended.

    python benchmarks/gpu.py                                      # tests, benchmark, full: one after the other
    python benchmarks/gpu.py full --out FOLDER --processes 16     # a piece of the chapters at full; again, until done
    python benchmarks/gpu.py pack --out FOLDER                    # what is new, into archives; full does it by itself
    python benchmarks/gpu.py unpack FOLDER                        # on another machine: archives into runs and store

A chapter at full is run as parts beside each other: the whole chapter, and each of its claims alone. They share a
store, so that the whole finds its networks there or waits for them. It ends with one sentence where PyTorch sees no
GPU. Exit code 3 says that a piece ended for its time, and that the same command goes on.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import archives
import torch

from kdrepro import paths
from kdrepro.chapters import presets
from kdrepro.chapters.sizes import Specialised
from kdrepro.errors import InputError
from kdrepro.store import Store
from kdrepro.verdicts import claims, records

SECONDS = 8 * 60  # of a piece
AGAIN = 3  # the exit code of a piece that ended for its time
STEPS = {  # the benchmark is a quick one: what it has when its time ends is lost
    "tests": "-m pytest -q -n0 --device cuda tests/training tests/chapters/test_experiments.py "
    "tests/chapters/test_committees.py",
    "bench": "benchmarks/bench.py --quick --device cuda",
}
LATER = ("01-dark-knowledge", "07-distil-back", "08-pitfalls", "09-after-2015")  # other chapters' networks teach these
SPECIALISED = [name for name, sizes in presets.CHAPTERS.items() if issubclass(sizes, Specialised)]
SHARED = ("store", "corpora", "images", "claims")  # folders of a preset's runs that all parts have in common
MPS = "nvidia-cuda-mps-control"
LOOKING, TELLING, PACKING = 0.2, 15.0, 60.0  # seconds between two looks at the parts, two lines, two packs
ENDING = 20.0  # seconds that parts have to end in
LINES = 8  # of what a part that failed said


class Part(NamedTuple):
    """What one process runs: a whole chapter, or what a claim needs of it."""

    chapter: str
    claim: str = ""

    @property
    def name(self) -> str:
        """As lines and its log's file name it."""
        return self.claim or self.chapter


def check_gpu() -> None:
    """Raises InputError where there is no GPU that PyTorch can use."""
    if not torch.cuda.is_available():
        raise InputError("PyTorch sees no GPU here: `make gpu` is for a machine that has one; `make full` needs none.")


def for_at_most(command: Sequence[str], seconds: float) -> int:
    """Run a command; its exit code, or AGAIN where it was interrupted, as by Ctrl-C, for its time."""
    process = subprocess.Popen(list(command))
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return AGAIN
    finally:
        end([process])


def end(processes: Sequence[Any]) -> None:
    """Interrupt those that still run, as by Ctrl-C, and kill what does not end; what was trained is kept."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + ENDING
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def parts(run: Path, chapters: Sequence[str] = tuple(presets.CHAPTERS)) -> list[Part]:
    """What is to be run, in this order: chapter 2, on which others wait, those that need no other, the rest.

    Of each the whole first, then its claims; nothing of a chapter that is done, nor a claim that is.
    """
    wanted = sorted(chapters, key=lambda name: (name != "02-mnist", name in LATER, name))
    found = [
        part
        for chapter in wanted
        if not records.has_run(run, chapter)
        for part in [Part(chapter), *(Part(chapter, of.id) for of in claims.load().values() if of.chapter == chapter)]
    ]
    return [part for part in found if not (part.claim and records.has_run(run / "claims" / part.claim, part.chapter))]


def data_of(chapter: str) -> str:
    """The kind of data that a chapter prepares before it trains, in minutes; "" for none."""
    return "speech" if presets.is_speech(chapter) else "images" if chapter in SPECIALISED else ""


def is_ready(part: Part, running: Iterable[Part], run: Path) -> bool:
    """Whether a part finds its data prepared, or is the one that prepares them: one does that for all."""
    data = data_of(part.chapter)
    alike = [name for name in presets.CHAPTERS if data_of(name) == data]
    prepared = any((run / "logs" / f"{name}.log").exists() for name in alike)
    return not data or prepared or all(one.chapter not in alike for one in running)


def command(part: Part, preset: str = "full", device: str = "cuda", options: Sequence[str] = ()) -> list[str]:
    """A part as a command of the book's own command line."""
    what = ["reproduce", part.claim] if part.claim else ["run", part.chapter]
    return [sys.executable, "-m", "kdrepro", *what, "--preset", preset, "--device", device, *options]


def start(part: Part, command: Sequence[str], run: Path, folder: Path, more: Mapping[str, str]) -> subprocess.Popen:
    """Start a part; what it says goes into `logs/parts` of the run. A claim has runs of its own, in `folder`.

    run: the folder of the preset's runs, which has what all parts share. more: environment.
    """
    # A small network takes less time here than the states of its training take to be written.
    environment = {"KDREPRO_CHECKPOINTS": "off", **os.environ, "OMP_NUM_THREADS": "1", **more}
    if part.claim:
        own = folder / part.claim / run.name
        own.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            (run / name).mkdir(parents=True, exist_ok=True)
            (own / name).symlink_to((run / name).resolve())
        environment["KDREPRO_RUNS"] = str(folder / part.claim)
    log = said(part, run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        # In a session of its own: a Ctrl-C of the terminal reaches this process, which interrupts its parts.
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def said(part: Part, run: Path) -> Path:
    """The file of what a part says."""
    return run / "logs" / "parts" / f"{part.name}.log"


@contextmanager
def sharing_gpu(folder: Path) -> Iterator[dict[str, str]]:
    """CUDA's MPS, by which the kernels of several processes run at once; yields the environment that they need.

    Nothing where it is not installed or does not start: processes then take turns. folder: of its pipe and its log.
    """
    there = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    environment = {**os.environ, **there}
    if not shutil.which(MPS) or subprocess.run([MPS, "-d"], env=environment).returncode:
        print("gpu: there is no MPS here: the parts take turns on the GPU.", flush=True)
        yield {}
        return
    try:
        yield there
    finally:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([MPS], input=b"quit\n", env=environment, timeout=ENDING)


def work(
    waiting: Sequence[Part],
    start: Callable[[Part], Any],
    is_ready: Callable[[Part, Iterable[Part]], bool],
    processes: int,
    seconds: float,
    tell: Callable[..., None],
) -> None:
    """Run parts in their order, at most so many at once, for so many seconds; however it ends, none runs on.

    tell: called a few times a second with those that run, those that wait, the exit codes of those that have ended, and
    the seconds that are left.
    """
    until, running, codes, waiting = time.monotonic() + seconds, {}, {}, list(waiting)
    try:
        while (waiting or running) and time.monotonic() < until:
            for part in list(waiting):
                if len(running) < processes and is_ready(part, running):
                    waiting.remove(part)
                    running[part] = start(part)
            for part in [part for part, process in running.items() if process.poll() is not None]:
                codes[part] = running.pop(part).returncode
            tell(list(running), waiting, codes, until - time.monotonic())
            time.sleep(LOOKING)
    finally:
        end(list(running.values()))


def every(seconds: float, do: Callable[..., None]) -> Callable[..., None]:
    """A function that, called often, does something at most so often."""
    last = time.monotonic()

    def now_and_then(*arguments: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            do(*arguments)
            last = time.monotonic()

    return now_and_then


def print_standing(running: Sequence[Part], waiting: Sequence[Part], codes: Mapping[Part, int], left: float) -> None:
    """One line: how many parts run, wait and are done."""
    failed = sum(map(bool, codes.values()))
    counts = f"{len(running)} run, {len(waiting)} wait, {len(codes) - failed} done, {failed} failed"
    print(f"gpu: parts: {counts}; {left:.0f} s left.", flush=True)


def packed(run: Path, store: Store, out: Path, last: bool = False) -> None:
    """Pack what is new, and say into which archives; what cannot be written ends no training."""
    try:
        for path in archives.pack(run, store, out, last=last):
            print(f"gpu: {path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    except (InputError, OSError) as error:
        print(f"gpu: not packed: {error}", file=sys.stderr, flush=True)


def full(
    seconds: float,
    out: Path,
    processes: int,
    preset: str = "full",
    device: str = "cuda",
    chapters: Sequence[str] = tuple(presets.CHAPTERS),
    options: Sequence[str] = (),
) -> int:
    """Chapters as parts beside each other; what they make is packed into `out` every minute and at the end.

    options: of each part's command. Returns 0 when all chapters are done, AGAIN when time was over, 1 when one failed.
    """
    run, store, until = paths.runs(preset), Store(paths.store(preset)), time.monotonic() + seconds
    tell, pack = every(TELLING, print_standing), every(PACKING, lambda: packed(run, store, out))
    shown: set[Part] = set()

    def look(running: Sequence[Part], waiting: Sequence[Part], codes: Mapping[Part, int], left: float) -> None:
        for part in [part for part, code in codes.items() if code and part not in shown]:
            end = said(part, run).read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]
            print(f"gpu: {part.name} failed (exit code {codes[part]}):", *end, sep="\n    ", flush=True)
            shown.add(part)
        tell(running, waiting, codes, left)
        pack()

    try:
        with tempfile.TemporaryDirectory(prefix="gpu-") as name, sharing_gpu(Path(name)) as more:
            work(
                parts(run, chapters),
                lambda part: start(part, command(part, preset, device, options), run, Path(name), more),
                lambda part, running: is_ready(part, running, run),
                processes,
                until - time.monotonic(),
                look,
            )
    finally:
        packed(run, store, out, last=True)
    left = [chapter for chapter in chapters if not records.has_run(run, chapter)]
    if not left:
        print("gpu: all chapters are done.")
        return 0
    over = time.monotonic() >= until
    print(f"gpu: {'time is over; the same command goes on with' if over else 'not done:'} {', '.join(left)}.")
    return AGAIN if over else 1


def main() -> int:
    """Do the steps; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", nargs="?", choices=[*STEPS, "full", "pack", "unpack"])
    parser.add_argument("folder", nargs="?", type=Path, help="of unpack: where the archives are")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a piece")
    parser.add_argument("--out", type=Path, help="where archives go; runs/full/archives unless given")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once; one a core unless given")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return do(
            given.step, given.folder, given.seconds, given.out or paths.runs("full") / "archives", given.processes
        )
    except InputError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def do(step: str | None, folder: Path | None, seconds: float, out: Path, processes: int) -> int:
    """Do a step, or all; returns the exit code. Raises InputError."""
    if (step == "unpack") != (folder is not None):
        raise InputError("Name the folder of the archives after `unpack`, and after nothing else.")
    run, store = paths.runs("full"), Store(paths.store("full"))
    if step == "unpack":
        copied, left = archives.unpack(folder, run, store)
        print(f"gpu: unpacked into {run}; networks that the store had not got: {copied}.", *left, sep="\n")
        return int(bool(left))
    if step == "pack":
        packed(run, store, out, last=True)
        return 0
    check_gpu()
    for name in [step] if step in STEPS else [] if step else STEPS:
        code = for_at_most([sys.executable, *STEPS[name].split()], seconds)
        if code or step:
            return code
    while (code := full(seconds, out, processes)) == AGAIN and not step:
        pass
    return code


if __name__ == "__main__":
    sys.exit(main())
