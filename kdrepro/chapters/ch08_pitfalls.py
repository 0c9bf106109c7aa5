"""Chapter 8: students with a mistake of published code and without it, and what it costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from torch import nn

from kdrepro import training
from kdrepro.chapters.ch02_mnist import by_holm, pupils
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.images import ImageExperiment
from kdrepro.chapters.sizes import Training
from kdrepro.diagnosis import finding
from kdrepro.networks import use_generator

SHIFT = "shift fitted to test labels"
EPOCH = "best epoch on the test set"
CHOICES = (EPOCH, SHIFT)  # what a report chooses on test images can't look worse than the rest: no test's matter


@dataclass(frozen=True)
class Sighting:
    """Where a mistake was seen (text and address), and a line of code that notices it."""

    where: str
    address: str
    notice: str


_KD_PYTORCH = "https://github.com/haitongli/knowledge-distillation-pytorch"
_KERAS = "https://github.com/keras-team/keras-io/blob/1da2fde/examples/vision/knowledge_distillation.py"
SEEN = {
    finding.CLASS_MEAN: Sighting(
        "knowledge-distillation-pytorch; asked about DeiT's",
        f"{_KD_PYTORCH}/blob/862fcd8/model/net.py",
        "`soft(z, v)` is that of `z.repeat(1, 2), v.repeat(1, 2)`",
    ),
    finding.NO_T2: Sighting("Keras' first example", _KERAS, "`soft` at T = 1000 is about that at 100"),
    finding.TRAIN_MODE: Sighting(
        "asked about overhaul-distillation",
        "https://github.com/clovaai/overhaul-distillation/issues/37",
        "`assert not teacher.training`",
    ),
    finding.MOVED: Sighting(
        "knowledge-distillation-pytorch", f"{_KD_PYTORCH}/issues/23", "`stored[i].allclose(teacher(images[i]))`"
    ),
    finding.SHUFFLED: Sighting(
        "knowledge-distillation-pytorch",
        f"{_KD_PYTORCH}/issues/4",
        "`stored.argmax(1) == labels` nearly always",
    ),
    finding.ONE_LOG: Sighting("ProDA", "https://github.com/microsoft/ProDA/issues/20", "`soft(v, v) == 0`"),
    finding.ALPHA: Sighting(
        "labels' weight in torchdistill, soft targets' in knowledge-distillation-pytorch",
        "https://github.com/yoshitomo-matsubara/torchdistill/blob/main/torchdistill/losses/mid_level.py",
        "`loss(v, v)` is `(1 - w) * F.cross_entropy(v, labels)`",
    ),
    finding.HALF: Sighting(
        "speculators, whose nets are cast to bfloat16",
        "https://github.com/vllm-project/speculators/pull/788",
        "`log_q.dtype == torch.float32`",
    ),
    finding.RELU: Sighting(
        "knowledge-distillation-mnist",
        "https://github.com/ch-andrei/knowledge-distillation-mnist",
        "`assert teacher(images).min() < 0`",
    ),
    finding.SWAPPED: Sighting(
        "Keras' first example, which swaps the nets",
        _KERAS,
        "`soft(z, v)` is `losses.distillation_loss(z, v, temperature=T)`",
    ),
    EPOCH: Sighting(
        "mdistiller's reports",
        "https://github.com/megvii-research/mdistiller/issues/30",
        "no `test_acc > best` in the code",
    ),
    SHIFT: Sighting("the paper's Section 3", "https://arxiv.org/abs/1503.02531", "it reads no test label"),
    finding.SMOOTHED: Sighting(
        "warned of by Müller et al.", "https://arxiv.org/abs/1906.02629", "`teacher(images).softmax(1).max()` is near 1"
    ),
}


def students(
    run: ImageExperiment,
    plan: Training,
    teachers: Sequence[Trained],
    fault: str = "",
    objective: training.Objective | None = None,
    batches: Callable[[int, Trained], training.Batches] | None = None,
) -> list[Trained]:
    """Students of these teachers, `students_each` of each: turn by turn, the teachers in their order.

    fault: a name for what is done otherwise than the plan says; with it the objective, or what takes a seed and a
    teacher to batches. Where the plan has a curve, the errors on each half of the test images are noted.
    """
    asked = []
    for seed, teacher in pupils(run.seeds, teachers, run.sizes.students_each * len(run.seeds)):
        one = run.request(plan, seed, teacher, name=fault or "no fault")
        config = dict(one.config)
        if plan.curve:
            config["noted"] = "errors of each half"
            one = replace(one, evaluate=partial(errors_by_half, run))
        if fault:
            config["pitfall"] = fault
            one = replace(one, objective=objective or one.objective)
            one = one if batches is None else replace(one, batches=partial(batches, seed, teacher))
        asked.append(replace(one, config=config))
    return run.train_many(asked)


def smoothed_teachers(run: ImageExperiment, plan: Training, smoothing: float) -> list[Trained]:
    """Teachers by this plan whose labels are smoothed: (1 - smoothing) y + smoothing / C (Müller et al. 2019)."""
    asked = [run.request(plan, seed, name="label-smoothed teacher") for seed in run.seeds]
    objective = partial(smoothed_targets, smoothing=smoothing)
    return run.train_many(
        [replace(one, config={**one.config, "smoothing": smoothing}, objective=objective) for one in asked]
    )


def smoothed_targets(logits: torch.Tensor, batch: training.Batch, smoothing: float) -> torch.Tensor:
    """The cross-entropy with smoothed labels, logits [B, C] to a scalar."""
    return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=smoothing)


def errors_by_half(run: ImageExperiment, network: nn.Module) -> dict[str, int]:
    """Test errors, and those on the images of even number."""
    wrong = training.logits(network, run.data.test_images).argmax(1) != run.data.test_labels
    return {"errors": int(wrong.sum()), "errors of half": int(wrong[::2].sum())}


def in_train_mode(teacher: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A teacher that nobody has put into eval mode. Its dropout masks follow from the images it is asked about."""

    def asked(images: torch.Tensor) -> torch.Tensor:
        use_generator(teacher, torch.Generator(images.device).manual_seed(int(1000 * images.double().sum())))
        teacher.train()
        try:
            return teacher(images)
        finally:
            teacher.eval()

    return asked


