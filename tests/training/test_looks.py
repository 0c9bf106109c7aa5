"""A training on a GPU looks at values in the first step of an epoch only; here a processor trains as a GPU would."""

import math
from types import SimpleNamespace

import pytest
import torch
from training_cases import weights

from kdrepro import losses, specialists, training
from kdrepro.errors import InputError
from kdrepro.networks import MLP
from kdrepro.training import Batches, Recipe, loop, steps

CASES, CLASSES = 60, 5
RECIPE = Recipe(epochs=2, learning_rate=1e-2, precision="fp32")
SPECIAL = torch.tensor([0, 2])
GENERATOR = torch.Generator().manual_seed(0)
INPUTS, SOFT = torch.randn(CASES, 8, generator=GENERATOR), 3 * torch.randn(CASES, CLASSES, generator=GENERATOR)
LABELS = torch.arange(CASES) % CLASSES
SOME = LABELS.masked_fill(torch.arange(CASES) % 7 == 0, -100)

OBJECTIVES = {
    "hard": training.hard_targets,
    "soft": training.soft_targets(4.0),
    "both": training.soft_targets(4.0, 0.5),
    "hard, as soft": training.soft_targets(4.0, 0.0),
    "matched": training.matched_logits,
    "DKD": training.taught(losses.decoupled_loss, temperature=4.0, soft_weight=0.5),
    "standardised": training.taught(losses.standardised_loss, temperature=4.0, soft_weight=0.5),
    "DIST": training.taught(losses.correlation_loss, temperature=4.0, soft_weight=0.5),
    "by class": specialists.kept_knowledge(SPECIAL, CLASSES, 2.0, "class"),
    "by case": specialists.kept_knowledge(SPECIAL, CLASSES, 2.0, "case"),
}
WITH_LABELS = [name for name in OBJECTIVES if name not in ("soft", "matched")]

pytestmark = pytest.mark.on_cpu


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(steps, "_looks", lambda device, taken: taken == 0)
    monkeypatch.setattr(losses, "_divergence", losses._SoftTargetsInDouble.apply)


def network(seed=0):
    return MLP([8, 16, CLASSES], generator=torch.Generator().manual_seed(seed))


def batches(labels=SOME, inputs=INPUTS, **options):
    return Batches(inputs, labels, batch_size=12, **(options or {"teacher_logits": SOFT}))


def trained(objective, **options):
    net = network()
    history = training.fit(net, batches(**options), objective, RECIPE)
    return weights(net), [row["loss"] for row in history]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_learns_the_same(name, monkeypatch, request):
    """To rounding, with labels of all cases and of some."""
    expected = [trained(OBJECTIVES[name], labels=labels) for labels in (LABELS, SOME)]
    request.getfixturevalue("as_on_a_gpu")
    found = [trained(OBJECTIVES[name], labels=labels) for labels in (LABELS, SOME)]
    for (mine, rows), (other, others) in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        assert rows == pytest.approx(others, rel=1e-4)


def test_many_learn_the_same(request):
    def together():
        nets, few = [network(seed) for seed in range(len(OBJECTIVES))], batches()
        training.fit_many(nets, [few] * len(nets), list(OBJECTIVES.values()), [RECIPE] * len(nets), seeds=[0] * 10)
        return torch.stack([weights(net) for net in nets])

    expected = together()
    request.getfixturevalue("as_on_a_gpu")
    torch.testing.assert_close(together(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize("many", [False, True])
def test_a_wrong_label_is_named_in_the_first_step_whichever_case_has_it(name, many, as_on_a_gpu):
    labels = LABELS.clone()
    labels[40] = CLASSES
    seen = []

    def objective(logits, batch):
        seen.append(batch)
        return OBJECTIVES[name](logits, batch)

    objective.needs_labels = True
    taught = OBJECTIVES[name] if many else objective
    with pytest.raises(ValueError, match=r"labels must lie between 0 and 4, or be -100 .*, but number 40 is 5"):
        training.fit_many([network()], [batches(labels)], [taught], [RECIPE], seeds=[0])
    assert seen == []


def test_labels_that_an_objective_has_no_use_for_may_be_any(as_on_a_gpu):
    trained(OBJECTIVES["soft"], labels=LABELS + 3)


def test_a_teacher_without_numbers_is_named(as_on_a_gpu):
    with pytest.raises(ValueError, match="teacher_logits holds NaN"):
        trained(OBJECTIVES["both"], teacher=lambda x: torch.full((len(x), CLASSES), math.nan))


def test_what_is_wrong_later_is_noticed_at_the_epochs_end(as_on_a_gpu):
    """Inputs that are no numbers, in a step that is not the first."""
    order = next(iter(batches(torch.arange(CASES)).views(order_of_seed_0()))).labels
    inputs = INPUTS.clone()
    inputs[next(i for i in range(CASES) if i not in order.tolist())] = math.nan
    with pytest.raises(InputError, match=r"in epoch 1: lower the learning rate .* or check the data for NaN"):
        trained(OBJECTIVES["both"], inputs=inputs)


def order_of_seed_0():
    return training.state.TrainingState(
        network(), batches(), training.hard_targets, RECIPE, 0, None, None, None, 1, None
    ).order


def test_objectives_of_ones_own_get_what_they_got_and_may_ask_whether_to_look(as_on_a_gpu):
    asked = []

    def objective(logits, batch):
        asked.append(batch.check)
        return losses.cross_entropy(logits, batch.labels)

    trained(objective)
    assert asked == [True, False, False, False, False] * 2
    expected = trained(training.hard_targets)[0]
    torch.testing.assert_close(trained(objective)[0], expected)


def test_a_loss_of_ones_own_is_not_told(as_on_a_gpu):
    trained(training.taught(lambda z, v, labels, *, weight: weight * (z - v).square().mean(), weight=2.0))


def test_a_processor_looks_in_every_step():
    asked = []

    def objective(logits, batch):
        asked.append(batch.check)
        return training.hard_targets(logits, batch)

    trained(objective)
    assert all(asked)


def test_a_training_in_fp32_convolves_in_it_on_a_gpu(monkeypatch):
    """And leaves PyTorch's switches as they were, when it ends in an error too."""
    cudnn = torch.backends.cudnn

    def within(device, precision):
        recipe = RECIPE.model_copy(update={"precision": precision})
        about = SimpleNamespace(device=torch.device(device), recipe=recipe)
        try:
            with loop._precise(about):
                seen = cudnn.allow_tf32
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            return seen, cudnn.allow_tf32

    for before in (True, False):
        monkeypatch.setattr(cudnn, "allow_tf32", before)
        assert within("cuda", "fp32") == (False, before)
        assert within("cuda", "auto") == within("cuda", "bf16") == within("cpu", "fp32") == (before, before)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="switches that came with PyTorch 2.9")
def test_switches_that_were_set_by_their_newer_names_are_heeded_too(monkeypatch):
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.allow_tf32
    about = SimpleNamespace(device=torch.device("cuda"), recipe=RECIPE)
    try:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "tf32", "ieee"
        with loop._precise(about):
            assert cudnn.conv.fp32_precision == "ieee"
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", "ieee")
    finally:
        cudnn.allow_tf32 = before
