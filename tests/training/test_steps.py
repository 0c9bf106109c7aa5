"""The steps of many networks against those of each alone."""

from types import SimpleNamespace

import pytest
import torch
from training_cases import RECIPE, cases, network, stacked_sizes, weights

from kdrepro import training
from kdrepro.ensembles import Average
from kdrepro.errors import InputError
from kdrepro.training import Batches, loop, steps


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


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("rates", [(1e-2, 1e-2, 1e-2), (1e-2, 3e-3, 2e-2)])
def test_members_have_their_own_seed_cases_and_rate(digits, monkeypatch, optimizer, rates):
    batches = [cases(digits, 100 * m, jitter=1) for m in range(3)]
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "weight_decay": 0.01})
    recipes = [recipe.model_copy(update={"learning_rate": rate}) for rate in rates]
    assert_equal_to_rounding(network, batches, [training.hard_targets] * 3, recipes, monkeypatch)


@pytest.mark.parametrize("rates", [(1e-3, 1e-3), (1e-3, 3e-3)])
def test_members_momentum_rises_together(digits, monkeypatch, rates):
    recipe = RECIPE.model_copy(update={"optimizer": "sgd", "momentum_rise": 2, "schedule": "exponential"})
    recipes = [recipe.model_copy(update={"learning_rate": rate}) for rate in rates]
    assert_equal_to_rounding(network, [cases(digits)] * 2, [training.hard_targets] * 2, recipes, monkeypatch)


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


# --- a member and its company -----------------------------------------------------------------------


@pytest.mark.on_cpu
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


@pytest.mark.on_cpu
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


@pytest.mark.on_cpu
def test_no_member_feels_who_shares_its_online_teacher(digits):
    """Sixteen others and a batch of 241: together just more cases than a network is asked about at once."""
    teacher, found = network(10, (64, 20, 10)), []
    for company in (1, 17):
        nets = [network(m) for m in range(company)]
        batches = [Batches(digits.train_images[:241], batch_size=241, teacher=teacher)] * company
        objectives = [training.soft_targets(4.0)] * company
        recipes = [RECIPE.model_copy(update={"batch_size": 241})] * company
        training.fit_many(nets, batches, objectives, recipes, seeds=range(company))
        found.append(weights(nets[0]))
    assert torch.equal(*found)


# --- teachers and losses ----------------------------------------------------------------------------


def ensemble():
    return Average([network(10, (64, 20, 10)), network(11, (64, 20, 10))])


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("make", [lambda: network(10, (64, 20, 10)), ensemble], ids=["one", "ensemble"])
def test_an_online_teacher_multiplies_in_the_students_precision(digits, make, at_once):
    """Its last layer too comes out in float32, and its own weights and mode stay as they are."""
    teacher = make().train()
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


def test_a_teacher_that_wants_many_cases_is_asked_about_several_steps_together(digits):
    found, asked = [], []
    for at_once in (1, 200):
        teacher, student = ensemble(), network()
        teacher.cases_at_once = at_once
        teacher.register_forward_hook(lambda _, inputs, output: asked.append(len(output)))
        recipe = RECIPE.model_copy(update={"epochs": 1})
        training.fit(student, cases(digits, jitter=1, teacher=teacher), training.soft_targets(4.0, 0.5), recipe)
        found.append(weights(student))
    assert asked == [60] * 10 + [180, 180, 180, 60]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


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


# --- captured passes ----------------------------------------------------------------------------------


@pytest.mark.on_cpu
@pytest.mark.parametrize("objective", [training.hard_targets, training.soft_targets(4.0, 0.5)])
def test_captured_passes_are_one_graph_that_computes_the_same(digits, monkeypatch, objective):
    """Traced as for a GPU, by a backend that runs what was traced on the processor; fullgraph refuses any break."""
    monkeypatch.setattr(loop, "check_capture", lambda training: None)
    monkeypatch.setattr(steps, "CAPTURE", {"backend": counting(traced := []), "fullgraph": True, "dynamic": False})
    batches = [cases(digits, teacher=network(10, (64, 20, 10)))] * 2
    found = []
    for capture in (False, True):
        nets = [network(m) for m in range(2)]
        training.fit_many(nets, batches, [objective] * 2, [RECIPE] * 2, seeds=range(2), capture=capture)
        found.append([weights(net) for net in nets])
    assert len(traced) == 1
    assert all(map(torch.equal, *found))


def counting(traced):
    """A backend of torch.compile that runs a graph as it is and notes its number of operations."""

    def backend(graph, inputs):
        traced.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    return backend


@pytest.mark.on_cpu
def test_what_cannot_be_captured_is_refused(digits):
    wanted = [cases(digits)], [training.hard_targets], [RECIPE]
    with pytest.raises(ValueError, match="launches CUDA graphs, and the cases are on cpu: leave it out"):
        training.fit_many([network()], *wanted, seeds=[0], capture=True)
    elsewhere = SimpleNamespace(device=torch.device("cuda"), network=network(hidden_dropout=0.5))
    with pytest.raises(ValueError, match="cannot hold dropout's masks"):
        steps.check_capture(elsewhere)