# --- what it costs ---------------------------------------------------------------------------------------------------


def by_teacher(run: ImageExperiment, values: Sequence[float]) -> np.ndarray:
    """The mean over each teacher's students, [seeds], of one value a student in the order of `students`."""
    return np.reshape(np.asarray(values, float), (-1, len(run.seeds))).mean(0)


def errors(run: ImageExperiment, nets: Sequence[Trained]) -> np.ndarray:
    """Test errors [seeds], the mean over each teacher's students."""
    return by_teacher(run, run.errors(nets))


def publish_right(run: ImageExperiment, name: str, nets: Sequence[Trained]) -> None:
    """Keep beside the record which test images students get right, turn by turn."""
    for turn in range(0, len(nets), len(run.seeds)):
        run.publish_right(f"{name}, student {turn // len(run.seeds) + 1}", nets[turn : turn + len(run.seeds)])


def publish_halves(run: ImageExperiment, name: str, nets: Sequence[Trained]) -> np.ndarray:
    """Keep beside the record each student's errors on either half by epoch: [students, 2, epochs], returned."""
    whole, half = (
        np.array([[row[key] for row in net.history] for net in nets]) for key in ("errors", "errors of half")
    )
    run.predictions[f"{name}.errors of halves"] = np.stack([half, whole - half], 1)
    return run.predictions[f"{name}.errors of halves"]


def price_table(prices: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """A row a mistake: errors without it and with it, and what it adds.

    prices: by its name, errors [seeds] without and with it. p-values are of paired t tests over the seeds, by Holm for
    all mistakes but `CHOICES`, which flatter by construction and have a dash.
    """
    tests, rows = by_holm({name: (wrong, right) for name, (right, wrong) in prices.items()}, apart=CHOICES), {}
    for name, (right, wrong) in prices.items():
        added, p = tests[name]
        means = {"errors without": f"{right.mean():.1f}", "with": f"{wrong.mean():.1f}"}
        rows[name] = means | {"added [95 %]": added, "p, by Holm": p}
    return pd.DataFrame(rows).T


def sightings() -> Markdown:
    """A row a mistake: where it was seen, and how to notice it."""
    rows = [f"| {name} | [{seen.where}]({seen.address}) | {seen.notice} |" for name, seen in SEEN.items()]
    return Markdown("\n".join(["| mistake | seen in | one line that notices it |", "|---|---|---|", *rows]))
