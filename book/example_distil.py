import torch

from kdrepro import data, training
from kdrepro.networks import MLP

digits = data.digits()
few, few_labels = digits.train_images[:200], digits.train_labels[:200]
recipe = training.Recipe(epochs=60, learning_rate=3e-3)


def network(*widths, seed, **dropout):
    return MLP([64, *widths, 10], generator=torch.Generator().manual_seed(seed), **dropout)


def errors(net):
    return (training.logits(net, digits.test_images).argmax(1) != digits.test_labels).sum().item()


def main(seed=0):
    teacher, plain, student = network(256, 256, seed=seed, hidden_dropout=0.2), *(network(32, seed=seed) for _ in "ab")
    everything = training.Batches(digits.train_images, digits.train_labels, batch_size=32, jitter=1)
    training.fit(teacher, everything, training.hard_targets, training.Recipe(epochs=20, learning_rate=3e-3), seed=seed)

    soft = training.logits(teacher, few)
    batches = training.Batches(few, few_labels, batch_size=32, teacher_logits=soft)
    training.fit(plain, batches, training.hard_targets, recipe, seed=seed)
    training.fit(student, batches, training.soft_targets(temperature=4, soft_weight=0.9), recipe, seed=seed)
    return {"teacher": errors(teacher), "labels alone": errors(plain), "soft targets": errors(student)}


if __name__ == "__main__":
    print(main())
