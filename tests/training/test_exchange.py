"""What two processes exchange in training, beside what can be worked out."""

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


def test_gradients_are_averaged_over_the_processes(tmp_path, monkeypatch):
    """In a group of one that takes itself for two: half of the gradient, where the other's is 0."""
    dist, network, (x, y) = exchange.dist, net(0), cases(8, 1)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        counter = exchange._Counter()
        parallel = exchange.DistributedDataParallel(network, broadcast_buffers=False, init_sync=False)
        parallel.register_comm_hook(None, counter.hook)
        nn.functional.cross_entropy(parallel(x), y).backward()
        assert (counter.events, counter.bytes) == (1, 4 * parameter_count(network))
    finally:
        dist.destroy_process_group()
    expected = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), list(network.parameters()))
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient / 2)
