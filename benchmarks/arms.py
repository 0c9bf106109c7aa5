"""The contestants: several ways of doing the same distillation.

An arm prepares what a user would prepare once (copies of the networks, a data set, an optimizer) and returns a function
that trains for all of the work's epochs and gives back the mean loss of the last one. Every arm gets the same images,
teacher, student, batch size, number of steps and optimizer (Adam at a constant rate).
"""

import copy
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from kdrepro import losses, training
from kdrepro.networks import MLP

TORCHDISTILL = Path(__file__).parent / ".torchdistill"  # where `make bench` puts it, beside no other package


@dataclass(frozen=True)
class Work:
    """What every arm does. inputs: uint8 [N, 28, 28] on the device, N a multiple of batch_size; labels: int64 [N]."""

    inputs: torch.Tensor
    labels: torch.Tensor
    teacher: MLP
    student: MLP
    batch_size: int
    epochs: int
    temperature: float = 20.0
    soft_weight: float = 1.0
    learning_rate: float = 1e-3
    networks: int = 10  # of the arms that train several
    workers: int = 0  # processes of each DataLoader

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    def first(self, cases: int, epochs: int = 1) -> "Work":
        """The same on the first cases only."""
        return replace(self, inputs=self.inputs[:cases], labels=self.labels[:cases], epochs=epochs)


Train = Callable[[], float]  # trains, and returns the mean loss of the last epoch


@dataclass(frozen=True)
class Arm:
    """One way of doing the work. prepare: (work, precision) -> Train. several: trains work.networks networks."""

    name: str
    title: str  # for tables and charts; {n} stands for the number of networks
    prepare: Callable[[Work, str], Train]
    precision: str = "fp32"  # that it is timed in; the losses are compared in fp32
    several: bool = False
    stored: bool = False  # the teacher's logits are computed once, before the clock starts, and looked up
    missing: Callable[[torch.device], str | None] = lambda device: None  # why it cannot run there

    def networks(self, work: Work) -> int:
        return work.networks if self.several else 1


