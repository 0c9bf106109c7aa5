"""Ray: its errors in one sentence, a task, and a cluster of two nodes of which one is killed in the middle."""

import os
import signal
import threading
import time

import pytest

from kdrepro import executors, paths
from kdrepro.errors import InputError
from kdrepro.executors import Task, options

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch):
    """A task of these tests is unpacked from this file's module, which workers have not got: send it by value."""
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU; the driver's and another."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    def refuse(address, **_):
        raise ConnectionError("Could not find any running Ray instance.\nAnd more.")

    monkeypatch.setattr(ray, "init", refuse)
    workers = executors.Workers(options.Options(executor="ray", address="auto"), tmp_path, print)
    with pytest.raises(InputError, match=r"No Ray cluster at auto answers .*see `ray status` there") as error:
        workers.add([Task("t", print, ("k",))])
    assert "\n" not in str(error.value)


def test_a_task_on_ray(tmp_path):
    """On a Ray of this machine's own: it is done elsewhere, on the threads asked for, and what it says comes back."""
    said = []

    def work(desk):
        import torch

        desk.tell(f"{os.getpid()} {torch.get_num_threads()} {desk.owner.partition(',')[2]}")

    workers = executors.Workers(options.Options(executor="ray", workers=1), tmp_path, said.append)
    try:
        workers.add([Task("t", work, ("k",))])
        workers.wait("k")
        end = time.monotonic() + 30
        while not said and time.monotonic() < end:  # what a worker has said may come a moment after it is done
            time.sleep(0.05)
    finally:
        workers.close()
    (line,) = said
    name, pid, threads, owner = line.split(" ", 3)
    assert name.endswith(f"/{pid}]")
    assert int(pid) != os.getpid()
    assert (threads, owner.strip()) == ("1", "task 0")
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_node_that_is_killed_is_replaced_and_the_record_is_the_same(
    cluster, monkeypatch, run_chapter_2, in_this_process
):
    """`kill -9` of a node and its workers in the middle of a training: the other node goes on with it."""
    monkeypatch.setenv(options.NAME, "ray")
    monkeypatch.setenv(options.ADDRESS, cluster.address)
    killed = []
    killer = threading.Thread(target=kill_node, args=(cluster.second, killed), daemon=True)
    killer.start()
    assert run_chapter_2() == in_this_process
    killer.join(60)
    assert killed
    log = (paths.runs("smoke") / "logs" / "02-mnist.log").read_text()
    assert "its worker has died; it goes on from the last checkpoint on another" in log


def kill_node(node, killed: list[int]) -> None:
    """Kill a node's processes while one of its workers trains a network of which there is a state already."""
    from kdrepro.store import leases

    raylet = node.all_processes["raylet"][0].process.pid
    store, end = paths.store("smoke"), time.monotonic() + 120
    while time.monotonic() < end:
        mine = children(raylet)
        for checkpoint in store.glob("*/checkpoint.safetensors"):
            try:
                process = leases.parse((checkpoint.parent / leases.LEASE).read_bytes()).get("process")
            except FileNotFoundError:
                continue
            if process in mine:
                killed.append(process)
                for pid in (raylet, *mine):
                    os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
