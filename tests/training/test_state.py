"""A training's state: where it goes on after an interruption, whose weights are kept, and what it refuses."""

import math

import pytest
import torch
from training_cases import (
    DEVICE,
    RECIPE,
    cases,
    check_resumption,
    fit,
    here,
    interruptions,
    network,
    stacked_sizes,
    stopping,
    weights,
)

from kdrepro import training
from kdrepro.ensembles import Average
from kdrepro.errors import InputError
from kdrepro.networks import ConvNet
from kdrepro.training import Batches, Recipe, loop
from kdrepro.training.checkpoint import Checkpoint

UNCONSTRAINED = RECIPE.model_copy(update={"max_norm": None})


def hard(count):
    return [training.hard_targets] * count


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.on_cpu
@interruptions("images", "moved")
def test_interrupted_training_ends_bit_for_bit_the_same(digits, tmp_path, monkeypatch, case):
    """Stopped before any checkpoint, within an epoch or at its end, also where some have been saved and others not."""
    moved = {"jitter": 1, "flip": True} if case.data == "moved" else {}
    if case.teacher:
        teacher = network(10, (64, 20, 10))
        found = training.logits(teacher, digits.train_images[:600])
        moved |= {"teacher": teacher} if moved else {"teacher_logits": found}
    dropout = {"input_dropout": 0.1, "hidden_dropout": 0.3} if case.dropout else {}
    batches = [cases(digits, **moved)] * (1 if case.kind == "alone" else 3)
    check_resumption(case, tmp_path, lambda seed: network(seed, **dropout), batches, monkeypatch)


def train_many(digits, nets, seeds, checkpoints, progress=None):
    count = len(nets)
    shown = None if progress is None else [progress] * count
    of = ([cases(digits)] * count, hard(count), [RECIPE] * count)
    training.fit_many(nets, *of, seeds=seeds, checkpoints=checkpoints, progress=shown)


def train_alone(digits, nets, seeds, checkpoints, progress=None):
    """The last of them."""
    of = (cases(digits), training.hard_targets, RECIPE)
    training.fit(nets[-1], *of, seed=seeds[-1], checkpoint=checkpoints[-1], progress=progress)


@pytest.mark.parametrize(("first", "then", "stop"), [(train_many, train_alone, 5), (train_alone, train_many, 3)])
def test_what_several_began_one_goes_on_with_and_the_other_way_round(digits, tmp_path, first, then, stop):
    """To rounding, since they are computed in other ways; no epoch is trained twice. Stopped after the second epoch."""
    expected, resumed, rows = network(1), network(5), []
    train_alone(digits, [expected], [1], [None])
    checkpoints = stopping(tmp_path, 2, stop)
    with pytest.raises(InterruptedError):
        first(digits, [network(0), network(1)], [0, 1], checkpoints)
    left = Checkpoint(checkpoints[1].path)
    then(digits, [resumed], [1], [left], rows.append)
    assert [row["epoch"] for row in rows] == [3]
    assert [row["epoch"] for row in left.history] == [1, 2, 3]
    torch.testing.assert_close(weights(resumed), weights(expected), rtol=1e-3, atol=1e-4)


