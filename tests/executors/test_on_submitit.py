"""Processes of this machine by submitit, killed in the middle; and what is wrong with options, in one sentence."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from kdrepro import executors, paths
from kdrepro.errors import InputError
from kdrepro.executors import Task, options
from kdrepro.files import atomic_write

submitit = pytest.importorskip("submitit", reason="submitit is not installed")


@pytest.fixture
def jobs(tmp_path):
    """Makes workers that are processes of this machine."""
    made = []

    def make(tell=lambda line: None, **given):
        made.append(executors.Workers(options.Options(executor="submitit-local", **given), tmp_path, tell))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_no_slurm_here_is_one_sentence(tmp_path):
    if "SLURM_JOB_ID" in os.environ:
        pytest.skip("Slurm is here")
    with pytest.raises(InputError, match="--executor slurm cannot start"):
        executors.Workers(options.Options(executor="slurm"), tmp_path, print).add([Task("t", print, ("k",))])


def test_options_that_submitit_does_not_know_are_one_sentence(jobs):
    with pytest.raises(InputError, match=r"cannot start \(.*timeout_minutes"):
        jobs(submitit={"timeout_minutes": 3}).add([Task("t", print, ("k",))])


@pytest.mark.slow
def test_what_a_process_says_and_how_it_fails(jobs):
    """And no more at once than were asked for."""
    said = []

    def bad(desk):
        desk.tell("hello")
        raise InputError("The loss is nan.")

    team = jobs(said.append, workers=1, retries=0)
    team.add([Task("bad", bad, ("a",)), Task("gone", lambda desk: os.kill(os.getpid(), signal.SIGKILL), ("b",))])
    with pytest.raises(InputError, match="loss is nan"):
        team.wait("a")
    assert [line.rpartition(" ")[2] for line in said] == ["hello"]
    team = jobs(said.append, retries=1)
    team.add([Task("gone", lambda desk: os.kill(os.getpid(), signal.SIGKILL), ("b",))])
    with pytest.raises(InputError, match="its worker has died 2 times"):
        team.wait("b")


@pytest.mark.slow
def test_a_driver_that_is_killed_takes_its_processes_with_it(tmp_path):
    """Else they train on for nobody, since no signal that ends the driver reaches them."""
    driver = multiprocessing.get_context("spawn").Process(target=drive_until_killed, args=(tmp_path,))
    driver.start()
    told = tmp_path / "worker"
    assert waited_for(told.exists, 60)
    worker = int(told.read_text())
    assert is_running(worker)
    driver.kill()
    driver.join()
    assert waited_for(lambda: not is_running(worker), 60)


def drive_until_killed(folder):
    """Have a process write its number into a file, and then sleep."""

    def work(desk):
        atomic_write(folder / "worker", str(os.getpid()).encode())
        time.sleep(600)

    team = executors.Workers(options.Options(executor="submitit-local"), folder, print)
    team.add([Task("sleeper", work, ("a",))])
    team.wait("a")


def is_running(process):
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def waited_for(condition, seconds):
    """Whether something becomes true in so many seconds."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_numbers_are_the_same(monkeypatch, run_chapter_2, in_this_process):
    """`kill -9` as soon as a training has saved its state: another process goes on with it, to the same bits.

    Of one seed, since each job is a process that starts anew.
    """
    monkeypatch.setenv(options.NAME, "submitit-local")
    killed = []
    killer = threading.Thread(target=kill_one, args=(killed,), daemon=True)
    killer.start()
    found = run_chapter_2(seeds=1)
    assert found["networks"].items() <= in_this_process["networks"].items()
    for claim, entry in found["claims"].items():
        assert entry["metrics"]["errors"] == in_this_process["claims"][claim]["metrics"]["errors"][:1]
    killer.join(60)
    assert killed
    log = (paths.runs("smoke") / "logs" / "02-mnist.log").read_text()
    assert "its worker has died" in log  # whichever network it trained


def kill_one(killed: list[int]) -> None:
    """Kill the process that trains a network of which there is a state already."""
    from kdrepro.store import Store, leases

    store = paths.store("smoke")
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for checkpoint in store.glob("*/checkpoint.safetensors"):
            lease = Store(store).place.read(f"{checkpoint.parent.name}/{leases.LEASE}")
            if lease is not None and leases.parse(lease).get("process") != os.getpid():
                killed.append(leases.parse(lease)["process"])
                os.kill(killed[0], signal.SIGKILL)
                return
        time.sleep(0.01)
