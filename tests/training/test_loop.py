"""The loop: one network against a few plain lines, and which of many train together."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import DEVICE, RECIPE, cases, fit, here, network, stacked_sizes, weights

from kdrepro import training
from kdrepro.networks import clip_max_norm
from kdrepro.training import Batches, Recipe, loop, state
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.training.state import _mix

SMALL_STEPS = RECIPE.model_copy(update={"batch_size": 16})


def test_learns(digits):
    net = network()
    history = fit(net, digits, recipe=SMALL_STEPS.model_copy(update={"epochs": 10, "max_norm": None}), jitter=0)
    assert history[-1]["loss"] < 0.2 < history[0]["loss"]
    assert (training.logits(net, digits.test_images).argmax(1) == digits.test_labels).float().mean() > 0.85


def test_same_seed_same_weights_bit_for_bit(digits):
    nets = [network(hidden_dropout=0.3) for _ in range(3)]
    for net, seed in zip(nets, (5, 5, 6), strict=True):
        fit(net, digits, seed)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.equal(weights(nets[0]), weights(nets[2]))


@pytest.mark.on_cpu
def test_flushing_denormals_changes_no_weight_and_is_undone(digits, monkeypatch):
    """Adam with a short memory, on images with pixels that are nearly always 0: its averages do get that small."""
    recipe = Recipe(epochs=60, batch_size=16, learning_rate=1e-3, beta2=0.5, precision="fp32")
    cases = Batches(digits.train_images[:160], digits.train_labels[:160], batch_size=16)
    fast, slow = network(), network()
    training.fit(fast, cases, training.hard_targets, recipe)
    assert (torch.tensor([1e-40]) * 1.0).item() > 0
    monkeypatch.setattr(loop, "_denormals_flushed", nullcontext)
    training.fit(slow, cases, training.hard_targets, recipe)
    assert torch.equal(weights(fast), weights(slow))


def test_whoever_flushed_denormals_before_goes_on_doing_so(digits):
    torch.set_flush_denormal(True)
    try:
        fit(network(), digits, recipe=RECIPE)
        assert (torch.tensor([1e-40]) * 1.0).item() == 0
    finally:
        torch.set_flush_denormal(False)


def test_an_evaluation_teaches_the_network_nothing(digits):
    """It is in eval mode there, so that batch normalisation does not take in what it is evaluated on."""

    def net():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)
            )

    seen, recipe = [], Recipe(epochs=2, precision="fp32")

    def evaluate(network):
        seen.append((network.training, torch.is_grad_enabled()))
        return {"mean": network(here(1e3 * torch.ones(4, 8, 8))).mean()}

    evaluated, plain = net(), net()
    fit(evaluated, digits, recipe=recipe, jitter=0, evaluate=evaluate)
    fit(plain, digits, recipe=recipe, jitter=0)
    assert seen == [(False, False)] * recipe.epochs
    torch.testing.assert_close(evaluated.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_equals_a_plain_loop(digits, optimizer):
    """The loop against the few lines that anybody would write: same order, no jitter, no dropout."""
    recipe = Recipe(epochs=2, batch_size=100, optimizer=optimizer, learning_rate=1e-2, warmup=0.0, precision="fp32")
    ours, plain = network(), network()
    fit(ours, digits, recipe=recipe, jitter=0)

    order = torch.Generator().manual_seed(_mix(0, 1))
    make = {
        "adam": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    }[optimizer]
    optimizer = make(plain.parameters())
    step, count = 0, math.ceil(len(digits.train_images) / 100)
    for _ in range(2):
        chosen = torch.randperm(len(digits.train_images), generator=order)
        for part in chosen.tensor_split(count):
            optimizer.param_groups[0]["lr"] = 0.005 * (1 + math.cos(math.pi * step / (2 * count)))
            loss = torch.nn.functional.cross_entropy(plain(digits.train_images[part] / 255), digits.train_labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(weights(ours), weights(plain), rtol=1e-4, atol=1e-5)


def test_a_rising_momentum_equals_a_plain_loop(digits):
    """Two epochs at .5 and .7 on the way to .9 in two."""
    recipe = Recipe(
        epochs=2,
        batch_size=100,
        optimizer="sgd",
        learning_rate=1e-2,
        momentum_rise=2,
        schedule="exponential",
        warmup=0.0,
        precision="fp32",
    )
    ours, plain = network(), network()
    fit(ours, digits, recipe=recipe, jitter=0)

    order = torch.Generator().manual_seed(_mix(0, 1))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.0, momentum=0.9, nesterov=True)
    for rate, momentum in ((0.05, 0.5), (0.03 * 0.998, 0.7)):
        optimizer.param_groups[0].update(lr=rate, momentum=momentum)
        for part in torch.randperm(len(digits.train_images), generator=order).tensor_split(
            math.ceil(len(digits.train_images) / 100)
        ):
            loss = torch.nn.functional.cross_entropy(plain(digits.train_images[part] / 255), digits.train_labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(weights(ours), weights(plain), rtol=1e-4, atol=1e-5)


def test_max_norm_holds_at_the_end(digits):
    net = network()
    fit(net, digits, recipe=RECIPE.model_copy(update={"max_norm": 0.5}))
    assert net.hidden[0].weight.norm(dim=1).max().item() == pytest.approx(0.5, rel=1e-4)
    before = weights(net)
    clip_max_norm(net, 0.5)
    torch.testing.assert_close(before, weights(net))


def test_bf16_comes_close_to_fp32(digits):
    errors = []
    for precision in ("fp32", "bf16"):
        net = network()
        fit(net, digits, recipe=RECIPE.model_copy(update={"epochs": 8, "precision": precision}), jitter=0)
        errors.append((training.logits(net, digits.test_images).argmax(1) != digits.test_labels).sum().item())
    assert abs(errors[0] - errors[1]) < 25


def test_any_module_can_be_fitted(digits):
    net = here(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    history = fit(net, digits, recipe=SMALL_STEPS.model_copy(update={"max_norm": None, "epochs": 10}), jitter=0)
    assert history[-1]["loss"] < 0.5


def test_evaluation_rows_and_progress(digits):
    seen = []
    history = fit(network(), digits, evaluate=lambda net: {"errors": 1}, evaluate_every=2, progress=seen.append)
    assert ["errors" in row for row in history] == [False, True, True]
    assert seen == history


# --- many networks ----------------------------------------------------------------------------------


def test_frozen_layers_stay_and_other_precisions_are_fits(digits, monkeypatch):
    """Such networks are not stacked."""
    sizes = stacked_sizes(monkeypatch)
    frozen, free = network(0), network(1)
    before = frozen.hidden[0].weight.detach().clone()
    frozen.hidden[0].weight.requires_grad_(False)
    recipe = RECIPE.model_copy(update={"max_norm": None})
    training.fit_many([frozen, free], [cases(digits)] * 2, [training.hard_targets] * 2, [recipe] * 2, seeds=(0, 1))
    assert sizes == [1]
    assert torch.equal(frozen.hidden[0].weight, before)
    assert not torch.equal(frozen.hidden[0].bias, network(0).hidden[0].bias)


def test_finished_is_said_as_soon_as_a_network_is(digits):
    said, nets = [], [network(0), network(1, (64, 8, 10)), network(2)]
    shown = [lambda row, m=m: said.append((m, row["epoch"])) for m in range(3)]
    training.fit_many(
        nets,
        [cases(digits)] * 3,
        [training.hard_targets] * 3,
        [RECIPE] * 3,
        seeds=range(3),
        progress=shown,
        finished=lambda m: said.append((m, "finished")),
    )
    assert said.index((0, "finished")) < said.index((2, "finished")) < said.index((1, 1)) < len(said) - 1
    assert said[-1] == (1, "finished")


def test_what_differs_in_shape_is_trained_apart_and_comes_back_in_order(digits, monkeypatch):
    widths = [(64, 12, 10), (64, 8, 10), (64, 12, 10), (64, 8, 10), (64, 5, 5, 10)]

    def make(m):
        return network(m, widths[m])

    batches, objectives = [cases(digits)] * 5, [training.hard_targets] * 5
    alone = [make(m) for m in range(5)]
    for m, net in enumerate(alone):
        training.fit(net, batches[m], objectives[m], RECIPE, seed=m)
    sizes = stacked_sizes(monkeypatch)
    together = [make(m) for m in range(5)]
    training.fit_many(together, batches, objectives, [RECIPE] * 5, seeds=range(5))
    assert sizes == [2, 2, 1]
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(weights(a), weights(b), rtol=1e-3, atol=1e-4)


def test_other_cases_or_recipes_are_trained_apart(digits, monkeypatch):
    sizes = stacked_sizes(monkeypatch)
    batches = [cases(digits), cases(digits, count=500), cases(digits)]
    recipes = [RECIPE, RECIPE, RECIPE.model_copy(update={"epochs": 2})]
    nets = [network(m) for m in range(3)]
    histories = training.fit_many(nets, batches, [training.hard_targets] * 3, recipes, seeds=range(3))
    assert sizes == [1, 1, 1]
    assert [len(history) for history in histories] == [3, 3, 2]


def test_a_group_that_memory_would_not_hold_is_cut(digits, monkeypatch):
    net, batches = network(), cases(digits, jitter=1)
    # Of 600 cases three copies of 64 bytes, a label and 10 logits; weights, gradient and two moments of 910 parameters;
    # outputs of both layers for a batch of 64, three times over.
    needed = state.TrainingState(
        net, batches, training.hard_targets, RECIPE, 0, None, None, None, 1, None
    ).bytes_needed()
    assert needed == 600 * (3 * 64 + 8 + 4 * 10) + 4 * 4 * 910 + 3 * 4 * 22 * 64
    monkeypatch.setattr(loop, "memory_budget", lambda device: 2 * needed + 1)
    sizes = stacked_sizes(monkeypatch)
    nets = [network(m) for m in range(5)]
    objectives = [training.hard_targets] * 5
    histories = training.fit_many(nets, [batches] * 5, objectives, [RECIPE] * 5, seeds=range(5))
    assert sizes == [2, 2, 1]
    assert all(len(history) == 3 for history in histories)


def test_the_memory_budget_is_a_part_of_the_machine():
    assert 2**20 < loop.memory_budget(DEVICE) < 2**50


def test_each_member_has_its_own_checkpoint_evaluation_and_progress(digits, tmp_path):
    checkpoints = [Checkpoint(tmp_path / f"{i}.safetensors") for i in range(2)]
    shown: list[list] = [[], []]
    options = {
        "seeds": (0, 1),
        "checkpoints": checkpoints,
        "evaluate": [lambda net: {"member": 0}, lambda net: {"member": 1}],
        "progress": [rows.append for rows in shown],
    }
    both = ([network(0), network(1)], [cases(digits)] * 2, [training.hard_targets] * 2, [RECIPE] * 2)
    histories = training.fit_many(*both, **options)
    assert shown == histories
    assert [{row["member"] for row in history} for history in histories] == [{0}, {1}]
    assert [checkpoint.history for checkpoint in checkpoints] == histories


def test_members_can_be_evaluated_and_have_memory_of_their_own_afterwards(digits):
    seen = []

    def evaluate(net):
        seen.append(weights(net))
        return {}

    nets = [network(m) for m in range(2)]
    objectives = [training.hard_targets] * 2
    training.fit_many(nets, [cases(digits)] * 2, objectives, [RECIPE] * 2, seeds=(0, 1), evaluate=[evaluate] * 2)
    assert len(seen) == 6
    assert not torch.equal(seen[0], seen[2])  # a member's own weights, after its first and its second epoch
    storages = {p.untyped_storage().data_ptr() for net in nets for p in net.parameters()}
    assert len(storages) == 8
    assert not any(net.training for net in nets)


# --- arguments that do not fit ----------------------------------------------------------------------


def one(digits, **changes):
    """Train one network with some arguments changed."""
    arguments = {"objective": training.hard_targets, "recipe": RECIPE, "network": network(), "batches": cases(digits)}
    arguments |= changes
    return training.fit(**arguments)


ARGUMENTS = {
    "an objective's name": ({"objective": "soft"}, "objective must be callable"),
    "a dict for a recipe": ({"recipe": {"epochs": 3}}, "recipe must be a training.Recipe, not a dict"),
    "half a seed": ({"seed": 0.5}, "seed must be a whole number, not 0.5"),
    "no figures": ({"evaluate": lambda net: 0.5}, "evaluate returned a float: let it return figures by name"),
    "a row's own name": ({"evaluate": lambda net: {"loss": 0.5}}, "a figure 'loss', which every row has already"),
    "another figure": (
        {"evaluate": lambda net: {"errors": 5}, "keep_best": "accuracy"},
        "keep_best names 'accuracy', but evaluate gives 'errors'",
    ),
    "no evaluate": ({"evaluate": 3}, "evaluate must be a function, or None, not 3"),
    "no progress": ({"progress": 3}, "progress must be a function, or None, not 3"),
    "no checkpoint": ({"checkpoint": 3}, "checkpoint must be a path, or a training.Checkpoint, not 3"),
    "never": ({"evaluate_every": 0}, "evaluate_every must be a whole number of at least 1, not 0"),
    "now and then": ({"evaluate_every": 1.5}, "evaluate_every must be a whole number of at least 1, not 1.5"),
    "two seeds": ({"seed": torch.arange(2)}, r"seed must be a whole number, not tensor\(\[0, 1\]\)"),
    "a figure in words": (
        {"evaluate": lambda net: {"accuracy": "high"}, "keep_best": "accuracy"},
        "keep_best's figure 'accuracy' is 'high': let evaluate give it as a number",
    ),
    "figures in one": ({"evaluate": lambda net: {"errors": torch.ones(2)}}, "figure 'errors' holds several numbers"),
    "nan": (
        {"evaluate": lambda net: {"accuracy": float("nan")}, "keep_best": "accuracy"},
        "figure 'accuracy' is nan in epoch 1",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_do_not_fit_get_one_sentence(digits, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        one(digits, **changes)


def test_no_image_with_a_label_is_left(digits):
    mixed = cases(digits, mix=1.0, teacher=network(1))
    for objective in (training.hard_targets, training.soft_targets(4.0, 0.0)):
        with pytest.raises(ValueError, match="mix=1 leaves no case its label"):
            one(digits, batches=mixed, objective=objective)
    one(digits, batches=mixed, objective=training.soft_targets(4.0, 0.5))


def test_nothing_is_learnt_where_gradients_are_off(digits):
    with torch.no_grad(), pytest.raises(ValueError, match=r"Within torch.no_grad\(\).*: train outside of it"):
        one(digits)


@pytest.mark.parametrize("seed", [np.int64(3), torch.tensor(3)])
def test_a_seed_of_any_kind_is_that_number(digits, seed):
    nets = [network() for _ in range(3)]
    one(digits, network=nets[0], seed=3)
    one(digits, network=nets[1], seed=seed)
    training.fit_many([nets[2]], [cases(digits)], [training.hard_targets], [RECIPE], seeds=[seed])
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    torch.testing.assert_close(weights(nets[0]), weights(nets[2]), rtol=1e-3, atol=1e-4)


def test_gradients_of_before_do_not_count(digits):
    nets = [network() for _ in range(2)]
    sum(p.sum() for p in nets[0].parameters()).backward()
    for net in nets:
        one(digits, network=net)
    assert torch.equal(weights(nets[0]), weights(nets[1]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evaluate": [len]}, "evaluate has 1, but there are 2 networks: give one for each"),
        ({"seeds": range(3)}, "seeds has 3, but there are 2 networks"),
        ({"seeds": 0}, "seeds must be a list, with one for each network, not a int"),
        ({"batches": Batches(torch.zeros(4, 2))}, "batches must be a list, with one for each network, not a Batches"),
        ({"recipes": RECIPE}, "recipes must be a list, with one for each network, not a Recipe"),
        ({"finished": 3}, "finished must be a function, or None, not 3"),
    ],
)
def test_sequences_that_do_not_fit_the_networks(digits, changes, sentence):
    given = {"networks": [network(0), network(1)], "batches": [cases(digits)] * 2, "recipes": [RECIPE] * 2}
    given |= {"objectives": [training.hard_targets] * 2, "seeds": (0, 1)}
    with pytest.raises(ValueError, match=sentence):
        training.fit_many(**given | changes)


def test_a_teacher_of_other_classes_is_said_in_a_stack_as_it_is_alone(digits):
    """Whoever is at fault among those that are computed together."""
    given = [cases(digits, teacher=network(1)), cases(digits, teacher=network(2, (64, 7)))]
    objectives, said = (
        [training.soft_targets(4.0)] * 2,
        r"teacher_logits is \[\d+, 7\] but student_logits is \[\d+, 10\]",
    )
    with pytest.raises(ValueError, match=said):
        one(digits, batches=given[1], objective=objectives[1])
    with pytest.raises(ValueError, match=said):
        training.fit_many([network(0), network(1)], given, objectives, [RECIPE] * 2, seeds=(0, 1))


def test_figures_may_be_tensors_and_a_checkpoint_a_path(digits, tmp_path):
    """As plain numbers, which a checkpoint can hold."""
    path = str(tmp_path / "c.safetensors")
    rows = one(digits, evaluate=lambda net: {"share": torch.tensor(0.5), "count": np.int64(3)}, checkpoint=path)
    assert [(row["share"], row["count"]) for row in rows] == [(0.5, 3)] * 3
    assert one(digits, evaluate=pytest.fail, checkpoint=path) == rows


def test_two_members_share_neither_network_nor_checkpoint(digits, tmp_path, monkeypatch):
    """However the one file is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    net, of = network(), ([cases(digits)] * 2, [training.hard_targets] * 2, [RECIPE] * 2)
    with pytest.raises(ValueError, match="networks 0 and 1 are one and the same"):
        training.fit_many([net, net], *of, seeds=(0, 1))
    for files in ([tmp_path / "c"] * 2, ["c", tmp_path / "c"], ["~/c", Checkpoint("c")], "c"):
        with pytest.raises(ValueError, match="checkpoints 0 and 1 are one and the same"):
            training.fit_many([net, network(1)], *of, seeds=(0, 1), checkpoints=files)


def test_inputs_and_soft_targets_may_come_out_of_another_network(digits):
    """With its history on them, of which the training must know nothing; or made in inference mode."""
    features, x = here(nn.Linear(64, 8)), digits.train_images[:600].flatten(1) / 255
    with torch.inference_mode():
        inferred, soft = features(x), network()(x)
    for inputs, teacher_logits in ((features(x), network()(x)), (inferred, soft)):
        batches = training.Batches(inputs, teacher_logits=teacher_logits, batch_size=64)
        one(digits, network=network(0, (8, 10)), batches=batches, objective=training.soft_targets(4))
    assert features.weight.grad is None
