"""Networks and trainings that are small enough for tests, and a check of what an interruption leaves."""

from typing import NamedTuple

import pytest
import torch

from kdrepro import training
from kdrepro.networks import MLP
from kdrepro.training import Batches, Recipe, loop, steps
from kdrepro.training.checkpoint import Checkpoint

DEVICE = torch.device("cpu")  # or what `pytest --device` names, before any test is collected
RECIPE = Recipe(epochs=3, batch_size=64, learning_rate=1e-2, precision="fp32", max_norm=1.5)


def here(thing):
    """A tensor or a network, on the device of the tests."""
    return thing.to(DEVICE)


def network(seed=0, widths=(64, 12, 10), **dropout):
    return here(MLP(list(widths), generator=torch.Generator().manual_seed(seed), **dropout))


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).cpu()


def cases(digits, first=0, count=600, **options):
    """Ten steps of digits."""
    which = slice(first, first + count)
    return Batches(digits.train_images[which], digits.train_labels[which], batch_size=64, **options)


def fit(net, digits, seed=0, recipe=RECIPE, jitter=1, **options):
    """Train on all digits and their labels."""
    batches = Batches(digits.train_images, digits.train_labels, batch_size=recipe.batch_size, jitter=jitter)
    return training.fit(net, batches, training.hard_targets, recipe, seed=seed, **options)


def stacked_sizes(monkeypatch):
    """How many networks each training that follows has at once."""
    sizes = []

    class Noted(steps.Together):
        def __init__(self, runs, capture):
            sizes.append(len(runs))
            super().__init__(runs, capture)

    monkeypatch.setattr(loop, "Together", Noted)
    return sizes


# --- interruptions --------------------------------------------------------------------------------


class Interruption(NamedTuple):
    """A training that stops, and how it is made.

    kind: one network "alone", or three stacked, with "one rate" or their "own rates".
    data: digits as "images", "moved" ones (jitter and flips), or "frames" of speech.
    best: the epoch with the highest figure of `keep_best`, "first" or "last"; None for no figure.
    stop: the save, counted over all networks, that fails.
    each_step: whether there is a save after every step too, not after epochs alone.
    sgd, dropout, teacher, max_norm: SGD in Adam's place, dropout, soft targets, a limit of the weights.
    """

    kind: str
    data: str
    best: str | None
    stop: int
    each_step: bool
    sgd: bool
    dropout: bool
    teacher: bool
    max_norm: bool


# Every two values come together at least once, with the three stops of each kind: before each network has a checkpoint,
# in the first epoch (where only epochs are saved, in the second), and later.
INTERRUPTIONS = [
    #             kind         data      best     stop  each   sgd    drop   teach  max
    Interruption("alone", "images", None, 1, False, False, True, True, False),
    Interruption("alone", "moved", "first", 3, False, False, False, False, False),
    Interruption("alone", "frames", "last", 8, True, True, False, True, True),
    Interruption("one rate", "images", "first", 14, True, False, False, True, True),
    Interruption("one rate", "moved", "last", 2, False, False, False, False, False),
    Interruption("one rate", "frames", None, 51, True, True, True, True, False),
    Interruption("own rates", "images", "last", 9, False, True, True, False, True),
    Interruption("own rates", "moved", None, 15, True, True, True, True, True),
    Interruption("own rates", "frames", "first", 2, True, True, True, False, True),
    Interruption("own rates", "frames", None, 5, False, False, False, False, False),
]


def interruptions(*data):
    """The parameters of a test of those with such data."""
    chosen = [one for one in INTERRUPTIONS if one.data in data]
    return pytest.mark.parametrize("case", chosen, ids=["-".join(map(str, one)) for one in chosen])


class Stopping(Checkpoint):
    """Fails in the save whose turn it is; what was saved before stays. left: counts saves down, for all networks."""

    def __init__(self, path, left):
        super().__init__(path)
        self.left = left

    def save(self, tensors, state):
        if next(self.left) == 0:
            raise InterruptedError
        super().save(tensors, state)


def stopping(folder, count, stop):
    """Checkpoints of as many networks, of which the save number `stop` fails."""
    left = iter(range(stop - 1, -1, -1))
    return [Stopping(folder / f"{m}.safetensors", left) for m in range(count)]


def check_resumption(case, folder, make, batches, monkeypatch):
    """Stopped and begun again, each network ends bit for bit as it would have, and no saved epoch is done again.

    make: a fresh network from a seed. batches: of each network.
    """
    if case.each_step:
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    starts = [weights(make(m)) for m in range(len(batches))]
    whole, expected, _ = _train(case, [make(m) for m in range(len(batches))], starts, batches)
    for history in expected if case.best else ():
        figures = [row["figure"] for row in history]
        assert figures.index(max(figures)) == {"first": 0, "last": len(figures) - 1}[case.best]
    stopped = stopping(folder, len(batches), case.stop)
    with pytest.raises(InterruptedError):
        _train(case, [make(m) for m in range(len(batches))], starts, batches, stopped)

    checkpoints = [Checkpoint(folder / f"{m}.safetensors") for m in range(len(batches))]
    left = [checkpoint.load() for checkpoint in checkpoints]
    # Other weights at first, to see that the checkpoint's are taken, unless it was stopped before any.
    begun = [make(m if state is None else 100 + m) for m, state in enumerate(left)]
    resumed, found, evaluated = _train(case, begun, starts, batches, checkpoints)
    for m, state in enumerate(left):
        assert torch.equal(weights(resumed[m]), weights(whole[m]))
        assert [row["epoch"] for row in found[m]] == [row["epoch"] for row in expected[m]]
        assert [row["loss"] for row in found[m]] == pytest.approx([row["loss"] for row in expected[m]], rel=1e-6)
        assert [row.get("figure") for row in found[m]] == [row.get("figure") for row in expected[m]]
        done = 0 if state is None else state[1]["epoch"]
        assert evaluated[m] == (len(expected[m]) - done if case.best else 0)


def _train(case, nets, starts, batches, checkpoints=None):
    """The networks, their histories, and how often each was evaluated; a figure is how far one is from its start."""
    count, evaluated = len(nets), [0] * len(nets)
    recipe = RECIPE.model_copy(
        update={"optimizer": "sgd" if case.sgd else "adam", "max_norm": 1.5 if case.max_norm else None}
        | {"batch_size": batches[0].batch_size}
    )
    rates = [1e-2, 5e-3, 2e-2] if case.kind == "own rates" else [1e-2] * count
    recipes = [recipe.model_copy(update={"learning_rate": rate}) for rate in rates]
    objectives = [training.soft_targets(2.0, 0.5) if case.teacher else training.hard_targets] * count

    def evaluate(m):
        def distance(net):
            evaluated[m] += 1
            return {"figure": (weights(net) - starts[m]).norm().item() * (-1 if case.best == "first" else 1)}

        return distance

    also = {"keep_best": "figure"} if case.best else {}
    asked = [evaluate(m) if case.best else None for m in range(count)]
    checkpoints = checkpoints or [None] * count
    if case.kind == "alone":
        history = training.fit(
            nets[0], batches[0], objectives[0], recipes[0], checkpoint=checkpoints[0], evaluate=asked[0], **also
        )
        return nets, [history], evaluated
    histories = training.fit_many(
        nets, batches, objectives, recipes, seeds=range(count), checkpoints=checkpoints, evaluate=asked, **also
    )
    return nets, histories, evaluated
