"""What a training minimises."""

from training_cases import RECIPE, fit, network

from kdrepro import training
from kdrepro.training import Batches, Recipe


def test_distillation_agrees_with_the_teacher(digits):
    """A student of soft targets alone, which never sees a label, answers as its teacher does."""
    teacher, student = network(1), network(2)
    fit(teacher, digits, recipe=RECIPE.model_copy(update={"batch_size": 32, "epochs": 10, "max_norm": None}), jitter=0)
    batches = Batches(digits.train_images, batch_size=32, teacher_logits=training.logits(teacher, digits.train_images))
    recipe = Recipe(epochs=15, batch_size=32, learning_rate=1e-2, precision="fp32")
    training.fit(student, batches, training.soft_targets(temperature=20), recipe)
    answers = [training.logits(net, digits.test_images).argmax(1) for net in (teacher, student)]
    assert (answers[0] == answers[1]).float().mean() > 0.92
