"""Tasks go out when what they need is there, are tried again where their worker has died, and fail with a reason."""

import threading

import pytest

from kdrepro.errors import InputError
from kdrepro.executors import Task


def noting(name, gives, needs=()):
    return Task(name, lambda desk: desk.tell(name), tuple(gives), frozenset(needs))


def test_tasks_wait_for_what_they_need_and_for_nothing_else(workers, here):
    cluster, said = here(), []
    team = workers(cluster, said.append)
    team.add([noting("student", ["s"], ["t"]), noting("plain", ["p"]), noting("teacher", ["t"])])
    team.add([noting("grandchild", ["g"], ["s", "elsewhere"])])
    for key in "gspt":
        team.wait(key)
    assert sorted(cluster.order) == ["grandchild", "plain", "student", "teacher"]
    assert cluster.order.index("teacher") < cluster.order.index("student") < cluster.order.index("grandchild")
    team.close()
    assert set(said) == set(cluster.order)
    assert cluster.closed == 1


def test_what_is_ready_does_not_wait_for_others(workers, here):
    """While one task runs on, another that needs nothing of it comes and goes, and so does what needs that."""
    go_on, cluster, slow = threading.Event(), here(), []
    real_submit, real_ended = cluster.submit, cluster.ended

    def submit(packed):
        if packed[0].name == "slow":
            slow.append(object())
            return [*slow, *(real_submit(packed[1:]))]
        return real_submit(packed)

    def ended(seconds):
        return real_ended(seconds) + [(slow.pop(), None) for _ in range(len(slow)) if go_on.is_set()]

    cluster.ended, cluster.submit = ended, submit
    team = workers(cluster)
    team.add([noting("slow", ["slow"])])
    team.add([noting("a", ["a"])])
    team.add([noting("b", ["b"], ["a"]), noting("c", ["c"], ["slow"])])
    team.wait("b")
    assert team.knows("slow")
    assert "c" not in cluster.order
    go_on.set()
    team.wait("c")


def test_a_task_whose_worker_dies_is_tried_again_in_its_own_name(workers, here):
    cluster, said = here(dying=2), []
    team = workers(cluster, said.append, retries=2)
    team.add([noting("teacher", ["t"])])
    team.wait("t")
    assert cluster.order == ["teacher"] * 3
    assert list(cluster.tries.values()) == [3]
    assert sum("its worker has died" in line for line in said) == 2


def test_one_that_dies_too_often_is_one_sentence(workers, here):
    team = workers(here(dying=9), retries=1)
    team.add([noting("teacher", ["t"]), noting("student", ["s"], ["t"])])
    for key in "st":
        with pytest.raises(InputError, match="its worker has died 2 times"):
            team.wait(key)


def test_what_a_task_raises_reaches_whoever_waits_and_what_needs_it_does_not_start(workers, here):
    def diverge(desk):
        raise InputError("The training loss is nan.")

    cluster = here()
    team = workers(cluster)
    team.add([noting("student", ["s"], ["t"]), Task("teacher", diverge, ("t",))])
    with pytest.raises(InputError, match="loss is nan"):
        team.wait("s")
    assert cluster.order == ["teacher"]
    assert cluster.closed == 1


def test_a_cluster_that_breaks_reaches_whoever_waits(workers, here):
    cluster = here()
    cluster.submit = lambda packed: 1 / 0
    team = workers(cluster)
    team.add([noting("teacher", ["t"])])
    with pytest.raises(ZeroDivisionError):
        team.wait("t")


def test_workers_that_were_ended_say_so_and_keep_nobody_waiting(workers, here):
    """As after Ctrl-C in a notebook, whose next cell asks for another network."""
    cluster = here()
    cluster.ended = lambda seconds: []  # it works, and works
    team = workers(cluster)
    team.add([noting("teacher", ["t"])])
    team.close()
    for ask in (lambda: team.wait("t"), lambda: team.add([noting("student", ["s"])])):
        with pytest.raises(InputError, match="The workers were ended"):
            ask()


def test_what_was_done_before_the_workers_were_ended_is_there(workers, here):
    team = workers(here())
    team.add([noting("teacher", ["t"])])
    team.wait("t")
    team.close()
    team.wait("t")


def test_what_is_shared_is_sent_once(workers, here):
    from kdrepro.executors.tasks import Shared

    cluster, value = here(), {"images": "x" * 5000}
    shared, team = Shared(value), workers(cluster)
    team.add([Task(f"t{i}", lambda desk: value, (f"{i}",), shared=shared) for i in range(3)])
    team.add([Task("t3", lambda desk: value, ("3",), shared=shared)])
    for i in range(4):
        team.wait(f"{i}")
    assert list(cluster.parts) == [shared.token]  # `Here.share` refuses a second time
