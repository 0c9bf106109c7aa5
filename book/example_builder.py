import torch
from torch import nn
from torch.utils.data import DataLoader

from kdrepro import data, ensembles, training

recipe = training.Recipe(epochs=8, learning_rate=1e-2)


def transform(image):
    return (image / 255) ** 0.8


def net(channels):
    layers = nn.Conv2d(1, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(nn.Unflatten(1, (1, 8)), *layers, nn.Linear(16 * channels, 10))


def trained(nets, batches, losses):  # together, where that is faster on this machine
    training.fit_many(nets, [batches] * 3, losses, [recipe] * 3, seeds=range(3), stack=True)
    return nets


def main():
    torch.manual_seed(0)  # of PyTorch's initial weights
    digits = data.digits()
    labelled = zip(map(transform, digits.train_images[:400]), digits.train_labels[:400], strict=True)
    loader = training.Batches(DataLoader(list(labelled), batch_size=32))
    teachers = trained([net(16) for _ in range(3)], loader, [training.hard_targets] * 3)
    unlabelled, student = transform(digits.train_images[400:]), net(4)
    asked = training.Batches(unlabelled, batch_size=32, jitter=1, teacher=ensembles.Average(teachers))
    training.fit(student, asked, training.soft_targets(temperature=4), recipe)
    stored = ensembles.log_average(torch.stack([training.logits(teacher, unlabelled) for teacher in teachers]))
    batches = training.Batches(unlabelled, batch_size=32, teacher_logits=stored)
    students = trained([net(4) for _ in range(3)], batches, [training.soft_targets(t) for t in (1, 4, 20)])
    nets = dict(zip(("teacher", "asked", "T = 1", "T = 4", "T = 20"), [teachers[0], student, *students], strict=True))
    answers = {name: training.logits(one, transform(digits.test_images)).argmax(1) for name, one in nets.items()}
    return {name: int((one != digits.test_labels).sum()) for name, one in answers.items()}


if __name__ == "__main__":
    print(main())
