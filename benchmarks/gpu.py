"""What a machine with a GPU is for, in pieces of at most eight minutes that go on where the last one ended.

    python benchmarks/gpu.py                                      # tests, benchmark, full: one after the other
    python benchmarks/gpu.py full --out FOLDER --processes 16     # a piece of the chapters at full; again, until done
    python benchmarks/gpu.py full --chapters 03 04 --tune --confirm    # of some, with their searches and fresh seeds
    python benchmarks/gpu.py pack --out FOLDER                    # what is new, into archives; full does it by itself
    python benchmarks/gpu.py unpack FOLDER                        # on another machine: archives into runs and store

A few chapters run beside each other, and each has its networks trained by processes that stay (`--executor processes`).
They share a store, so that each network is trained once. It ends with one sentence where PyTorch sees no GPU. Exit code
3 says that a piece ended for its time, and that the same command goes on.
"""

import argparse
import json
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
from typing import Any, Literal, NamedTuple

import archives
import torch

from kdrepro import paths
from kdrepro.chapters import presets, searches
from kdrepro.chapters.sizes import Specialised
from kdrepro.errors import InputError
from kdrepro.executors import options as executing
from kdrepro.store import Store
from kdrepro.verdicts import records

SECONDS = 8 * 60  # of a piece
AGAIN = 3  # the exit code of a piece that ended for its time
STEPS = {  # the benchmark is a quick one: what it has when its time ends is lost
    "tests": "-m pytest -q -n0 --device cuda tests/training tests/chapters/test_experiments.py "
    "tests/chapters/test_committees.py",
    "bench": "benchmarks/bench.py --quick --device cuda",
}
LATER = ("01-dark-knowledge", "07-distil-back", "08-pitfalls", "09-after-2015")  # other chapters' networks teach these
SPECIALISED = [name for name, sizes in presets.CHAPTERS.items() if issubclass(sizes, Specialised)]
AT_ONCE = 4  # parts: while one looks at what it has trained, the others' processes train
MPS = "nvidia-cuda-mps-control"
LOOKING, TELLING, PACKING = 0.2, 15.0, 60.0  # seconds between two looks at the parts, two lines, two packs
ENDING = 20.0  # seconds that parts have to end in
LINES = 8  # of what a part that failed said


class Part(NamedTuple):
    """What one process runs: a chapter, its searches, or the chapter once more with fresh seeds."""

    chapter: str
    what: Literal["run", "tune", "confirm"] = "run"

    @property
    def name(self) -> str:
        """As lines and its log's file name it."""
        return self.chapter if self.what == "run" else f"{self.chapter}.{self.what}"

    def is_done(self, run: Path) -> bool:
        """Whether a preset's runs have what it makes."""
        if self.what == "tune":
            return _has_searches(run, self.chapter)
        return records.has_run(run / "confirm" if self.what == "confirm" else run, self.chapter)


def _has_searches(run: Path, chapter: str) -> bool:
    """Whether every search of a chapter has been run to its end."""
    wanted = getattr(presets.load(run.name).chapters[chapter], "searches", {})
    places = [searches.place_in(run, chapter, name) for name in wanted]
    return all(path.exists() and not searches.missing(json.loads(path.read_bytes())) for path in places)


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


def parts(run: Path, chapters: Sequence[str] = tuple(presets.CHAPTERS), also: Sequence[str] = ()) -> list[Part]:
    """What is to be run, in this order: chapter 2, on which others wait, those that need no other, the rest.

    also: "tune", "confirm", of the same chapters, after all of these. Nothing that is done.
    """
    wanted = sorted(chapters, key=lambda name: (name != "02-mnist", name in LATER, name))
    found = [Part(chapter, what) for what in ("run", *also) for chapter in wanted]
    return [part for part in found if not part.is_done(run)]


def data_of(chapter: str) -> str:
    """The kind of data that a chapter prepares before it trains, in minutes; "" for none."""
    return "speech" if presets.is_speech(chapter) else "images" if chapter in SPECIALISED else ""


