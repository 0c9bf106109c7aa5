"""Many networks at once: `fit_many` against `fit`, one member after the other, and stacks against their members."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro import training
from kdrepro.errors import InputError
from kdrepro.losses import distillation_loss, distillation_losses
from kdrepro.networks import MLP, clip_max_norm, use_generator
from kdrepro.training import Batches, Recipe, loop, state, steps
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.training.stack import Stack

RECIPE = Recipe(epochs=3, batch_size=64, learning_rate=1e-2, precision="fp32", max_norm=1.5)


def network(seed=0, widths=(64, 12, 10), **dropout):
    return MLP(list(widths), generator=torch.Generator().manual_seed(seed), **dropout)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def cases(digits, first=0, count=600, **options):
    which = slice(first, first + count)
    return Batches(digits.train_images[which], digits.train_labels[which], batch_size=64, **options)


def stacked_sizes(monkeypatch):
    """How many networks each training that follows has at once."""
    sizes = []

    class Noted(steps.Together):
        def __init__(self, runs):
            sizes.append(len(runs))
            super().__init__(runs)

    monkeypatch.setattr(loop, "Together", Noted)
    return sizes


def assert_equal_to_rounding(make, batches, objectives, recipes, monkeypatch, sizes=None, **dropout):
    """Members of `fit_many` against `fit` alone. make: of a fresh network by position."""
    count = len(batches)
    alone = [make(m) for m in range(count)]
    rows = [
        training.fit(n, b, o, r, seed=m)
        for m, (n, b, o, r) in enumerate(zip(alone, batches, objectives, recipes, strict=True))
    ]
    noted = stacked_sizes(monkeypatch)
    together = [make(m) for m in range(count)]
    found = training.fit_many(together, batches, objectives, recipes, seeds=range(count))
    assert noted == ([count] if sizes is None else sizes)
    for m in range(count):
        torch.testing.assert_close(weights(together[m]), weights(alone[m]), rtol=1e-3, atol=1e-4)
        assert [r["loss"] for r in found[m]] == pytest.approx([r["loss"] for r in rows[m]], rel=1e-4)
        assert [r["epoch"] for r in found[m]] == [r["epoch"] for r in rows[m]]
    assert not torch.allclose(weights(together[0]), weights(together[1]), atol=1e-2)


# --- fit_many against fit -------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("rates", [(1e-2, 1e-2, 1e-2), (1e-2, 3e-3, 2e-2)])
def test_members_have_their_own_seed_cases_and_rate(digits, monkeypatch, optimizer, rates):
    batches = [cases(digits, 100 * m, jitter=1) for m in range(3)]
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "weight_decay": 0.01})
    recipes = [recipe.model_copy(update={"learning_rate": rate}) for rate in rates]
    assert_equal_to_rounding(network, batches, [training.hard_targets] * 3, recipes, monkeypatch)


def test_members_have_their_own_dropout_masks(digits, monkeypatch):
    def make(seed):
        return network(seed, input_dropout=0.1, hidden_dropout=0.4)

    batches = [cases(digits, flip=True)] * 3
    assert_equal_to_rounding(make, batches, [training.hard_targets] * 3, [RECIPE] * 3, monkeypatch)


def test_members_have_their_own_temperature_weight_and_teacher(digits, monkeypatch):
    teachers = [network(10, (64, 20, 10)), network(11, (64, 20, 10))]
    for teacher in teachers:
        training.fit(teacher, cases(digits), training.hard_targets, RECIPE)
    batches = [cases(digits, jitter=1, teacher=teachers[m % 2]) for m in range(4)]
    objectives = [training.soft_targets(t, w) for t, w in ((1.0, 1.0), (4.0, 0.5), (20.0, 0.9), (2.5, 0.0))]
    assert_equal_to_rounding(network, batches, objectives, [RECIPE] * 4, monkeypatch)


def test_cached_logits_and_no_labels(digits, monkeypatch):
    teacher = network(10, (64, 20, 10))
    training.fit(teacher, cases(digits), training.hard_targets, RECIPE)
    found = training.logits(teacher, digits.train_images)
    batches = [Batches(digits.train_images, batch_size=64, teacher_logits=found)] * 2
    objectives = [training.soft_targets(20.0), training.soft_targets(2.0)]
    assert_equal_to_rounding(network, batches, objectives, [RECIPE] * 2, monkeypatch)


def test_objectives_of_several_kinds(digits, monkeypatch):
    """Such members are stacked too; only their losses are computed one after the other."""
    teacher = network(10, (64, 20, 10))
    batches = [cases(digits, teacher=teacher)] * 3
    objectives = [training.hard_targets, training.soft_targets(4.0), training.matched_logits]
    assert_equal_to_rounding(network, batches, objectives, [RECIPE] * 3, monkeypatch)


def test_bf16_members_come_as_close_to_fit_as_bf16_can_tell(digits):
    recipe = RECIPE.model_copy(update={"precision": "bf16"})
    alone, together = [[network(m) for m in range(2)] for _ in range(2)]
    for m, net in enumerate(alone):
        training.fit(net, cases(digits), training.hard_targets, recipe, seed=m)
    training.fit_many(together, [cases(digits)] * 2, [training.hard_targets] * 2, [recipe] * 2, seeds=range(2))
    for a, b in zip(alone, together, strict=True):
        answers = [training.logits(net, digits.test_images).argmax(1) for net in (a, b)]
        assert (answers[0] == answers[1]).float().mean() > 0.98


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_member_feels_its_company(digits, precision):
    """Bit for bit the same, alone or beside others: a resumed run may be grouped in another way."""
    recipe = RECIPE.model_copy(update={"precision": precision})
    found = []
    for company in (1, 2, 5):
        nets = [network(m, hidden_dropout=0.3) for m in range(company)]
        objectives = [training.hard_targets] * company
        training.fit_many(nets, [cases(digits)] * company, objectives, [recipe] * company, seeds=range(company))
        found.append([weights(net) for net in nets])
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(found[1], found[2], strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mine", [training.hard_targets, training.soft_targets(3.3, 0.7), training.soft_targets(3.3)])
def test_no_member_feels_the_others_losses(digits, mine):
    """Bit for bit the same, beside whatever other kinds of loss."""
    teacher = network(10, (64, 20, 10))
    training.fit(teacher, cases(digits), training.hard_targets, RECIPE)
    batches = cases(digits, teacher_logits=training.logits(teacher, digits.train_images[:600]))
    unlabelled = Batches(batches.inputs, batch_size=64, teacher_logits=batches.teacher_logits)
    others = [
        training.matched_logits,
        training.hard_targets,
        training.soft_targets(8.0, 0.5),
        training.soft_targets(2.0),
    ]
    found = []
    for company in ([], *([other] for other in others), others):
        nets = [network(m) for m in range(1 + len(company))]
        of = [batches] * len(nets)
        training.fit_many(nets, of, [mine, *company], [RECIPE] * len(nets), seeds=range(len(nets)))
        found.append(weights(nets[0]))
    training.fit_many(
        nets := [network(0), network(1)], [batches, unlabelled], [mine, others[-1]], [RECIPE] * 2, seeds=(0, 1)
    )
    assert all(torch.equal(found[0], other) for other in [*found[1:], weights(nets[0])])


def test_no_member_feels_who_shares_its_online_teacher(digits):
    """Sixteen others and a batch of 241: together just more cases than a network is asked about at once."""
    teacher, found = network(10, (64, 20, 10)), []
    for company in (1, 17):
        nets = [network(m) for m in range(company)]
        batches = [Batches(digits.train_images[:241], batch_size=241, teacher=teacher)] * company
        objectives = [training.soft_targets(4.0)] * company
        training.fit_many(nets, batches, objectives, [RECIPE] * company, seeds=range(company))
        found.append(weights(nets[0]))
    assert torch.equal(*found)


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
    assert 2**20 < loop.memory_budget(torch.device("cpu")) < 2**50


# --- histories, checkpoints, errors ---------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"shorter|longer"):
        training.fit_many(*both, **{**options, "evaluate": options["evaluate"][:1]})


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


def test_the_best_rows_weights_are_kept_for_each_member(digits):
    figures = {0: [1, 3, 2], 1: [3, 2, 1]}
    seen = {0: [], 1: []}

    def noting(m):
        def evaluate(net):
            seen[m].append(weights(net))
            return {"figure": figures[m][len(seen[m]) - 1]}

        return evaluate

    recipe = RECIPE.model_copy(update={"max_norm": None})
    nets = [network(m) for m in range(2)]
    training.fit_many(
        nets,
        [cases(digits)] * 2,
        [training.hard_targets] * 2,
        [recipe] * 2,
        seeds=(0, 1),
        evaluate=[noting(0), noting(1)],
        keep_best="figure",
    )
    assert torch.equal(weights(nets[0]), seen[0][1])
    assert torch.equal(weights(nets[1]), seen[1][0])


@pytest.mark.parametrize("stop", [7, 10, 13, 25])
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("rates", [(1e-2, 1e-2, 1e-2), (1e-2, 5e-3, 2e-2)])
def test_interrupted_members_end_bit_for_bit_the_same(digits, tmp_path, monkeypatch, stop, every_step, rates):
    """Stopped at any step of any member, also where some have been saved at a step and others not yet."""
    if every_step:
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    recipes = [RECIPE.model_copy(update={"learning_rate": rate}) for rate in rates]
    nets = [network(m, hidden_dropout=0.3) for m in range(3)]
    batches = [cases(digits, jitter=1)] * 3
    whole = training.fit_many(nets, batches, [training.hard_targets] * 3, recipes, seeds=range(3))

    saves = 0
    real = Checkpoint.save

    def stopping(self, *state):
        nonlocal saves
        saves += 1
        if saves == (stop if every_step else stop % 9):
            raise InterruptedError
        real(self, *state)

    checkpoints = [Checkpoint(tmp_path / f"{m}.safetensors") for m in range(3)]
    monkeypatch.setattr(Checkpoint, "save", stopping)
    some = [network(m, hidden_dropout=0.3) for m in range(3)]
    with pytest.raises(InterruptedError):
        training.fit_many(some, batches, [training.hard_targets] * 3, recipes, seeds=range(3), checkpoints=checkpoints)
    monkeypatch.setattr(Checkpoint, "save", real)
    resumed = [network(m if not checkpoints[m].path.exists() else 9, hidden_dropout=0.3) for m in range(3)]
    rows = training.fit_many(
        resumed, batches, [training.hard_targets] * 3, recipes, seeds=range(3), checkpoints=checkpoints
    )
    for m in range(3):
        assert torch.equal(weights(resumed[m]), weights(nets[m]))
        assert [r["loss"] for r in rows[m]] == pytest.approx([r["loss"] for r in whole[m]], rel=1e-6)


def test_a_checkpoint_of_many_is_one_of_fit(digits, tmp_path, monkeypatch):
    """What several began, one goes on with, and the other way round."""
    recipe = RECIPE.model_copy(update={"schedule": "constant", "max_norm": None})
    checkpoints = [Checkpoint(tmp_path / f"{m}.safetensors") for m in range(2)]
    nets, objectives = [network(m) for m in range(2)], [training.hard_targets] * 2
    short = [recipe.model_copy(update={"epochs": 1})] * 2
    training.fit_many(nets, [cases(digits)] * 2, objectives, short, seeds=range(2), checkpoints=checkpoints)
    expected = network(1)
    training.fit(expected, cases(digits), training.hard_targets, recipe, seed=1)
    resumed = network(5)
    steady = recipe.model_copy(update={"warmup": 0.0})
    training.fit(resumed, cases(digits), training.hard_targets, steady, seed=1, checkpoint=checkpoints[1])
    assert len(checkpoints[1].history) == 3
    assert [r["epoch"] for r in checkpoints[1].history] == [1, 2, 3]


def test_a_members_loss_that_is_nan_stops_all_and_keeps_the_checkpoints(digits, tmp_path):
    calls = 0

    def turning_bad(logits, batch):
        nonlocal calls
        calls += 1
        return training.hard_targets(logits, batch) * (float("nan") if calls > 15 else 1)

    checkpoints = [Checkpoint(tmp_path / f"{m}.safetensors") for m in range(2)]
    nets = [network(m) for m in range(2)]
    with pytest.raises(InputError, match="loss is nan in epoch 2"):
        training.fit_many(
            nets,
            [cases(digits)] * 2,
            [training.hard_targets, turning_bad],
            [RECIPE] * 2,
            seeds=(0, 1),
            checkpoints=checkpoints,
        )
    assert [checkpoint.load()[1]["epoch"] for checkpoint in checkpoints] == [1, 1]


# --- stacks and losses of many --------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4), (6, 5, 3, 4)])
def test_a_stack_gives_what_its_members_give(generator, widths):
    members = [network(m, widths, input_dropout=0.2, hidden_dropout=0.5) for m in range(3)]
    x = torch.randn(3, 7, 2, 3, generator=generator)
    for training_mode in (False, True):
        expected = []
        for m, member in enumerate(members):
            use_generator(member, torch.Generator().manual_seed(m))
            expected.append(member.train(training_mode)(x[m]))
        for m, member in enumerate(members):
            use_generator(member, torch.Generator().manual_seed(m))
        stack = Stack(members).train(training_mode)
        torch.testing.assert_close(stack(x), torch.stack(expected))
        stack.release()


def test_a_stacks_members_are_views_until_they_are_released():
    members = [network(m) for m in range(2)]
    before = [weights(member).clone() for member in members]
    stack = Stack(members)
    with torch.no_grad():
        for p in stack.parameters():
            p.mul_(2)
    for member, old in zip(members, before, strict=True):
        torch.testing.assert_close(weights(member), 2 * old)
    stack.release()
    with torch.no_grad():
        for p in stack.parameters():
            p.zero_()
    torch.testing.assert_close(weights(members[1]), 2 * before[1])


def test_a_stack_is_clipped_as_its_members_are():
    members, same = [[network(m, (20, 8, 6, 3)) for m in range(3)] for _ in range(2)]
    stack = Stack(members)
    stack.clip_max_norm(0.9)
    for member, other in zip(members, same, strict=True):
        clip_max_norm(other, 0.9)
        torch.testing.assert_close(weights(member), weights(other))


def test_networks_of_different_shapes_cannot_be_stacked():
    with pytest.raises(ValueError, match="one shape"):
        Stack([network(0), network(1, (64, 13, 10))])
    with pytest.raises(ValueError, match="one dropout"):
        Stack([network(0), network(1, hidden_dropout=0.5)])


@given(st.integers(0, 2**31 - 1), st.lists(st.floats(0.05, 200), min_size=1, max_size=4), st.floats(-6, 2))
@settings(max_examples=60)
def test_losses_of_many_are_those_of_each(seed, temperatures, closeness):
    """From students that differ wildly from their teachers to ones that hardly do, in one call."""
    generator = torch.Generator().manual_seed(seed)
    count = len(temperatures)
    weights = torch.rand(count, generator=generator).round(decimals=1).tolist()
    teacher = 3 * torch.randn(count, 5, 4, generator=generator)
    gaps = 10 ** torch.linspace(closeness, 0, count).view(-1, 1, 1)
    student = (teacher + gaps * torch.randn(count, 5, 4, generator=generator)).requires_grad_()
    labels = torch.randint(4, (count, 5), generator=generator)
    together = distillation_losses(student, teacher, labels, temperatures=temperatures, soft_weights=weights)
    (gradient,) = torch.autograd.grad(together.sum(), student)
    alone = [
        distillation_loss(student[m], teacher[m], labels[m], temperature=t, soft_weight=weights[m])
        for m, t in enumerate(temperatures)
    ]
    (expected,) = torch.autograd.grad(sum(alone), student)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": [1.0, 0.0]}, "temperature must be a positive number"),
        ({"soft_weights": [1.0, 1.5]}, "soft_weight must lie between 0 and 1"),
        ({"soft_weights": [1.0, 0.5], "labels": None}, "labels must be given"),
        ({"teacher_logits": torch.zeros(2, 3, 5)}, "networks, cases, classes"),
        ({"student_logits": torch.zeros(3, 4)}, "networks, cases, classes"),
        ({"student_logits": torch.full((2, 3, 4), torch.nan)}, "student_logits holds NaN"),
        ({"labels": torch.full((2, 3), 4), "soft_weights": [0.5, 0.5]}, "labels must lie between 0 and 3"),
        ({"temperatures": [1.0]}, "shorter|longer"),
    ],
)
def test_losses_of_many_refuse_bad_input(change, message):
    given = {
        "student_logits": torch.zeros(2, 3, 4),
        "teacher_logits": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, 3, dtype=torch.int64),
        "temperatures": [1.0, 2.0],
        "soft_weights": [1.0, 1.0],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        distillation_losses(**given)


def test_labels_that_are_not_needed_are_not_looked_at():
    """One network's soft targets alone, with labels that are none, beside another that needs its own."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    labels = torch.tensor([[-1, -1, -1], [0, 3, 2]], dtype=torch.int16)
    found = distillation_losses(student, teacher, labels, temperatures=[2.0, 2.0], soft_weights=[1.0, 0.5])
    assert found.isfinite().all()


