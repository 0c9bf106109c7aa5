"""Trainings side by side: the same networks bit for bit, and one end for all when one fails."""

import _thread
import signal
import threading

import pytest
import torch
from training_cases import RECIPE, cases, network, stacked_sizes, weights

from kdrepro import training
from kdrepro.errors import InputError
from kdrepro.training import loop, state
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.training.lanes import Lane, StoppedError, side_by_side, threads

pytestmark = pytest.mark.on_cpu  # a GPU has no lanes


@pytest.fixture
def two_threads(monkeypatch):
    """Two lanes, for networks of any size."""
    monkeypatch.setattr(loop, "LEAST_WEIGHTS", 0)
    with threads(2):
        yield
        assert torch.get_num_threads() == 2


def fit_many(nets, batches, **options):
    count = len(nets)
    return training.fit_many(
        nets, batches, [training.hard_targets] * count, [RECIPE] * count, seeds=range(count), **options
    )


@pytest.mark.parametrize(("count", "sizes"), [(2, [1, 1]), (5, [2, 2, 1])])
def test_lanes_give_the_bits_of_each_network_alone(digits, monkeypatch, two_threads, count, sizes):
    batches = [cases(digits, 100 * m, jitter=1) for m in range(count)]
    alone = [network(m, hidden_dropout=0.3) for m in range(count)]
    for m, net in enumerate(alone):
        training.fit_many([net], [batches[m]], [training.hard_targets], [RECIPE], seeds=[m])
    noted = stacked_sizes(monkeypatch)
    together, ended = [network(m, hidden_dropout=0.3) for m in range(count)], []
    rows = fit_many(together, batches, finished=ended.append)
    assert noted == sizes
    assert sorted(ended) == list(range(count))
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(alone, together, strict=True))
    assert [len(row) for row in rows] == [RECIPE.epochs] * count


def test_small_networks_are_not_worth_a_lane(digits, monkeypatch, two_threads):
    monkeypatch.setattr(loop, "LEAST_WEIGHTS", 1000)
    noted = stacked_sizes(monkeypatch)
    fit_many([network(m) for m in range(4)], [cases(digits)] * 4)
    assert noted == [4]


def test_lanes_together_keep_within_memory(digits, monkeypatch, two_threads):
    nets, noted = [network(m) for m in range(6)], stacked_sizes(monkeypatch)
    one = state.TrainingState(nets[0], cases(digits), training.hard_targets, RECIPE, 0, None, None, None, 1, None)
    monkeypatch.setattr(loop, "memory_budget", lambda device: 5 * one.bytes_needed())
    fit_many(nets, [cases(digits)] * 6)
    assert noted == [2, 2, 1, 1]


def test_a_failing_lane_ends_the_others_which_go_on_from_their_checkpoints(digits, tmp_path, two_threads):
    bad = cases(digits)
    bad.inputs = bad.inputs.float().fill_(float("nan"))
    batches = [cases(digits), bad]
    batches[0].inputs = batches[0].inputs.float().div(255)
    checkpoints = [Checkpoint(tmp_path / str(m)) for m in range(2)]
    with pytest.raises(InputError, match="in epoch 1"):
        fit_many([network(0), network(1)], batches, checkpoints=checkpoints)
    alone, resumed = network(0), network(0)
    for net, checkpoint in ((alone, None), (resumed, checkpoints[0])):
        training.fit_many([net], batches[:1], [training.hard_targets], [RECIPE], seeds=[0], checkpoints=[checkpoint])
    assert torch.equal(weights(alone), weights(resumed))


@pytest.fixture
def ctrl_c():
    """Python's answer to Ctrl-C, which a process that was started in the background has not: the test would not end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_ends_all_lanes(digits, two_threads, ctrl_c):
    rows = []

    def interrupt(row):
        rows.append(row)
        if len(rows) == 1:
            _thread.interrupt_main()

    endless = RECIPE.model_copy(update={"epochs": 100_000})
    before = {*threading.enumerate()}  # other libraries keep threads of their own
    with pytest.raises(KeyboardInterrupt):
        training.fit_many(
            [network(0), network(1)],
            [cases(digits)] * 2,
            [training.hard_targets] * 2,
            [endless] * 2,
            seeds=[0, 1],
            progress=[interrupt] * 2,
        )
    assert rows
    assert {*threading.enumerate()} <= before


def test_the_first_error_is_the_one_that_is_raised():
    failed = threading.Event()

    def train(group: str, lane: Lane) -> None:
        if group == "bad":
            failed.set()
            raise ValueError("the reason")
        failed.wait()
        while True:
            lane.check()  # until it raises

    with pytest.raises(ValueError, match="the reason"):
        side_by_side(train, ["good", "bad", "good"])


def test_a_lone_group_keeps_all_threads_and_its_errors():
    def train(group: str, lane: Lane) -> None:
        lane.check()
        assert lane.count == 1
        assert threading.current_thread() is threading.main_thread()
        raise StoppedError(group)

    with pytest.raises(StoppedError, match="only"):
        side_by_side(train, ["only"])
