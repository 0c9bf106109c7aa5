"""Processes of this machine, killed in the middle; and what is wrong with options, in one sentence."""

import functools
import multiprocessing
import os
import pickle
import signal
import threading
import time

import pytest

from kdrepro import executors, paths
from kdrepro.errors import InputError
from kdrepro.executors import Task, options, tasks
from kdrepro.files import atomic_write


@pytest.fixture(params=["processes", "submitit-local"])
def executor(request):
    """Each that works on this machine; the second starts a process for every task."""
    if request.param == "submitit-local":
        pytest.importorskip("submitit", reason="submitit is not installed")
    return request.param


@pytest.fixture
def jobs(tmp_path, executor):
    """Makes workers that are processes of this machine."""
    made = []

    def make(tell=lambda line: None, **given):
        made.append(executors.Workers(options.Options(executor=executor, **given), tmp_path, tell))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_no_slurm_here_is_one_sentence(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed")
    if "SLURM_JOB_ID" in os.environ:
        pytest.skip("Slurm is here")
    with pytest.raises(InputError, match="--executor slurm cannot start"):
        executors.Workers(options.Options(executor="slurm"), tmp_path, print).add([Task("t", print, ("k",))])


@pytest.mark.parametrize("executor", ["submitit-local"], indirect=True)
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
@pytest.mark.parametrize("executor", ["submitit-local"], indirect=True)
def test_a_job_is_not_answered_by_an_older_one_of_the_same_number(jobs, tmp_path):
    """submitit names a job of this machine by its process's number, which comes back: after a restart, soon."""
    answer = pickle.dumps(("success", None))
    (tmp_path / "jobs").mkdir()
    for number in range(os.getpid(), os.getpid() + 3000):
        (tmp_path / "jobs" / f"{number}_0_result.pkl").write_bytes(answer)
        (tmp_path / "jobs" / f"{number}_0_log.out").write_text("kdrepro| [older] done\n")
    before, said = sorted((tmp_path / "jobs").iterdir()), []
    team = jobs(said.append, workers=1)
    team.add([Task("t", lambda desk: (tmp_path / "done").touch(), ("k",))])
    team.wait("k")
    team.close()
    assert (tmp_path / "done").exists()
    assert not said
    assert sorted((tmp_path / "jobs").iterdir()) == before  # what this run's jobs needed is gone


@pytest.mark.slow
def test_a_process_stays_for_the_next_task(tmp_path):
    """It unpacks once what tasks share; another one takes its place when it dies."""
    seen, shared = tmp_path / "seen", tasks.Shared({"a": 1})

    def note(value, desk):
        with seen.open("a") as file:
            file.write(f"{os.getpid()} {id(value)}\n")

    def die_once(value, desk):
        if not (dead := tmp_path / "dead").exists():
            dead.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    team = executors.Workers(options.Options(executor="processes", workers=1, retries=1), tmp_path, print)
    for i, work in enumerate([note, note, die_once, note]):
        team.add([Task(f"{i}", functools.partial(work, shared.value), (f"{i}",), shared=shared)])
        team.wait(f"{i}")
    team.close()
    first, second, third = seen.read_text().splitlines()
    assert first == second
    assert third.split()[0] != first.split()[0]


class StrangeError(Exception):
    """One that cannot be unpacked."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@pytest.mark.slow
def test_an_error_that_does_not_travel_is_told_in_its_words(jobs):
    def fail(desk):
        raise StrangeError("no", "luck")

    team = jobs(workers=1, retries=0)
    team.add([Task("fails", fail, ("a",))])
    with pytest.raises(RuntimeError, match="StrangeError: no luck"):
        team.wait("a")


@pytest.mark.slow
def test_a_driver_that_is_killed_takes_its_processes_with_it(tmp_path, executor):
    """Else they train on for nobody, since no signal that ends the driver reaches them."""
    driver = multiprocessing.get_context("spawn").Process(target=drive_until_killed, args=(tmp_path, executor))
    driver.start()
    told = tmp_path / "worker"
    assert waited_for(told.exists, 60)
    worker = int(told.read_text())
    assert is_running(worker)
    driver.kill()
    driver.join()
    assert waited_for(lambda: not is_running(worker), 60)


def drive_until_killed(folder, executor):
    """Have a process write its number into a file, and then sleep."""

    def work(desk):
        atomic_write(folder / "worker", str(os.getpid()).encode())
        time.sleep(600)

    team = executors.Workers(options.Options(executor=executor), folder, print)
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
def test_a_killed_process_is_replaced_and_the_numbers_are_the_same(
    monkeypatch, executor, run_chapter_2, in_this_process
):
    """`kill -9` as soon as a training has saved its state: another process goes on with it, to the same bits.

    Of one seed, since a job of submitit is a process that starts anew.
    """
    monkeypatch.setenv(options.NAME, executor)
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
