"""The one training loop: cases on the device, a recipe, an objective, a checkpoint.

`fit` trains one network and `fit_many` several; everything random comes from two generators made from
one seed, so that on a CPU the same seed gives the same weights bit for bit, also after an interruption.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrepro.networks import use_generator
from kdrepro.paths import expanded
from kdrepro.training import vmapped
from kdrepro.training.batches import CaseSource
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.training.lanes import LEAST_WEIGHTS, Lane, side_by_side
from kdrepro.training.memory import machine_memory
from kdrepro.training.objectives import Objective
from kdrepro.training.recipe import Recipe
from kdrepro.training.state import TrainingState
from kdrepro.training.steps import Alone, Together, check_capture

CHECKPOINT_SECONDS = 60.0  # at most this long between two checkpoints; there is one after every epoch too


def fit(
    network: nn.Module,
    batches: CaseSource,
    objective: Objective,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | Path | str | None = None,
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None,
    evaluate_every: int = 1,
    keep_best: str | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network in place and return its history, a row an epoch.

    network: on the batches' device; returns logits, or something with `logits` in it. Layers that are in eval mode
        while the network is in train mode, and those without a trained parameter in a network that is in eval mode,
        stay in eval mode; it ends in eval mode as a whole.
    batches: `Batches`, or what is like them (see `CaseSource`).
    objective: `hard_targets`, `soft_targets(...)`, `matched_logits`, or a function of one's own that takes logits and a
        `Batch` to a scalar. A case of the label -100 has none: the hard loss leaves it out, the soft one does not.
    seed: of the order of cases, the jitter and the dropout masks.
    checkpoint: a file, resumed from if it holds a state; saved after every epoch and every 60 s within one.
        On a CPU the resumed training ends bit for bit where an uninterrupted one does. A state of another training
        (network, objective, labels, teacher, recipe, seed, cases) is refused and left as it is.
    evaluate: gives figures of the network, which is in eval mode and has no gradients there, to add to a row, every
        `evaluate_every` epochs and after the last.
    keep_best: early stopping after the fact: the network ends with the weights of the row in which this figure of
        `evaluate` was highest (the first such row), not with the last ones; the history keeps all rows.
    progress: called with each finished row.
    On a GPU, which would be waited for each time, values are looked at in the first step of each epoch and at its end;
    on a CPU in each step.
    A row: epoch (from 1), loss (mean over the epoch), cases_per_second, seconds (since the start,
    interruptions left out), and what evaluate gave.
    Raises InputError when the loss is no longer finite (the last checkpoint stays) and for another training's
    checkpoint. Raises ValueError, before anything is trained where that can be known, for arguments that do not fit.
    """
    training = TrainingState(
        network, batches, objective, recipe, seed, checkpoint, evaluate, progress, evaluate_every, keep_best
    )
    _train([training], Alone(training), Lane())
    return training.history


def fit_many(
    networks: Sequence[nn.Module],
    batches: Sequence[CaseSource],
    objectives: Sequence[Objective],
    recipes: Sequence[Recipe],
    *,
    seeds: Sequence[int],
    checkpoints: Sequence[Checkpoint | Path | str | None] | None = None,
    evaluate: Sequence[Callable[[nn.Module], dict[str, Any]] | None] | None = None,
    progress: Sequence[Callable[[dict[str, Any]], None]] | None = None,
    finished: Callable[[int], None] | None = None,
    evaluate_every: int | Sequence[int] = 1,
    keep_best: str | Sequence[str | None] | None = None,
    stack: bool = False,
    capture: bool = False,
) -> list[list[dict[str, Any]]]:
    """Train several networks, each with its own cases, objective, recipe and seed; returns their histories.

    checkpoints, evaluate, progress: one a network; evaluate_every, keep_best: one for all, or one a network. All are as
        in `fit`.
    finished: called with a network's position as soon as it is trained, while others may still wait for their turn.
    Each member gets what `fit` alone would give it, to rounding, and on a CPU the same bits whatever it is trained
    with. `MLP`s of one shape, with as many cases each, and with recipes that differ in nothing but the learning rate,
    train together as batched matrix products, as many at once as memory holds, and on a CPU in as many groups side by
    side as PyTorch has threads, one thread a group; a row's seconds are then the member's share of the time. All others
    train one after the other. evaluate, progress and finished are called from the threads of the groups.
    stack: train networks of any other one kind together too, by `torch.func`, where that is faster: a step of theirs is
    timed on copies, and a warning says where it is not. Such networks get what `fit` gives to rounding, not to the bit.
    Raises ValueError for a stack of networks with batch normalisation, dropout or frozen layers, when the sequences
    differ in length or two members share a network or a checkpoint, and whatever `fit` raises.
    """
    networks = _listed(networks, "networks")
    given = {"networks": networks, "batches": batches, "objectives": objectives, "recipes": recipes, "seeds": seeds}
    options = {"checkpoints": checkpoints, "evaluate": evaluate, "progress": progress}
    options |= {"evaluate_every": evaluate_every, "keep_best": keep_best}
    for name, option in options.items():
        given[name] = option if isinstance(option, list | tuple) else [option] * len(networks)
    given = {name: _listed(each, name, len(networks)) for name, each in given.items()}
    _check_apart(networks, "network")
    _check_apart([getattr(one, "path", one) for one in given["checkpoints"]], "checkpoint")
    if finished is not None and not callable(finished):
        raise ValueError(f"finished must be a function, or None, not {finished!r}.")
    trainings = [TrainingState(*member) for member in zip(*given.values(), strict=True)]
    for training in trainings if stack else ():
        training.stacked = not training.stackable
        if training.stacked:
            vmapped.check(training)
    for training in trainings if capture else ():
        check_capture(training)

    def train(group: list[TrainingState], lane: Lane) -> None:
        joint = group[0].stackable or (len(group) > 1 and vmapped.pays(group))
        for part in [group] if joint else [[training] for training in group]:
            _train(part, Together(part, capture) if joint else Alone(part[0]), lane)
            for training in part if finished else ():
                finished(trainings.index(training))

    for groups in _rounds(trainings):
        side_by_side(train, groups)
    return [training.history for training in trainings]


