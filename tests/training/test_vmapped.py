"""Networks of any kind trained together: each gets what `fit` gives it, and what cannot be stacked is refused."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import DEVICE, here

from kdrepro import ensembles, training
from kdrepro.networks import MLP, ConvNet
from kdrepro.training import Batches, Recipe, vmapped

CHANCE = torch.Generator().manual_seed(0)
X = here(torch.randint(0, 256, (48, 8, 8), generator=CHANCE, dtype=torch.uint8))
Y = here(torch.arange(48) % 3)
RECIPE = Recipe(epochs=2, learning_rate=1e-2, precision="fp32")


class Small(nn.Module):
    """A convolutional net with group normalisation and a constant buffer."""

    def __init__(self, seed, channels=4, scale=1.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.convolution, self.output = nn.Conv2d(1, channels, 3, stride=2), nn.Linear(channels * 9, 3)
        self.normalisation = nn.GroupNorm(2, channels)
        self.register_buffer("shift", torch.tensor(0.1 * seed))
        self.scale = scale
        self.to(DEVICE)

    def forward(self, x):
        x = torch.relu(self.normalisation(self.convolution(x.unsqueeze(1) - self.shift)))
        return {"logits": self.scale * self.output(x.flatten(1))}


class Own:
    """Cases of a source of one's own, which says that they are of one kind."""

    kind, bytes_a_case, device, cases = "own", 64, X.device, 48

    def __len__(self):
        return 2

    def views(self, generator):
        yield from (training.Batch(X[i : i + 24] / 255, Y[i : i + 24]) for i in (0, 24))


def test_cases_of_a_source_of_ones_own_are_refused():
    with pytest.raises(ValueError, match=r"stack=True needs training.Batches, not a Own"):
        training.fit_many([Small(0)], [Own()], [training.hard_targets], [RECIPE], seeds=[0], stack=True)


@pytest.fixture
def always(monkeypatch):
    """Stacked whatever it takes: how long a step takes is luck."""
    monkeypatch.setattr(vmapped, "pays", lambda group: True)


def many(nets, rates=(1e-2, 1e-2, 1e-2), stack=True, **options):
    batches = [Batches(X, Y, batch_size=16, jitter=1, teacher=lambda x: x.flatten(1)[:, :3]) for _ in nets]
    objectives = [training.soft_targets(2.0, 0.5)] * len(nets)
    recipes = [RECIPE.model_copy(update={"learning_rate": rate}) for rate in rates[: len(nets)]]
    return training.fit_many(nets, batches, objectives, recipes, seeds=range(len(nets)), stack=stack, **options)


@pytest.mark.parametrize("rates", [(1e-2, 1e-2, 1e-2), (1e-2, 2e-2, 3e-2)])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_each_gets_what_fit_gives_it(always, rates, optimizer, monkeypatch):
    monkeypatch.setitem(globals(), "RECIPE", RECIPE.model_copy(update={"optimizer": optimizer}))
    together = [Small(seed) for seed in range(3)]
    apart = copy.deepcopy(together)
    histories = many(together, rates)
    alone = [many([net], (rate,), stack=False)[0] for net, rate in zip(apart[:1], rates, strict=False)]
    for seed, (net, rate) in enumerate(zip(apart[1:], rates[1:], strict=True), start=1):
        batches = Batches(X, Y, batch_size=16, jitter=1, teacher=lambda x: x.flatten(1)[:, :3])
        recipe = RECIPE.model_copy(update={"learning_rate": rate})
        alone.append(training.fit(net, batches, training.soft_targets(2.0, 0.5), recipe, seed=seed))
    for a, b, one, other in zip(together, apart, histories, alone, strict=True):
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            assert torch.allclose(p, q, atol=2e-5), name
        assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in other], rel=1e-4)
    assert len({p.data_ptr() for net in together for p in net.parameters()}) == 4 * 3 + 2 * 3  # memory of their own