def test_finished_checkpoint_trains_no_more(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    first, again = network(), network(seed=4)
    fit(first, digits, checkpoint=checkpoint)
    fit(again, digits, checkpoint=checkpoint, progress=pytest.fail)
    assert torch.equal(weights(first), weights(again))


def test_an_online_teacher_is_not_asked_again_for_steps_that_are_done(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    teacher, asked = network(seed=7), []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    batches = Batches(digits.train_images[:400], digits.train_labels[:400], batch_size=40, teacher=teacher)
    recipe, (stopped,) = Recipe(epochs=1, precision="fp32"), stopping(tmp_path, 1, 8)
    with pytest.raises(InterruptedError):
        training.fit(network(), batches, training.matched_logits, recipe, checkpoint=stopped)
    asked.clear()
    training.fit(network(), batches, training.matched_logits, recipe, checkpoint=Checkpoint(stopped.path))
    assert len(asked) == 10 - 7


class Telling(Average):
    """An ensemble whose answers tell which cases it is asked about together."""

    cases_at_once = 200

    def forward(self, x):
        return super().forward(x) * (1 + x.mean())


@pytest.mark.on_cpu
def test_a_teacher_of_several_steps_is_asked_about_the_same_ones_wherever_a_training_goes_on(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    batches = cases(digits, jitter=1, teacher=Telling([network(10), network(11)]))  # three steps of ten at a time
    of = (batches, training.matched_logits, RECIPE)
    training.fit(expected := network(), *of)
    for stop in (6, 7, 8):
        (stopped,) = stopping(tmp_path, 1, stop)
        with pytest.raises(InterruptedError):
            training.fit(network(), *of, checkpoint=stopped)
        training.fit(resumed := network(4), *of, checkpoint=Checkpoint(stopped.path))
        assert torch.equal(weights(resumed), weights(expected))
        stopped.path.unlink()


class TurningBad:
    """Hard targets whose loss is NaN in the second epoch."""

    def __init__(self):
        self.steps = 0

    def __call__(self, logits, batch):
        self.steps += 1
        return training.hard_targets(logits, batch) * (math.nan if self.steps > 15 else 1)


def test_a_loss_that_is_nan_stops_with_a_sentence_and_keeps_the_checkpoint(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="loss is nan in epoch 2"):
        training.fit(network(), cases(digits), TurningBad(), RECIPE, checkpoint=checkpoint)
    assert checkpoint.load()[1]["epoch"] == 1


def test_a_members_loss_that_is_nan_stops_all_and_keeps_the_checkpoints(digits, tmp_path):
    checkpoints = [Checkpoint(tmp_path / f"{m}.safetensors") for m in range(2)]
    of = ([cases(digits)] * 2, [training.hard_targets, TurningBad()], [RECIPE] * 2)
    with pytest.raises(InputError, match="loss is nan in epoch 2"):
        training.fit_many([network(0), network(1)], *of, seeds=(0, 1), checkpoints=checkpoints)
    assert [checkpoint.load()[1]["epoch"] for checkpoint in checkpoints] == [1, 1]


# --- checkpoints that are left alone --------------------------------------------------------------


@pytest.mark.on_cpu
def test_a_checkpoint_of_another_device_is_said_and_left_alone(digits, tmp_path):
    """Its generators' states cannot be loaded here."""
    warned = []
    checkpoint, first, again = Checkpoint(tmp_path / "c.safetensors", warn=warned.append), network(), network()
    fit(first, digits, checkpoint=checkpoint)
    tensors, state = checkpoint.load()
    assert state["device"] == "cpu"
    tensors |= {"generator.noise": torch.zeros(16, dtype=torch.uint8), "network.output.bias": torch.ones(10)}
    checkpoint.save(tensors, state | {"device": "cuda"})
    fit(again, digits, checkpoint=checkpoint)
    assert torch.equal(weights(first), weights(again))
    assert len(warned) == 1
    assert "was made on cuda and cannot be continued on cpu: set aside as" in warned[0]


def test_a_checkpoint_of_another_training_is_refused_and_kept(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    fit(network(), digits, seed=1, checkpoint=checkpoint)
    before = checkpoint.path.read_bytes()
    with pytest.raises(InputError, match=r"another seed \(1, not 2\): give this one a file of its own"):
        fit(network(), digits, seed=2, checkpoint=checkpoint)
    assert checkpoint.path.read_bytes() == before


def weighted(weight):
    """An objective of the user's own, which holds a number."""
    return lambda logits, batch: weight * training.hard_targets(logits, batch)


class Sampler:
    """As many of the first cases."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return 9

    def draw(self, generator):
        return torch.arange(9, device=DEVICE) % self.count


LABELS = here(torch.arange(64) % 10)
ONE = {
    "labels": LABELS,
    "objective": training.soft_targets(2.0, 0.5),
    "soft": 1.0,
    "recipe": RECIPE,
    "net": network,
    "sampler": Sampler(9),
}
OTHERS = {
    "temperature": (
        {"objective": training.soft_targets(3.0, 0.5)},
        "objective .Distillation.temperature=2.0, .*, not .*3.0, .*",
    ),
    "soft weight": ({"objective": training.soft_targets(2.0, 0.25)}, "objective .*"),
    "kind of objective": ({"objective": training.matched_logits}, "objective .*, not matched_logits."),
    "objective of one's own": ({"objective": weighted(2.0)}, "objective .*<lambda>."),
    "labels": ({"labels": (LABELS + 1) % 10}, "cases, labels or soft targets"),
    "soft targets": ({"soft": -1.0}, "cases, labels or soft targets"),
    "learning rate": (
        {"recipe": RECIPE.model_copy(update={"learning_rate": 2e-2})},
        "recipe's learning_rate .0.01, not 0.02.",
    ),
    "network": ({"net": lambda: network(hidden_dropout=0.5)}, "network"),
    "sampler": ({"sampler": Sampler(8)}, "cases, labels or soft targets"),
    "epochs": ({"recipe": RECIPE.model_copy(update={"epochs": 5})}, "recipe's epochs .3, not 5."),
}


def train_one(path, labels, objective, soft, recipe, net, sampler):
    x = here(torch.linspace(-1, 1, 64 * 64).view(64, 64))
    batches = Batches(x, labels, batch_size=64, teacher_logits=soft * x[:, :10], sampler=sampler)
    training.fit(net(), batches, objective, recipe, checkpoint=Checkpoint(path))


@pytest.mark.parametrize(("change", "named"), OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_names_what_differs(tmp_path, change, named):
    train_one(tmp_path / "c.safetensors", **ONE)
    train_one(tmp_path / "c.safetensors", **ONE)
    with pytest.raises(InputError, match=f"has another {named}: give"):
        train_one(tmp_path / "c.safetensors", **ONE | change)


def test_an_online_teacher_is_part_of_the_training(digits, tmp_path):
    def train(teacher):
        of = (cases(digits, jitter=1, teacher=teacher), training.matched_logits, RECIPE)
        training.fit(network(), *of, checkpoint=Checkpoint(tmp_path / "c.safetensors"))

    train(network(7))
    train(network(7))
    with pytest.raises(InputError, match="another teacher"):
        train(network(8))


def test_a_teacher_is_known_by_its_weights_whatever_it_calls_its_parts(digits, tmp_path):
    def train(teacher):
        teacher.function = torch.relu
        of = (cases(digits, jitter=1, teacher=teacher), training.matched_logits, RECIPE)
        training.fit(network(), *of, checkpoint=Checkpoint(tmp_path / "c.safetensors"))

    train(network(7))
    with pytest.raises(InputError, match="another teacher"):
        train(network(8))


def test_what_an_objective_of_ones_own_holds_is_part_of_it(tmp_path):
    """Its numbers in a closure, the names that it reads, and its code."""
    train_one(tmp_path / "c.safetensors", **ONE | {"objective": weighted(2.0)})
    train_one(tmp_path / "c.safetensors", **ONE | {"objective": weighted(2.0)})
    with pytest.raises(InputError, match="another objective: give"):
        train_one(tmp_path / "c.safetensors", **ONE | {"objective": weighted(3.0)})


@pytest.mark.parametrize("told_apart", [{}, {"made_of": {"network": "#1"}}])
def test_a_checkpoint_of_an_earlier_version_is_set_aside(digits, tmp_path, told_apart):
    warned = []
    checkpoint = Checkpoint(tmp_path / "c.safetensors", warn=warned.append)
    checkpoint.save({"network.a": torch.zeros(1)}, {"epoch": 1} | told_apart)
    fit(network(), digits, checkpoint=checkpoint)
    assert len(warned) == 1
    assert "written by an earlier version: set aside as" in warned[0]


# --- the best row ---------------------------------------------------------------------------------


class Figures:
    """Gives these figures one after the other, and keeps the weights that each was given of."""

    def __init__(self, *figures):
        self.left, self.kept = list(figures), []

    def __call__(self, net):
        self.kept.append(weights(net))
        return {"figure": self.left.pop(0)}


@pytest.mark.parametrize(
    ("figures", "best"),
    [([0.1, 0.3, 0.2], 1), ([0.3, 0.2, 0.1], 0), ([0.1, 0.2, 0.3], 2), ([0.2, 0.2, 0.1], 0), ([-3.0, -1.0, -2.0], 1)],
)
def test_the_best_rows_weights_are_kept(digits, figures, best):
    evaluate, net = Figures(*figures), network()
    history = fit(net, digits, recipe=UNCONSTRAINED, evaluate=evaluate, keep_best="figure")
    assert [row["figure"] for row in history] == figures
    assert torch.equal(weights(net), evaluate.kept[best])
    assert not any(torch.equal(weights(net), evaluate.kept[i]) for i in range(3) if i != best)
    assert not net.training


def test_the_best_rows_weights_are_kept_for_each_member(digits):
    evaluate, nets = [Figures(1, 3, 2), Figures(3, 2, 1)], [network(m) for m in range(2)]
    training.fit_many(
        nets,
        [cases(digits)] * 2,
        hard(2),
        [UNCONSTRAINED] * 2,
        seeds=(0, 1),
        evaluate=evaluate,
        keep_best="figure",
    )
    assert torch.equal(weights(nets[0]), evaluate[0].kept[1])
    assert torch.equal(weights(nets[1]), evaluate[1].kept[0])


def test_without_keep_best_the_last_weights_are_kept(digits):
    evaluate, net = Figures(0.3, 0.2, 0.1), network()
    fit(net, digits, recipe=UNCONSTRAINED, evaluate=evaluate)
    assert torch.equal(weights(net), evaluate.kept[-1])


def test_only_rows_that_were_evaluated_are_kept(digits):
    evaluate, net = Figures(0.3, 0.2), network()
    history = fit(net, digits, recipe=UNCONSTRAINED, evaluate=evaluate, evaluate_every=2, keep_best="figure")
    assert ["figure" in row for row in history] == [False, True, True]
    assert torch.equal(weights(net), evaluate.kept[0])


def test_a_finished_checkpoint_gives_the_best_weights(digits, tmp_path):
    checkpoint, first, again = Checkpoint(tmp_path / "c.safetensors"), network(), network(seed=4)
    fit(first, digits, recipe=UNCONSTRAINED, checkpoint=checkpoint, evaluate=Figures(0.3, 0.2, 0.1), keep_best="figure")
    never = Figures()
    fit(again, digits, recipe=UNCONSTRAINED, checkpoint=checkpoint, evaluate=never, keep_best="figure")
    assert torch.equal(weights(first), weights(again))


# --- what is refused ------------------------------------------------------------------------------


def test_keep_best_without_evaluate_is_refused_before_the_training(digits):
    with pytest.raises(ValueError, match=r"keep_best names 'figure'.* evaluate"):
        fit(network(), digits, keep_best="figure", progress=pytest.fail)


def test_max_norm_is_for_mlps(digits):
    convolutional = here(ConvNet([4], in_channels=1, classes=10, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=r"max_norm .* ConvNet"):
        fit(convolutional, digits, recipe=RECIPE.model_copy(update={"max_norm": 2.0}))


# --- averaged weights -------------------------------------------------------------------------------


class Watched(Batches):
    """Notes the network's weights before each step."""

    def views(self, generator):
        for batch in super().views(generator):
            self.seen.append({name: t.clone() for name, t in self.network.state_dict().items()})
            yield batch


def watched(digits, recipe, **options):
    net = ConvNet([4], in_channels=1, classes=10, generator=torch.Generator().manual_seed(0))
    given = Watched(digits.train_images[:256], digits.train_labels[:256], batch_size=32)
    given.network, given.seen = net, []
    training.fit(net, given, training.hard_targets, recipe, seed=3, **options)
    return net, given.seen


AVERAGED = Recipe(epochs=2, batch_size=32, learning_rate=1e-2, precision="fp32", averaging=0.9)


def test_averaged_weights_are_those_of_a_plain_sum(digits):
    last, seen = watched(digits, AVERAGED.model_copy(update={"averaging": 0.0}))
    net, again = watched(digits, AVERAGED)
    after = [*seen[1:], last.state_dict()]  # the weights after each step
    assert all(torch.equal(a[k], b[k]) for a, b in zip(seen, again, strict=True) for k in a)  # trains as without
    expected = {name: t.double() for name, t in after[0].items()}
    for step, stepped in enumerate(after[1:], start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {name: decay * t + (1 - decay) * stepped[name].double() for name, t in expected.items()}
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(net.output.weight, last.output.weight)
    assert net.stages[0].down.normalisation.num_batches_tracked == 16


def test_averaging_goes_on_bit_for_bit_after_an_interruption(digits, tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    whole, _ = watched(digits, AVERAGED)
    with pytest.raises(KeyboardInterrupt):
        watched(digits, AVERAGED, checkpoint=tmp_path / "c", progress=stop)
    resumed, seen = watched(digits, AVERAGED, checkpoint=tmp_path / "c")
    assert len(seen) == 8  # the second epoch alone
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_what_is_evaluated_and_kept_is_the_average(digits):
    looked = []
    net, _ = watched(
        digits,
        AVERAGED,
        evaluate=lambda n: looked.append(n.output.weight.clone()) or {"f": -len(looked)},
        keep_best="f",
    )
    assert torch.equal(net.output.weight, looked[0])
    last, _ = watched(digits, AVERAGED, evaluate=lambda n: {"w": float(n.output.weight.sum())})
    assert torch.equal(last.output.weight, looked[1])


def test_networks_with_averaged_weights_train_alone(digits, monkeypatch):
    sizes = stacked_sizes(monkeypatch)
    recipe = RECIPE.model_copy(update={"epochs": 1, "averaging": 0.9})
    nets = [network(seed) for seed in (0, 1)]
    given = [cases(digits) for _ in nets]
    training.fit_many(nets, given, [training.hard_targets] * 2, [recipe] * 2, seeds=[0, 1])
    assert sizes == []
    with pytest.raises(ValueError, match="averaging trains networks one at a time"):
        training.fit_many(nets, given, [training.hard_targets] * 2, [recipe] * 2, seeds=[0, 1], stack=True)