@pytest.mark.parametrize("at_once", [False, True])
def test_soft_targets_that_diverge_are_one_sentence(digits, at_once):
    recipe = RECIPE.model_copy(update={"learning_rate": 1e30, "max_norm": None})
    batches, objective = cases(digits, teacher=network(10, (64, 20, 10))), training.soft_targets(4.0)

    def train():
        if at_once:
            return training.fit_many([network()], [batches], [objective], [recipe], seeds=[0])
        return training.fit(network(), batches, objective, recipe)

    with pytest.raises(InputError, match=r"in epoch 1: lower the learning rate \(1e\+30\)"):
        train()


@pytest.mark.parametrize("at_once", [False, True])
def test_an_online_teacher_multiplies_in_the_students_precision(digits, at_once):
    """Its last layer too comes out in float32, and its own weights and mode stay as they are."""
    teacher = network(10, (64, 20, 10)).train()
    before = weights(teacher)
    seen = []

    def noting(logits, batch):
        seen.append((batch.inputs, batch.teacher_logits))
        return training.matched_logits(logits, batch)

    recipe = RECIPE.model_copy(update={"precision": "bf16", "epochs": 1})
    students, batches = [network(1), network(2)], [cases(digits, jitter=1, teacher=teacher)] * 2
    if at_once:
        training.fit_many(students, batches, [noting] * 2, [recipe] * 2, seeds=(0, 1))
    else:
        training.fit(students[0], batches[0], noting, recipe)
    inputs, found = seen[0]
    exact, cast = (training.logits(teacher, inputs, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, cast, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)
    assert teacher.training
    assert torch.equal(weights(teacher), before)
