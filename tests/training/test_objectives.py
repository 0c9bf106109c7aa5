"""What a training minimises."""

import pytest
import torch
from training_cases import RECIPE, fit, network

from kdrepro import losses, training
from kdrepro.training import Batches, Recipe
from kdrepro.training.objectives import loss_of


def test_distillation_agrees_with_the_teacher(digits):
    """A student of soft targets alone, which never sees a label, answers as its teacher does."""
    teacher, student = network(1), network(2)
    fit(teacher, digits, recipe=RECIPE.model_copy(update={"batch_size": 32, "epochs": 10, "max_norm": None}), jitter=0)
    batches = Batches(digits.train_images, batch_size=32, teacher_logits=training.logits(teacher, digits.train_images))
    recipe = Recipe(epochs=15, batch_size=32, learning_rate=1e-2, precision="fp32")
    training.fit(student, batches, training.soft_targets(temperature=20), recipe)
    answers = [training.logits(net, digits.test_images).argmax(1) for net in (teacher, student)]
    assert (answers[0] == answers[1]).float().mean() > 0.92


def test_a_loss_of_the_package_is_an_objective_by_its_settings(generator):
    z, v = torch.randn(2, 6, 4, generator=generator)
    batch = training.Batch(torch.zeros(6), torch.arange(6) % 4, v)
    objective = training.taught(losses.decoupled_loss, temperature=3.0, soft_weight=0.4, beta=2.0)
    expected = losses.decoupled_loss(z, v, batch.labels, temperature=3.0, soft_weight=0.4, beta=2.0)
    assert objective(z, batch).item() == expected.item()
    with pytest.raises(ValueError, match="needs a teacher"):
        objective(z, training.Batch(torch.zeros(6), batch.labels))
    other = training.taught(losses.decoupled_loss, temperature=3.0, soft_weight=0.4, beta=8.0)
    assert training.digest(objective) != training.digest(other)  # what a checkpoint is told apart by


@pytest.mark.parametrize(
    ("loss", "settings", "sentence"),
    [
        (losses.logit_matching_loss, {}, "taught calls logit_matching_loss.* see .*matched_logits"),
        (losses.cross_entropy, {}, "taught calls cross_entropy.* see training.hard_targets"),
        (losses.distillation_loss, {}, "does not fit .*'temperature'"),
        (losses.decoupled_loss, {"temprature": 3.0}, "does not fit .*: mend the settings"),
        (lambda z, v: z.sum(), {}, "taught calls <lambda>"),
        ("decoupled_loss", {}, "loss must be a function"),
    ],
)
def test_a_loss_of_other_arguments_is_refused_at_once(loss, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        training.taught(loss, **settings)


def test_what_an_objective_misses_is_said(generator):
    z = torch.randn(6, 4, generator=generator)
    with pytest.raises(ValueError, match="This objective needs labels, and the batches have none"):
        training.hard_targets(z, training.Batch(torch.zeros(6)))
    with pytest.raises(ValueError, match="without detach, item or no_grad"):
        loss_of(torch.no_grad()(lambda z, batch: z.sum()), z.requires_grad_(), training.Batch(torch.zeros(6)))


def test_whether_values_are_looked_at_makes_no_other_training(monkeypatch):
    """A checkpoint of before losses were told is gone on from."""
    objective = training.taught(losses.decoupled_loss, temperature=3.0)
    told = training.digest(objective)
    given = dict(losses.decoupled_loss.__kwdefaults__)
    monkeypatch.setattr(losses.decoupled_loss, "__kwdefaults__", given | {"alpha": 2.0})
    assert training.digest(objective) != told
    given.pop("check")
    monkeypatch.setattr(losses.decoupled_loss, "__kwdefaults__", given)
    assert training.digest(objective) == told