def is_ready(part: Part, running: Iterable[Part], run: Path) -> bool:
    """Whether a part finds its data prepared, or is the one that prepares them: one does that for all.

    And whether nothing else of its chapter runs, which would write into the same log.
    """
    data = data_of(part.chapter)
    alike = [name for name in presets.CHAPTERS if data_of(name) == data]
    prepared = any((run / "logs" / f"{name}.log").exists() for name in alike)
    busy = {one.chapter for one in running}
    return part.chapter not in busy and (not data or prepared or busy.isdisjoint(alike))


def command(part: Part, preset: str = "full", device: str = "cuda", options: Sequence[str] = ()) -> list[str]:
    """A part as a command of the book's own command line."""
    what = {"run": ["run"], "tune": ["tune"], "confirm": ["run", "--confirm"]}[part.what]
    return [sys.executable, "-m", "kdrepro", *what, part.chapter, "--preset", preset, "--device", device, *options]


def start(part: Part, command: Sequence[str], run: Path, more: Mapping[str, str]) -> subprocess.Popen:
    """Start a part; what it says goes into `logs/parts` of the run, the folder of the preset's runs.

    more: environment.
    """
    # A small network takes less time here than the states of its training take to be written.
    environment = {"KDREPRO_CHECKPOINTS": "off", **os.environ, "OMP_NUM_THREADS": "1", **more}
    log = said(part, run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        # In a session of its own: a Ctrl-C of the terminal reaches this process, which interrupts its parts.
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def trained_by(folder: Path, workers: int) -> dict[str, str]:
    """The environment in which each part has so many processes that train; their options go into a folder."""
    path = folder / "workers.yaml"
    path.write_text(f"workers: {workers}\n")
    return executing.as_environment("processes", str(path), None)


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
    at_once: int,
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
                if len(running) < at_once and is_ready(part, running):
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
    also: Sequence[str] = (),
    options: Sequence[str] = (),
) -> int:
    """Chapters as parts beside each other; what they make is packed into `out` every minute and at the end.

    processes: that train, of all parts together. also: see `parts`. options: of each part's command. Returns 0 when all
    is done, AGAIN when time was over, 1 when a part failed.
    """
    run, store, until = paths.runs(preset), Store(paths.store(preset)), time.monotonic() + seconds
    tell, pack = every(TELLING, print_standing), every(PACKING, lambda: packed(run, store, out))
    shown: set[Part] = set()
    todo = parts(run, chapters, also)
    at_once = max(1, min(AT_ONCE, len(todo), processes))

    def look(running: Sequence[Part], waiting: Sequence[Part], codes: Mapping[Part, int], left: float) -> None:
        for part in [part for part, code in codes.items() if code and part not in shown]:
            end = said(part, run).read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]
            print(f"gpu: {part.name} failed (exit code {codes[part]}):", *end, sep="\n    ", flush=True)
            shown.add(part)
        tell(running, waiting, codes, left)
        pack()

    try:
        with tempfile.TemporaryDirectory(prefix="gpu-") as name, sharing_gpu(Path(name)) as more:
            more = more | trained_by(Path(name), processes // at_once)
            work(
                todo,
                lambda part: start(part, command(part, preset, device, options), run, more),
                lambda part, running: is_ready(part, running, run),
                at_once,
                until - time.monotonic(),
                look,
            )
    finally:
        packed(run, store, out, last=True)
    left = [part.name for part in parts(run, chapters, also)]
    if not left:
        print("gpu: all is done.")
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
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that train; one a core unless given")
    parser.add_argument("--chapters", nargs="+", default=list(presets.CHAPTERS), help="of full; all unless given")
    parser.add_argument("--tune", action="store_true", help="run the chapters' searches too, after them")
    parser.add_argument("--confirm", action="store_true", help="and, last, the chapters with fresh seeds")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return do(given)
    except InputError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def do(given: argparse.Namespace) -> int:
    """Do a step, or all; returns the exit code. Raises InputError."""
    step, folder, seconds, out = given.step, given.folder, given.seconds, given.out or paths.runs("full") / "archives"
    chapters = [presets.check_chapter(chapter) for chapter in given.chapters]
    also = [what for what in ("tune", "confirm") if getattr(given, what)]
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
    while (code := full(seconds, out, given.processes, chapters=chapters, also=also)) == AGAIN and not step:
        pass
    return code


if __name__ == "__main__":
    sys.exit(main())