def _listed(given: Any, name: str, count: int | None = None) -> list[Any]:
    """A list of as many as there are networks. Raises ValueError."""
    if not isinstance(given, Iterable) or isinstance(given, Recipe | str):
        raise ValueError(f"{name} must be a list, with one for each network, not a {type(given).__name__}.")
    found = list(given)
    if count is not None and len(found) != count:
        raise ValueError(f"{name} has {len(found)}, but there are {count} networks: give one for each.")
    return found


def _check_apart(things: Sequence[Any], name: str) -> None:
    """Raises ValueError where two members would share what each must have for itself."""
    seen: dict[Any, int] = {}
    for m, one in enumerate(things):
        path = expanded(one).resolve() if isinstance(one, str | Path) else one
        first = seen.setdefault(str(path) if isinstance(path, Path) else id(path), m)
        if one is not None and first != m:
            raise ValueError(f"{name}s {first} and {m} are one and the same: give each training its own {name}.")


def _rounds(trainings: Sequence[TrainingState]) -> list[list[list[TrainingState]]]:
    """Groups that train together, in rounds of groups that train side by side; in the order of their first members."""
    alike: dict[Any, list[TrainingState]] = {}
    for training in trainings:
        alike.setdefault(training.kind(), []).append(training)
    return [groups for members in alike.values() for groups in _rounds_of_one_kind(members)]


def _rounds_of_one_kind(members: list[TrainingState]) -> Iterator[list[list[TrainingState]]]:
    """As many groups at once as there are threads, of equal size; what is left over, as one group, has all threads."""
    one = members[0]
    most = max(1, memory_budget(one.device) // one.bytes_needed()) if len(members) > 1 else 1
    lanes = (
        torch.get_num_threads() if one.device.type == "cpu" and one.stackable and one.weights >= LEAST_WEIGHTS else 1
    )
    while lanes > 1 and min(len(members), most) >= lanes:
        size = min(len(members), most) // lanes
        yield [members[i * size : (i + 1) * size] for i in range(lanes)]
        members = members[lanes * size :]
    for i in range(0, len(members), most):
        yield [members[i : i + most]]


def memory_budget(device: torch.device) -> int:
    """Bytes that networks which train together may take: half of a GPU's free memory, a quarter of a machine's."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, but free
        return (torch.cuda.mem_get_info(device)[0] + kept) // 2
    return machine_memory() // 4


def _train(trainings: Sequence[TrainingState], steps: Alone | Together, lane: Lane) -> None:
    """Train one network, or several in step with each other."""
    try:
        with _denormals_flushed(), _precise(trainings[0]):
            for epoch in range(trainings[0].epoch, trainings[0].recipe.epochs):
                _train_epoch(trainings, steps, epoch, lane)
                for training in trainings:
                    training.finish_epoch(steps)
    finally:
        steps.close()
    for training in trainings:
        training.restore_best()
        use_generator(training.network, None)
        training.network.eval()


def _train_epoch(trainings: Sequence[TrainingState], steps: Alone | Together, epoch: int, lane: Lane) -> None:
    for training in trainings:
        training.start_epoch()
    began, count, first = time.monotonic(), len(trainings[0].batches), trainings[0].step
    sharing = len(trainings) * lane.count  # of the time
    losses = torch.zeros(len(trainings), device=trainings[0].device)
    saved_at = began
    for i, batches in enumerate(steps.epoch(first), start=first):  # what was done before an interruption left out
        lane.check()
        losses += steps.take(batches, epoch * count + i)
        for training in trainings:
            training.follow(epoch * count + i)
        now = time.monotonic()
        if now - saved_at > CHECKPOINT_SECONDS:
            for training, loss in zip(trainings, losses.tolist(), strict=True):
                training.save_within(steps, i + 1, loss, (now - began) / sharing)
            saved_at = now
    sums = losses.tolist()  # waits for a GPU to be done, so before the clock is read
    took = (time.monotonic() - began) / sharing
    for training, loss in zip(trainings, sums, strict=True):
        training.note_epoch(epoch, loss, took, share=(count - first) / count)


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Let the processor take numbers below 1e-38 for 0.

    Adam's averages of gradients that have become 0 (an image's border, a dead unit) decay into that range, the
    faster the smaller its betas; there a processor is many times slower. Such numbers are far too small to
    change a weight. Afterwards it does what it did before.
    """
    flushed = not (torch.tensor(1e-38, dtype=torch.float32, device="cpu") * 0.1).item()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


@contextmanager
def _precise(training: TrainingState) -> Iterator[None]:
    """Let cuDNN convolve in float32 where the recipe says "fp32": left alone, it rounds to TF32's ten bits.

    Matrix products are float32 unless the user has asked PyTorch for less.
    """
    if training.device.type != "cuda" or training.recipe.precision != "fp32":
        yield
        return
    cudnn = torch.backends.cudnn
    try:
        switches, name, off = [cudnn], "allow_tf32", False
        before = [cudnn.allow_tf32]
    except RuntimeError:  # the user has set them by their newer names, which cannot be mixed with that one
        switches, name, off = [cudnn.conv, cudnn.rnn], "fp32_precision", "ieee"
        before = [getattr(switch, name) for switch in switches]
    for switch in switches:
        setattr(switch, name, off)
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
