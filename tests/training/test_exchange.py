"""What two processes exchange in training, beside what can be worked out."""

import copy

import pytest
import torch
from torch import nn

from kdrepro.networks import parameter_count
from kdrepro.training import exchange
from kdrepro.training.exchange import Exchange, Job, count_exchange


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def cases(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 6, generator=generator), torch.randint(3, (count,), generator=generator)


def test_networks_trained_together_exchange_their_gradients_and_those_apart_nothing():
    one, several = net(0), [net(seed) for seed in range(3)]
    jobs = {
        "together": Job([one], [cases(20, 0)], batch_size=4, together=True),
        "apart": Job(several, [cases(12, seed) for seed in range(3)], batch_size=4, together=False),
    }
    given = [p.clone() for p in one.parameters()]
    found = count_exchange(jobs)
    size = 4 * parameter_count(one)
    # Five steps with one bucket of gradients each; of three networks the first process has two, of three steps each.
    assert found == {"together": Exchange(5, 5, 5 * size, size), "apart": Exchange(6, 0, 0, 3 * size)}
    assert all(torch.equal(a, b) for a, b in zip(given, one.parameters(), strict=True))


def test_whatever_is_exchanged_is_counted(monkeypatch):
    """A stray call between steps would be noticed."""
    counter = exchange._Counter()
    monkeypatch.setattr(exchange.dist, "all_reduce", lambda tensor: tensor)
    with counter.counting():
        exchange.dist.all_reduce(torch.zeros(3))
        exchange.dist.all_reduce(torch.zeros(2, dtype=torch.float64))
    exchange.dist.all_reduce(torch.zeros(9))
    assert (counter.events, counter.bytes) == (2, 28)


@pytest.mark.slow
def test_two_processes_train_to_what_one_does(tmp_path):
    """Averaged gradients of two halves of a batch are those of the batch."""
    torch.multiprocessing.spawn(_halves, (str(tmp_path),), nprocs=2)
    plain, (x, y) = copy.deepcopy(net(0)), cases(8, 1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    for a, b in zip(x.split(4), y.split(4), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(a), b).backward()
        optimizer.step()
    for a, b in zip(plain.parameters(), torch.load(tmp_path / "weights"), strict=True):
        torch.testing.assert_close(a.detach(), b)


def _halves(rank, folder):
    exchange.dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    one = net(0)
    exchange._trained(Job([one], [cases(8, 1)], batch_size=4, together=True, learning_rate=0.5), rank)
    if rank == 0:
        torch.save([p.detach() for p in one.parameters()], f"{folder}/weights")
    exchange.dist.destroy_process_group()