def test_stacked_trainings_resume(always, tmp_path):
    whole = [Small(seed) for seed in range(2)]
    halves = copy.deepcopy(whole)
    many(whole)

    class StopError(Exception):
        pass

    def stop(row):
        raise StopError

    files = [tmp_path / f"{m}.safetensors" for m in range(2)]
    with pytest.raises(StopError):
        many(halves, checkpoints=files, progress=[lambda row: None, stop])
    many(halves, checkpoints=files)
    for a, b in zip(whole, halves, strict=True):
        assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_other_kinds_train_among_their_own(always):
    nets = [Small(0), Small(1, channels=6), here(MLP([64, 5, 3], generator=torch.Generator().manual_seed(0)))]
    alone = copy.deepcopy(nets)
    many(nets)
    for seed, net in enumerate(alone):
        batches = Batches(X, Y, batch_size=16, jitter=1, teacher=lambda x: x.flatten(1)[:, :3])
        training.fit(net, batches, training.soft_targets(2.0, 0.5), RECIPE, seed=seed)
    for a, b in zip(nets, alone, strict=True):
        assert all(torch.allclose(p, q, atol=2e-5) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_what_is_slower_together_trains_one_after_the_other_and_says_so(monkeypatch):
    seconds = iter([(1.0, []), (2.0, [])])
    monkeypatch.setattr(vmapped, "_timed", lambda work, device: next(seconds))
    nets = [Small(seed) for seed in range(2)]
    alone = copy.deepcopy(nets)
    done = []
    with pytest.warns(UserWarning, match=r"2 × Small take 2000\.0 ms a step together and 1000\.0 one after the other"):
        many(nets, finished=done.append)
    assert done == [0, 1]
    many(alone, stack=False)
    for a, b in zip(nets, alone, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_trial_leaves_the_networks_alone():
    nets = [Small(seed) for seed in range(2)]
    before = copy.deepcopy([net.state_dict() for net in nets])
    group = [
        training.loop.TrainingState(net, Batches(X, Y), training.hard_targets, RECIPE, 0, None, None, None, 1, None)
        for net in nets
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether it pays is luck
        vmapped.pays(group)
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())


def test_members_that_differ_where_nobody_sees_it():
    with pytest.raises(ValueError, match="Network 1 computes something else than network 0"):
        many([Small(0), Small(1, scale=2.0)])


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), "use nn.GroupNorm"),
        (ConvNet([4], in_channels=1, classes=3), "use nn.GroupNorm"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)), "has dropout"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(), "not float32"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 3).requires_grad_(False)), "frozen"),
    ],
)
def test_what_cannot_be_stacked_is_refused(net, said):
    with pytest.raises(ValueError, match=said):
        many([here(net), copy.deepcopy(here(net))])


def test_a_teacher_may_be_any_function(tmp_path):
    table = np.arange(3.0, dtype=np.float32)
    nets = [Small(0), Small(0)]
    asked = Batches(X, batch_size=16, teacher=lambda x: here(torch.from_numpy(table)).expand(len(x), 3))
    stored = Batches(X, batch_size=16, teacher_logits=here(torch.from_numpy(np.tile(table, (48, 1)))))
    for net, batches in zip(nets, (asked, stored), strict=True):
        training.fit(net, batches, training.soft_targets(2.0), RECIPE)
    assert all(torch.equal(p, q) for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    both = ensembles.Average([Small(1), Small(2)])
    training.fit(Small(0), Batches(X, teacher=both), training.soft_targets(2.0), RECIPE)


def test_a_checkpoint_knows_its_teachers_function(tmp_path):
    def fit(teacher):
        batches = Batches(X, batch_size=16, teacher=teacher)
        training.fit(Small(0), batches, training.soft_targets(2.0), RECIPE, checkpoint=tmp_path / "a.safetensors")

    fit(lambda x: x.flatten(1)[:, :3])
    fit(lambda x: x.flatten(1)[:, :3])
    with pytest.raises(ValueError, match="another teacher"):
        fit(lambda x: x.flatten(1)[:, 1:4])
