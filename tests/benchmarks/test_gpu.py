"""What `make gpu` does: parts beside each other, pieces that end for their time, a sentence without a GPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import archives
import gpu
import pytest
import torch

from kdrepro import paths
from kdrepro.chapters import presets
from kdrepro.publishing import book
from kdrepro.store import Store
from kdrepro.verdicts import claims

PARTS = [gpu.Part(chapter) for chapter in ("02-mnist", "01-dark-knowledge", "08-pitfalls", "09-after-2015")]
PARTS += [gpu.Part("02-mnist", "tune"), gpu.Part("02-mnist", "confirm")]


class Process:
    """A fake one: it ends after so many looks, with this code."""

    def __init__(self, looks, code=0):
        self.looks, self.code, self.returncode, self.signals = looks, code, None, []

    def poll(self):
        self.looks -= 1
        self.returncode = self.code if self.looks <= 0 else None
        return self.returncode

    def send_signal(self, number):
        self.signals.append(number)

    def wait(self, seconds=None):
        if self.signals != [signal.SIGINT]:
            raise AssertionError("nobody has interrupted it")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(gpu, "LOOKING", 0.01)


def always(part, running):
    return True


def test_without_a_gpu_it_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "sees no GPU" in said


def test_a_step_ends_for_its_time_or_with_its_own_code():
    assert gpu.for_at_most([sys.executable, "-c", "import time; time.sleep(60)"], 0.5) == gpu.AGAIN
    assert gpu.for_at_most([sys.executable, "-c", "raise SystemExit(7)"], 60) == 7


def test_chapter_2_comes_first_and_searches_and_fresh_seeds_come_last():
    found = gpu.parts(paths.runs("full"), also=["tune", "confirm"])
    count = len(presets.CHAPTERS)
    chapters = [part.chapter for part in found[:count]]
    assert chapters[0] == "02-mnist"
    assert sorted(chapters[-len(gpu.LATER) :]) == sorted(gpu.LATER)
    assert [part.what for part in found[:count]] == ["run"] * count
    searched = [name for name in chapters if getattr(presets.load("full").chapters[name], "searches", None)]
    assert found[count:] == [gpu.Part(name, "tune") for name in searched] + [gpu.Part(n, "confirm") for n in chapters]
    assert gpu.parts(paths.runs("full"), ["03-acoustic-ensemble"]) == [gpu.Part("03-acoustic-ensemble")]


def put(folder: Path, chapter: str) -> None:
    for name in (f"notebooks/{chapter}.ipynb", f"results/{chapter}.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_what_is_done_is_not_run_again():
    run = paths.runs("full")
    put(run, "02-mnist")
    put(run / "confirm", "08-pitfalls")
    (run / "results" / "09-after-2015.json").write_text("{}")  # its notebook is not written yet
    (run / "searches").mkdir()
    students = presets.load("full").chapters["01-dark-knowledge"].searches["less data"].students
    search = {"plans": {"students": {name: {} for name in students}}, "rows": []}
    place = run / "searches" / "01-dark-knowledge.less-data.json"
    place.write_text(json.dumps(search))
    found = gpu.parts(run, also=["tune", "confirm"])
    assert gpu.Part("02-mnist") not in found
    assert gpu.Part("02-mnist", "tune") in found
    assert gpu.Part("08-pitfalls") in found
    assert gpu.Part("08-pitfalls", "confirm") not in found
    assert gpu.Part("09-after-2015") in found
    assert gpu.Part("01-dark-knowledge", "tune") in found  # begun
    place.write_text(json.dumps(search | {"rows": [{"teacher": "", "student": name} for name in students]}))
    assert gpu.Part("01-dark-knowledge", "tune") not in gpu.parts(run, also=["tune"])


def test_at_most_so_many_run_at_once_in_their_order():
    started, most = [], []

    def start(part):
        started.append(part)
        return Process(looks=2)

    def tell(running, waiting, codes, left):
        most.append(len(running))
        assert len(running) + len(waiting) + len(codes) == len(PARTS)

    gpu.work(PARTS, start, always, 2, 60, tell)
    assert started == PARTS
    assert max(most) == 2


def test_a_part_that_is_not_ready_lets_others_pass():
    started = []

    def start(part):
        started.append(part)
        return Process(looks=2)

    gpu.work(PARTS, start, lambda part, running: part != PARTS[1] or not running, 6, 60, lambda *_: None)
    assert started == [PARTS[0], *PARTS[2:], PARTS[1]]


def test_data_are_prepared_by_one_part_alone():
    run = paths.runs("full")
    speech, also, images = gpu.Part("03-acoustic-ensemble"), gpu.Part("04-soft-targets"), gpu.Part("05-specialists")
    assert gpu.is_ready(speech, [images, PARTS[0]], run)
    assert not gpu.is_ready(also, [speech], run)
    assert gpu.is_ready(PARTS[1], [PARTS[0]], run)  # MNIST is read as it is
    assert not gpu.is_ready(gpu.Part("02-mnist", "tune"), [PARTS[0]], run)  # they would write into one log
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "03-acoustic-ensemble.log").touch()  # it trains
    assert gpu.is_ready(also, [speech], run)


def test_when_time_is_over_what_runs_is_interrupted():
    processes = []

    def start(part):
        processes.append(Process(looks=10**9))
        return processes[-1]

    gpu.work(PARTS, start, always, 3, 0.1, lambda *_: None)
    assert [process.signals for process in processes] == [[signal.SIGINT]] * 3


def test_what_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(gpu, "ENDING", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    process.stdout.readline()
    gpu.end([process])
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def fake_parts(monkeypatch, script):
    """Have every part run this script instead, with a part's name as its argument."""
    monkeypatch.setattr(gpu, "command", lambda part, *_: [sys.executable, "-c", script, part.name])


