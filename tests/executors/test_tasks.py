"""Tasks travel as bytes: what they share once, and a worker of other versions refuses them."""

import functools
import threading
from dataclasses import replace

import pytest
import torch

from kdrepro.errors import DivergedError, InputError
from kdrepro.executors import tasks
from kdrepro.executors.tasks import Shared, Task, carry_out, pack


class Heavy:
    """Counts how often it was unpacked."""

    unpacked = 0

    def __init__(self):
        self.tensor = torch.zeros(200_000)

    def __setstate__(self, state):
        vars(self).update(state)
        type(self).unpacked += 1

    def say(self, what, desk):
        desk.tell(f"{what} {len(self.tensor)} {desk.owner}")


@pytest.fixture
def heavy(monkeypatch):
    monkeypatch.setattr(tasks, "_unpacked", {})
    monkeypatch.setattr(Heavy, "unpacked", 0)
    return Heavy()


def test_what_tasks_share_is_not_in_them_and_is_unpacked_once(heavy):
    shared, said = Shared(heavy), []
    packed = [pack(Task("t", functools.partial(heavy.say, i), ("k",), shared=shared), f"task {i}", 1) for i in range(3)]
    assert all(len(one.content) < 2000 < 800_000 < len(shared.content) for one in packed)
    for one in packed:
        assert carry_out(one, {shared.token: shared.content}.__getitem__, said.append) is None
    assert said == [f"{i} 200000 task {i}" for i in range(3)]
    assert Heavy.unpacked == 1


def test_a_worker_of_another_version_refuses_in_one_sentence():
    packed = pack(Task("t", lambda desk: None, ()), "task 0", 1)
    older = replace(packed, made_with={**packed.made_with, "kdrepro": "0.0.1"})
    assert "has kdrepro" in str(carry_out(older, pytest.fail, pytest.fail))
    assert carry_out(packed, pytest.fail, pytest.fail) is None


def test_what_cannot_be_sent_is_one_sentence():
    lock = threading.Lock()
    with pytest.raises(InputError, match=r"cannot be sent to a worker.*--executor local"):
        pack(Task("t", lambda desk: lock, ()), "task 0", 1)


def test_bad_input_comes_back_as_it_is_and_all_else_is_raised():
    def bad(desk):
        raise DivergedError("The loss is nan.")

    error = carry_out(pack(Task("t", bad, ()), "o", 1), pytest.fail, pytest.fail)
    assert (type(error), str(error)) == (DivergedError, "The loss is nan.")
    with pytest.raises(ZeroDivisionError):
        carry_out(pack(Task("t", lambda desk: 1 / 0, ()), "o", 1), pytest.fail, pytest.fail)
