"""One training of each kind on the device that `pytest --device` names, beside the same on the processor."""

import pytest
import torch

from kdrepro import training
from kdrepro.networks import MLP, ConvNet
from kdrepro.training import Batches, Recipe

RECIPE = Recipe(epochs=6, batch_size=64, learning_rate=1e-2, precision="fp32")


def network(seed=0, **dropout):
    return MLP([64, 32, 10], generator=torch.Generator().manual_seed(seed), **dropout)


def errors(net, digits):
    return int((training.logits(net, digits.test_images).argmax(1) != digits.test_labels).sum())


@pytest.fixture(scope="module")
def there(digits, device):
    return digits.to(device)


def batches(data, **options):
    return Batches(data.train_images, data.train_labels, batch_size=64, **options)


def test_networks_learn_there_alone_and_in_a_stack(there, device):
    """What is drawn at random is another draw on another device, so the errors are compared, not the bits."""
    teacher = network(hidden_dropout=0.2).to(device)
    training.fit(teacher, batches(there, jitter=1), training.hard_targets, RECIPE)
    students = [network(seed).to(device) for seed in range(3)]
    soft = training.soft_targets(4, 0.5)
    training.fit_many(
        students, [batches(there, teacher=teacher.eval()) for _ in students], [soft] * 3, [RECIPE] * 3, seeds=range(3)
    )
    assert max(errors(net, there) for net in (teacher, *students)) < 120  # of 500; guessing makes 450


def test_a_convolutional_net_learns_there(there, device):
    net = ConvNet([8, 16], in_channels=1, classes=10, generator=torch.Generator().manual_seed(0)).to(device)
    training.fit(net, batches(there), training.hard_targets, RECIPE)
    assert errors(net, there) < 120


def test_an_interrupted_training_goes_on_there(there, device, tmp_path):
    """To the same errors within a few: a GPU need not add up in the same order twice."""
    whole, parts = network().to(device), network().to(device)
    training.fit(whole, batches(there), training.hard_targets, RECIPE)

    def stop(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    options = {"checkpoint": tmp_path / "state.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        training.fit(parts, batches(there), training.hard_targets, RECIPE, progress=stop, **options)
    training.fit(parts, batches(there), training.hard_targets, RECIPE, **options)
    assert abs(errors(whole, there) - errors(parts, there)) <= (0 if device.type == "cpu" else 15)


def test_no_step_but_an_epochs_first_waits_for_it(there, device, monkeypatch):
    """By PyTorch's own check; `test_devices` has more kinds of trainings, without a GPU."""
    if device.type != "cuda":
        pytest.skip("asks CUDA what it waits for")
    teacher = network(9).to(device).eval()
    cases = batches(there, teacher_logits=training.logits(teacher, there.train_images))

    def strict(take):
        def one(self, given, step):
            loss = take(self, given, step)
            last = (step + 1) % len(cases) == 0
            torch.cuda.set_sync_debug_mode("default" if last else "error")
            return loss

        return one

    for kind in (training.steps.Alone, training.steps.Together):
        monkeypatch.setattr(kind, "take", strict(kind.take))
    options = {"input_dropout": 0.2, "hidden_dropout": 0.5}
    recipe = RECIPE.model_copy(update={"epochs": 2})
    objectives = [
        training.hard_targets,
        training.soft_targets(4, 0.5),
        training.soft_targets(2),
        training.matched_logits,
    ]
    try:
        for objective in objectives:
            training.fit(network(**options).to(device), cases, objective, recipe)
        nets = [network(seed, **options).to(device) for seed in range(4)]
        training.fit_many(nets, [cases] * 4, objectives, [recipe] * 4, seeds=range(4))
        net = ConvNet([8, 16], in_channels=1, classes=10, dropout=0.2).to(device)
        training.fit(net, batches(there, teacher=teacher), objectives[1], recipe.model_copy(update={"averaging": 0.9}))
    finally:
        torch.cuda.set_sync_debug_mode("default")