def images(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """MNIST-shaped cases: ten blurred patterns, each with noise. uint8 [count, 28, 28] and labels [count]."""
    patterns = torch.rand(10, 7, 7, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels = torch.randint(10, (count,), generator=generator)
    noise = torch.rand(count, 28, 28, generator=generator)
    return (255 * (0.7 * patterns[labels] + 0.3 * noise)).to(torch.uint8), labels


def work(student: list[int], teacher: list[int], count: int, seed: int, device: torch.device, **options) -> Work:
    """Networks with their initial weights, and `count` images, all drawn from one seed."""
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = images(count, generator)
    networks = [MLP(widths, generator=generator).to(device) for widths in (teacher, student)]
    return Work(inputs.to(device), labels.to(device), networks[0].eval().requires_grad_(False), networks[1], **options)


def reference_loss(work: Work) -> float:
    """The loss of the student's initial weights on all of the work's cases, in float32."""
    student, teacher = (training.logits(network, work.inputs) for network in (work.student, work.teacher))
    given = {"temperature": work.temperature, "soft_weight": work.soft_weight}
    return losses.distillation_loss(student, teacher, work.labels, **given).item()


# ---- kdrepro


def _given(
    work: Work, precision: str, stored: torch.Tensor | None = None
) -> tuple[training.Batches, training.Objective, training.Recipe]:
    """What `fit` takes beside the network. stored: the teacher's logits, None to ask the teacher in every step."""
    teacher = {"teacher": work.teacher} if stored is None else {"teacher_logits": stored}
    batches = training.Batches(work.inputs, work.labels, batch_size=work.batch_size, **teacher)
    recipe = training.Recipe(
        epochs=work.epochs,
        batch_size=work.batch_size,
        optimizer="adam",
        learning_rate=work.learning_rate,
        schedule="constant",
        warmup=0.0,
        precision=precision,
    )
    return batches, training.soft_targets(work.temperature, work.soft_weight), recipe


def _fit(work: Work, precision: str) -> Train:
    given, student = _given(work, precision), copy.deepcopy(work.student)
    return lambda: training.fit(student, *given)[-1]["loss"]


def _fit_in_turn(work: Work, precision: str, stored: torch.Tensor | None = None) -> Train:
    given, students = _given(work, precision, stored), [copy.deepcopy(work.student) for _ in range(work.networks)]

    def train() -> float:
        last = [training.fit(student, *given, seed=seed)[-1] for seed, student in enumerate(students)]
        return sum(row["loss"] for row in last) / len(last)

    return train


def _fit_many(work: Work, precision: str, stored: torch.Tensor | None = None, capture: bool = False) -> Train:
    given = [_given(work, precision, stored) for _ in range(work.networks)]
    batches, objectives, recipes = zip(*given, strict=True)
    students = [copy.deepcopy(work.student) for _ in given]

    def train() -> float:
        seeds = range(work.networks)
        histories = training.fit_many(students, batches, objectives, recipes, seeds=seeds, capture=capture)
        return sum(history[-1]["loss"] for history in histories) / len(histories)

    return train


def _stored(prepare: Callable[..., Train]) -> Callable[[Work, str], Train]:
    """The same from stored logits."""
    return lambda work, precision: prepare(work, precision, training.logits(work.teacher, work.inputs))


def _captured(work: Work, precision: str) -> Train:
    return _fit_many(work, precision, training.logits(work.teacher, work.inputs), capture=True)


def captured_missing(device: torch.device) -> str | None:
    """Why nothing can be captured, or None."""
    return "captures CUDA graphs, which takes a GPU" if device.type == "cpu" else None


# ---- ordinary PyTorch


class Images(Dataset):
    """Stored images and labels, each image turned into floats when it is asked for, as torchvision's data sets do."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor):
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[i].float().div(255), self.labels[i]


def kd_loss(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, work: Work) -> torch.Tensor:
    """The loss as most people write it: `kl_div` of softened logits, times the temperature squared."""
    T = work.temperature
    soft = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher / T, 1), reduction="batchmean")
    loss = work.soft_weight * T**2 * soft
    if work.soft_weight < 1:
        loss = loss + (1 - work.soft_weight) * F.cross_entropy(student, labels)
    return loss


def _loop(work: Work, batches: Callable[[], Iterator], precision: str = "fp32", fused: bool = False) -> Train:
    """The usual loop over what `batches` gives in an epoch; fused: one kernel for all of Adam."""
    student, teacher = copy.deepcopy(work.student), work.teacher
    optimizer = torch.optim.Adam(student.parameters(), lr=work.learning_rate, fused=fused or None)
    bf16 = precision == "bf16" or (precision == "auto" and training.gains_from_bf16(work.device))

    def train() -> float:
        teacher.eval()
        student.train()
        for _ in range(work.epochs):
            running_loss, steps = 0.0, 0
            for inputs, labels in batches():
                inputs, labels = inputs.to(work.device), labels.to(work.device)
                optimizer.zero_grad()
                with torch.autocast(work.device.type, torch.bfloat16, enabled=bf16):
                    with torch.no_grad():
                        teacher_logits = teacher(inputs)
                    student_logits = student(inputs)
                loss = kd_loss(student_logits, teacher_logits, labels, work)
                loss.backward()
                optimizer.step()
                running_loss, steps = running_loss + loss.item(), steps + 1
        return running_loss / steps

    return train


def _dataloader(work: Work, precision: str) -> Train:
    dataset = Images(work.inputs.cpu(), work.labels.cpu())
    loader = DataLoader(dataset, batch_size=work.batch_size, shuffle=True, num_workers=work.workers)
    return _loop(work, lambda: iter(loader), precision)


def _slices(work: Work) -> Callable[[], Iterator]:
    """Batches cut out of one float tensor by a random permutation."""
    inputs = work.inputs.float().div(255)

    def batches() -> Iterator:
        for chosen in torch.randperm(len(inputs), device=inputs.device).split(work.batch_size):
            yield inputs[chosen], work.labels[chosen]

    return batches


def _in_memory(work: Work, precision: str) -> Train:
    return _loop(work, _slices(work), precision)


def _tuned(work: Work, precision: str) -> Train:
    return _loop(work, _slices(work), precision, fused=True)


# ---- torchdistill


def torchdistill_missing(device: torch.device) -> str | None:
    """Why torchdistill cannot be imported, or None."""
    if TORCHDISTILL.is_dir() and str(TORCHDISTILL) not in sys.path:
        sys.path.append(str(TORCHDISTILL))
    try:
        import torchdistill.core.distillation  # noqa: F401
    except Exception as error:  # whatever an import can raise, the other arms go on
        said = re.sub(r"\S*/\S*", "...", str(error))  # the reason is published, folders are nobody's business
        return f"cannot be imported ({type(error).__name__}: {said})"
    return None


def torchdistill_config(work: Work) -> dict:
    """Its configuration of this work: its own KDLoss, optimizer and data loader."""
    hard = 1 - work.soft_weight
    logits = {f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in _OUTPUT.items()}
    kd = {"key": "KDLoss", "kwargs": {**logits, "temperature": work.temperature, "alpha": hard}}
    # With alpha = 0 its KDLoss returns the divergence without the temperature squared, so that the weight supplies it.
    weight = work.temperature**2 if hard == 0 else 1.0
    loader = {
        "dataset_id": "images",
        "sampler": {"class_or_func": RandomSampler},
        "kwargs": {"batch_size": work.batch_size, "num_workers": work.workers},
    }
    return {
        "num_epochs": work.epochs,
        "train_data_loader": loader,
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "Adam", "kwargs": {"lr": work.learning_rate}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": weight}}},
        },
    }


_OUTPUT = {"path": ".", "io": "output"}  # where torchdistill finds a network's logits


def _torchdistill(work: Work, precision: str) -> Train:
    from torchdistill.core.distillation import get_distillation_box

    datasets = {"images": Images(work.inputs.cpu(), work.labels.cpu())}
    networks = copy.deepcopy(work.teacher), copy.deepcopy(work.student)
    box = get_distillation_box(*networks, datasets, torchdistill_config(work), work.device, [], False, 1.0)
    box.teacher_model.eval()  # the box leaves it in whatever mode it came

    def train() -> float:
        for epoch in range(work.epochs):
            box.pre_epoch_process(epoch=epoch)
            running_loss = 0.0
            for inputs, labels, extra in box.train_data_loader:
                inputs, labels = inputs.to(work.device), labels.to(work.device)
                box.pre_forward_process()
                loss = box.forward_process(inputs, labels, extra)
                box.post_forward_process(loss=loss)
                running_loss += loss.item()
            box.post_epoch_process()
        return running_loss / len(box.train_data_loader)

    return train


ARMS = (
    Arm("fit", "fit", _fit, "auto"),
    Arm("fit-fp32", "fit, float32", _fit),
    Arm("in-turn", "fit, {n} in turn", _fit_in_turn, "auto", several=True),
    Arm("fit-many", "fit_many, {n} at once", _fit_many, "auto", several=True),
    Arm("stored-in-turn", "fit, {n} in turn, stored logits", _stored(_fit_in_turn), "auto", several=True, stored=True),
    Arm("stored-many", "fit_many, {n} at once, stored logits", _stored(_fit_many), "auto", several=True, stored=True),
    Arm(
        "captured-many",
        "{n} at once, stored logits, captured",
        _captured,
        "auto",
        several=True,
        stored=True,
        missing=captured_missing,
    ),
    Arm("dataloader", "loop, DataLoader", _dataloader),
    Arm("in-memory", "loop, in memory", _in_memory),
    Arm("tuned", "loop, in memory, tuned", _tuned, "auto"),
    Arm("torchdistill", "torchdistill", _torchdistill, missing=torchdistill_missing),
)