def test_parts_have_logs_of_their_own_and_processes_that_train(tmp_path):
    run = paths.runs("smoke")
    seen = "import os; from kdrepro.executors import options; found = options.from_environment();"
    seen += "print(os.environ['KDREPRO_CHECKPOINTS'], os.environ['OMP_NUM_THREADS'], found.executor, found.workers)"
    command = [sys.executable, "-c", seen]
    for part in PARTS[-2:]:
        assert gpu.start(part, command, run, gpu.trained_by(tmp_path, 3)).wait() == 0
        assert gpu.said(part, run).read_text() == "off 1 processes 3\n"
    assert gpu.said(PARTS[-1], run).name == "02-mnist.confirm.log"


def test_parts_are_commands_that_the_command_line_knows():
    for part in PARTS[-3:]:
        asked = gpu.command(part, "smoke", "cpu", ["--help"])
        assert subprocess.run(asked, capture_output=True, check=True).stdout
    assert gpu.command(PARTS[-1])[3:] == ["run", "--confirm", "02-mnist", "--preset", "full", "--device", "cuda"]


def test_a_part_that_is_killed_is_reported(monkeypatch, tmp_path, capsys):
    fake_parts(monkeypatch, "import os, sys; print('begins', sys.argv[1], flush=True); os.kill(os.getpid(), 9)")
    assert gpu.full(60, tmp_path / "out", 2, preset="smoke", chapters=["08-pitfalls"], also=["confirm"]) == 1
    said = capsys.readouterr().out
    for name in ("08-pitfalls", "08-pitfalls.confirm"):
        assert f"gpu: {name} failed (exit code -9):\n    begins {name}\n" in said
    assert "not done: 08-pitfalls, 08-pitfalls.confirm." in said
    assert archives.archives(tmp_path / "out")


def test_time_over_in_the_middle_is_said_and_what_is_there_is_packed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "TELLING", 0.1)
    fake_parts(monkeypatch, "import time; print('trains', flush=True); time.sleep(60)")
    put(paths.runs("smoke") / "confirm", "02-mnist")
    asked = {"chapters": ["08-pitfalls", "02-mnist"], "also": ["confirm"]}
    assert gpu.full(2, tmp_path / "out", 2, preset="smoke", **asked) == gpu.AGAIN
    said = capsys.readouterr().out
    assert "gpu: parts: 2 run, 1 wait, 0 done, 0 failed; " in said
    assert "time is over; the same command goes on with 02-mnist, 08-pitfalls, 08-pitfalls.confirm." in said
    assert archives.archives(tmp_path / "out")


def test_packing_that_fails_ends_no_training(tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    put(paths.runs("smoke"), "08-pitfalls")
    gpu.packed(paths.runs("smoke"), Store(paths.store("smoke")), tmp_path / "out")
    assert "gpu: not packed: " in capsys.readouterr().err


def test_sigterm_interrupts_the_parts_and_packs(tmp_path):
    """The whole program, with parts that only wait."""
    code = (
        "import sys, gpu; gpu.check_gpu = lambda: None;"
        "gpu.command = lambda *_: [sys.executable, '-c', \"print('waits', flush=True); import time; time.sleep(600)\"];"
        f"sys.argv = ['gpu.py', 'full', '--out', {str(tmp_path / 'out')!r}, '--processes', '2']; sys.exit(gpu.main())"
    )
    where = {"PYTHONPATH": os.pathsep.join([str(Path(gpu.__file__).parent), str(paths.ROOT)])}
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | where)
    said = gpu.said(gpu.Part("02-mnist"), paths.runs("full"))
    while not (said.exists() and said.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 130
    assert archives.archives(tmp_path / "out")


def put_control(folder: Path, code: int) -> None:
    """A control of MPS that writes down how it is called."""
    folder.mkdir(exist_ok=True)
    script = f'#!/bin/sh\necho "$@ $CUDA_MPS_PIPE_DIRECTORY" >> {folder}/calls\n[ -z "$1" ] && cat >> {folder}/calls\n'
    (folder / gpu.MPS).write_text(f"{script}exit {code}\n")
    (folder / gpu.MPS).chmod(0o755)


@pytest.mark.parametrize("code", [0, 1])
def test_mps_is_ended_where_it_began(tmp_path, monkeypatch, code):
    put_control(tmp_path / "bin", code)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    seen = []

    def interrupted():
        with gpu.sharing_gpu(tmp_path) as more:
            seen.append(more.get("CUDA_MPS_PIPE_DIRECTORY"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == [str(tmp_path) if code == 0 else None]
    calls = (tmp_path / "bin" / "calls").read_text()
    assert calls == f"-d {tmp_path}\n" + (f" {tmp_path}\nquit\n" if code == 0 else "")


def test_without_mps_parts_run_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu.sharing_gpu(tmp_path) as more:
        assert more == {}


@pytest.mark.slow
def test_a_chapter_that_processes_train_goes_to_another_machine(tmp_path, monkeypatch):
    run, small = paths.runs("smoke"), {"preset": "smoke", "device": "cpu", "options": ["--seeds", "1"]}
    assert gpu.full(600, tmp_path / "out", 2, chapters=["08-pitfalls"], **small) == 0
    record = json.loads((run / "results" / "08-pitfalls.json").read_text())
    assert set(record["claims"]) == {of.id for of in claims.load().values() if of.chapter == "08-pitfalls"}
    assert record["provenance"]["executor"] == "processes"
    trained = [key for key in os.listdir(run / "store") if (run / "store" / key / "entry.json").exists()]
    assert set(record["claims"]["pitfalls.scale"]["nets"]["keys"]) <= set(trained)

    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path / "elsewhere"))
    there = paths.runs("smoke")
    assert archives.unpack(tmp_path / "out", there, Store(paths.store("smoke"))) == (len(trained), [])
    for name in ("results/08-pitfalls.json", "results/08-pitfalls.npz", "notebooks/08-pitfalls.ipynb"):
        assert (there / name).read_bytes() == (run / name).read_bytes()
    assert gpu.parts(there, ["08-pitfalls"]) == []
    assert book.verify("smoke").wrong == []
