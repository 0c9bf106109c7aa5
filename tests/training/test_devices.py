"""Every path of a training on a GPU that nobody here has: PyTorch's `FakeTensorMode` refuses operands of two devices.

A fake tensor has a device and a shape, and no numbers. Where a path reads numbers it gets such as let it go on: all of
the cases are fine, none is bad, and of what is picked out by a mask there is one.
"""

import json
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from kdrepro import biases, checks, ensembles, losses, paths, specialists, training
from kdrepro.acoustic import batches as frame_batches
from kdrepro.acoustic import posteriors, soft_targets
from kdrepro.acoustic.batches import FrameBatches
from kdrepro.networks import MLP, ConvNet, MixtureOfExperts
from kdrepro.specialists import solvers
from kdrepro.training import Batches, Recipe, inference, loop, state, steps, vmapped

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
CASES, CLASSES, GPU = 24, 5, torch.device("cuda:0")
TWO_DEVICES = "(?i)device|cuda.*cpu"  # of whatever refuses: PyTorch's fakes, or this package's own sentence
aten, real_generator = torch.ops.aten, torch.Generator


class OfTheProcessor(torch.Generator):
    """In the place of a GPU's generator."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


class OneCase(TorchDispatchMode):
    """In the place of a mask stands the index of one case, since fakes do not know how many a mask picks out."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is aten.nonzero.default:
            return args[0].new_zeros((1, args[0].dim()), dtype=torch.int64)
        if function is aten._unique2.default:
            return args[0].flatten(), *(args[0].new_ones(args[0].numel(), dtype=torch.int64) for _ in range(2))
        if function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            tensor, indices, *rest = args
            args = (tensor, [one for index in indices for one in as_indices(index)], *rest)
        if function is aten._fused_sgd_.default:  # it has no fake
            for parameter, gradient, *momentum in zip(*(given for given in args[:3] if given), strict=True):
                sum(momentum, parameter + gradient)
            return None
        if function is aten._foreach_lerp_.Scalar:  # its fake takes tensors of any device
            for ends in zip(*args[:2], strict=True):
                sum(ends)
        return function(*args, **(kwargs or {}))


def as_indices(index):
    if index is None or index.dtype != torch.bool:
        return [index]
    return [index.new_zeros(1, dtype=torch.int64) for _ in range(index.dim())]


class Waits(TorchDispatchMode):
    """Notes what a GPU would have to be waited for, apart from the numbers that fakes are asked for (see `a_gpu`)."""

    def __init__(self, noted: list[str]):
        super().__init__()
        self.noted = noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        on = [one.device for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        if GPU in on and function in (aten.nonzero.default, aten.masked_select.default, aten._unique2.default):
            self.noted.append(str(function))
        if GPU in on and function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            for index in (one for one in args[1] if one is not None):
                if index.dtype == torch.bool or index.device != GPU:
                    self.noted.append(f"{function} by {index.dtype} of {index.device}")
        found = function(*args, **kwargs)
        sent = isinstance(found, torch.Tensor) and {found.device, *on} == {GPU, torch.device("cpu")}
        if sent and function in (aten._to_copy.default, aten.copy_.default) and not waits_not(function, args, kwargs):
            self.noted.append(f"{function} of {list(found.shape)} between devices")
        return found


def waits_not(function, args, kwargs):
    return kwargs.get("non_blocking", False) or (function is aten.copy_.default and args[2:] == (True,))


@contextmanager
def a_gpu(noted: list[str] | None = None) -> Iterator[None]:
    """A GPU of fakes, and in the place of what fakes cannot do what lets a path go on.

    noted: where to note what would be waited for.
    """
    noted = [] if noted is None else noted
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        answers = {
            "all": lambda self, *of: answered(torch.Tensor.all(self, *of), True),
            "any": lambda self, *of: answered(torch.Tensor.any(self, *of), False),
            "__bool__": lambda self: getattr(self, "answer", True),
            "item": lambda self: zero(self),
            "tolist": lambda self: zeros(self.shape, zero(self)),
            "__float__": lambda self: 0.0,
            "__int__": lambda self: 0,
            "__index__": lambda self: 0,
            "backward": backward,
        }
        for name, method in answers.items():
            asks = name not in ("all", "any", "backward")  # for numbers
            patch.setattr(FakeTensor, name, noting(noted, name, method) if asks else method, raising=False)
        patch.setattr(torch, "Generator", OfTheProcessor)
        patch.setattr(torch, "bincount", lambda x, minlength=0: x.new_zeros(minlength))
        patch.setattr(loop, "memory_budget", lambda device: 2**40)
        for room in (state, soft_targets):
            patch.setattr(room, "gains_from_bf16", lambda device: False)
        for room in (steps, inference):
            patch.setattr(room, "warn_of_probabilities", lambda *_: None)
        patch.setattr(vmapped, "pays", lambda group: True)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # that there is no CUDA
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(OneCase())
        stack.enter_context(Waits(noted))
        yield


def noting(noted, name, method):
    def asked(tensor):
        if tensor.device == GPU:
            noted.append(name)
        return method(tensor)

    return asked


def answered(tensor, answer):
    tensor.answer = answer
    return tensor


def zero(tensor):
    return 0.0 if tensor.is_floating_point() else 0


def zeros(shape, number):
    return [zeros(shape[1:], number) for _ in range(shape[0])] if len(shape) else number


def backward(loss):
    """PyTorch's own engine asks the GPU's driver. Node by node, each after all that lead to it, there is no need."""
    given: dict = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in topological(loss.grad_fn):
        found = given.pop(node, {})
        if hasattr(node, "variable"):
            node.variable.grad = sum(found.values()) if node.variable.grad is None else node.variable.grad + found[0]
            continue
        inputs = [
            found.get(i, torch.zeros(tuple(about.shape), dtype=about.dtype, device=about.device))
            for i, about in enumerate(node._input_metadata)
        ]
        outputs = node.apply(*inputs) if isinstance(node, torch.autograd.function.BackwardCFunction) else node(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for (following, i), gradient in zip(node.next_functions, outputs, strict=False):  # numbers may come last
            if following is not None and gradient is not None:
                into, wanted = given.setdefault(following, {}), getattr(following, "variable", None)
                gradient = gradient.sum_to_size(
                    tuple((following._input_metadata[i] if wanted is None else wanted).shape)
                )
                into[i] = into[i] + gradient if i in into else gradient


def topological(root) -> list:
    found, seen = [], set()

    def visit(node):
        if node is None or node in seen:
            return
        seen.add(node)
        for following, _ in node.next_functions:
            visit(following)
        found.append(node)

    visit(root)
    return found[::-1]


def on_gpu(thing):
    """In the place of a tensor, or of all that a network has, one on the fake GPU."""
    if isinstance(thing, torch.Tensor):
        return torch.empty(thing.shape, dtype=thing.dtype, device=GPU)
    for module in thing.modules():
        for own, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[own] = nn.Parameter(on_gpu(parameter))
        for own, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[own] = on_gpu(buffer)
    return thing


# --- what trains ----------------------------------------------------------------------------------


def numbers(*shape):
    return torch.randn(*shape, generator=real_generator().manual_seed(0))


IMAGES = torch.randint(0, 256, (CASES, 6, 6), generator=real_generator().manual_seed(0), dtype=torch.uint8)
SOFT, LABELS = numbers(CASES, CLASSES), torch.arange(CASES) % CLASSES
SPECIAL = torch.tensor([0, 2])
RECIPE = Recipe(epochs=2, batch_size=12, learning_rate=0.1)
HARD, DISTILLED = training.hard_targets, training.soft_targets(4, 0.5)
# Made while tensors have numbers, and moved later.
CASES_OF = {
    "images": lambda: Batches(IMAGES, LABELS, batch_size=12),
    "moved images": lambda: Batches(IMAGES, LABELS, batch_size=12, jitter=1, flip=True),
    "stored soft targets": lambda: Batches(IMAGES, LABELS, batch_size=12, teacher_logits=SOFT),
    "a specialist's": lambda: Batches(
        IMAGES, LABELS, batch_size=12, sampler=specialists.HalfSpecial(LABELS, SPECIAL), teacher_logits=SOFT
    ),
}
MADE = {name: make() for name, make in CASES_OF.items()}
KEPT = {by: specialists.kept_knowledge(SPECIAL, CLASSES, 2.0, by) for by in ("class", "case")}


def real(make, *of, **options):
    """A network that is made while tensors have numbers."""
    with _disable_current_modes():
        return make(*of, **options)


def mlp(seed=0, **options):
    return real(MLP, [36, 8, CLASSES], generator=real_generator().manual_seed(seed), **options)


def cases(name, **more):
    """Batches on the GPU. more: attributes that are set."""
    found = object.__new__(Batches)
    vars(found).update(vars(MADE[name]), **more)
    for own in ("inputs", "labels", "teacher_logits"):
        value = getattr(found, own)
        setattr(found, own, value if value is None else on_gpu(value))
    if found.sampler is not None:
        sampler = object.__new__(specialists.HalfSpecial)
        vars(sampler).update(
            vars(found.sampler), special=on_gpu(found.sampler.special), rest=on_gpu(found.sampler.rest)
        )
        found.sampler = sampler
    return found


def fit(network, batches, objective=HARD, recipe=RECIPE, **options):
    network = on_gpu(network)
    training.fit(network, batches, objective, recipe, **options)
    assert {p.device for p in network.parameters()} == {GPU}


def fit_many(networks, batches, objectives=None, recipes=None, **options):
    networks = [on_gpu(network) for network in networks]
    count = len(networks)
    training.fit_many(
        networks, batches, objectives or [HARD] * count, recipes or [RECIPE] * count, seeds=range(count), **options
    )
    assert {p.device for network in networks for p in network.parameters()} == {GPU}


def of_an_mlp():
    fit(mlp(input_dropout=0.2, hidden_dropout=0.5), cases("images"), recipe=RECIPE.model_copy(update={"max_norm": 1.0}))


def of_momentum():
    fit(mlp(), cases("moved images"), recipe=RECIPE.model_copy(update={"optimizer": "sgd"}))


def of_a_convolutional_net():
    fit(real(ConvNet, [2, 4], in_channels=1, classes=CLASSES, dropout=0.2), cases("moved images"))


def of_a_mixture():
    fit(real(MixtureOfExperts, **MIXTURE), cases("images"))


MIXTURE = {"channels": [2, 3], "experts": 2, "gate_channels": [2], "in_channels": 1, "classes": CLASSES}


def of_stored_soft_targets():
    fit(mlp(), cases("stored soft targets"), DISTILLED)
    fit(mlp(), cases("stored soft targets"), training.matched_logits)


def of_a_teacher_that_is_asked():
    fit(mlp(), cases("moved images", teacher=on_gpu(mlp(1)).eval()), DISTILLED)


def of_a_specialist():
    fit(mlp(), cases("a specialist's"), KEPT["class"])
    with pytest.MonkeyPatch.context() as patch:  # some cases are special, and not all
        patch.setattr(FakeTensor, "any", lambda self: answered(torch.Tensor.any(self), True))
        fit(mlp(), cases("a specialist's"), KEPT["case"])


def of_an_evaluation():
    data = SimpleNamespace(images=on_gpu(IMAGES), labels=on_gpu(LABELS))

    def evaluate(network):
        return {"errors": (training.logits(network, data.images).argmax(1) != data.labels).sum()}

    fit(mlp(), cases("images"), evaluate=evaluate, keep_best="errors")


def of_a_training_that_goes_on():
    """From what a checkpoint holds, which is on the processor."""
    network = mlp()
    weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    generators = {f"generator.{name}": real_generator().get_state() for name in ("order", "noise")}
    kept = {f"{of}.{name}": tensor for of in ("network", "average", "best") for name, tensor in weights.items()}
    for i, parameter in enumerate(weights.values()):
        kept |= {f"optimizer.{i}.{name}": parameter for name in ("exp_avg", "exp_avg_sq")}
        kept[f"optimizer.{i}.step"] = torch.tensor(2.0)
    kept["best.figure"] = torch.tensor(1.0, dtype=torch.float64)
    about = {"epoch": 1, "step": 0, "loss_sum": 0.0, "seconds": 0.0, "history": [], state.MADE_OF: {}}
    checkpoint = SimpleNamespace(keeps=True, load=lambda: (kept | generators, about), save=lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.TrainingState, "_made_of", lambda self: {})
        fit(
            network,
            cases("images"),
            recipe=RECIPE.model_copy(update={"averaging": 0.9}),
            evaluate=lambda network: {"right": 1.0},
            keep_best="right",
            checkpoint=checkpoint,
        )


def of_a_stack():
    teacher = on_gpu(mlp(9)).eval()
    fit_many(
        [mlp(i, input_dropout=0.2, hidden_dropout=0.5) for i in range(3)],
        [cases("stored soft targets"), cases("images"), cases("stored soft targets")],
        [DISTILLED, HARD, training.matched_logits],
        [RECIPE.model_copy(update={"learning_rate": rate, "max_norm": 1.0}) for rate in (0.1, 0.2, 0.1)],
    )
    fit_many([mlp(i) for i in range(2)], [cases("images", teacher=teacher) for _ in range(2)], [DISTILLED] * 2)


def of_a_stack_of_any_kind():
    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.Tanh(), nn.Linear(6, CLASSES))

    fit_many([real(network) for _ in range(2)], [cases("images") for _ in range(2)], stack=True)


def of_frames():
    """Windows of speech: features on the GPU, their places and labels on the processor."""
    split = Split()
    source = FrameBatches(split, batch_size=12, device="cuda")  # as a chapter is told, without a number
    network = on_gpu(real(MLP, [26 * 40, 6, CLASSES]))
    training.fit(network, source, HARD, RECIPE)
    source.asked = lambda inputs: posteriors.mean_log_probabilities([network, network], inputs)
    training.fit(network, source, DISTILLED, RECIPE)


FEATURES = numbers(CASES + 25, 40).half()


class Split:
    """The frames of one shard."""

    states, offsets, targets, fingerprint = range(CLASSES), np.array([0, CASES]), LABELS.int(), "frames"

    def __len__(self):
        return CASES

    def cuts(self, which):
        return self.offsets

    def pool(self, shards, device):
        return FEATURES.to(device), torch.arange(CASES).to(device)


# --- what is computed -----------------------------------------------------------------------------


def of_losses():
    z, v, y = on_gpu(SOFT).requires_grad_(), on_gpu(SOFT), on_gpu(LABELS)
    loss = losses.distillation_loss(z, v, y, temperature=4, soft_weight=0.5)
    (loss + losses.logit_matching_loss(z, v) + losses.cross_entropy(z, y)).backward()
    assert losses.soften(z, 2.0).device == losses.soft_target_gradient(z, v, 2.0).device == GPU
    z, v, y = (torch.stack([one, one]) for one in (z, v, y))
    many = losses.distillation_losses(z, v, y, temperatures=[1, 2], soft_weights=[0.5, 1])
    assert many.device == losses.cross_entropies(z, y).device == GPU


def of_averages():
    for how in ("arithmetic", "geometric"):
        assert ensembles.average(on_gpu(torch.stack([SOFT, SOFT])), how, 2.0).device == GPU
    assert ensembles.Average([on_gpu(mlp()), on_gpu(mlp(1))])(on_gpu(IMAGES).float()).device == GPU


def of_shifts():
    assert biases.shifted(on_gpu(SOFT), [1, 2], 3.5).device == GPU


def of_soft_targets():
    values, indices = on_gpu(SOFT.log_softmax(1)[:, :2]), on_gpu(torch.zeros(CASES, 2, dtype=torch.int64))
    assert soft_targets.spread_rest(values, indices, CLASSES, on_gpu(torch.ones(CLASSES))).device == GPU


def of_labels_that_are_few():
    """A case may have no label, and a stack labels of which not all are looked at."""
    fit_many(
        [mlp(i) for i in range(3)],
        [cases("stored soft targets") for _ in range(3)],
        [training.soft_targets(4), DISTILLED, training.soft_targets(2, 0.0)],
    )
    fit(mlp(), cases("stored soft targets", labels=None), training.soft_targets(4))
    fit_many(
        [mlp(i) for i in range(2)], [cases("stored soft targets", labels=None)] * 2, [training.soft_targets(4)] * 2
    )


def of_losses_of_after_2015():
    for loss in (losses.decoupled_loss, losses.standardised_loss, losses.correlation_loss):
        fit(mlp(), cases("stored soft targets"), training.taught(loss, temperature=4.0, soft_weight=0.5))


def of_an_average():
    fit(
        real(ConvNet, [2, 4], in_channels=1, classes=CLASSES, dropout=0.2),
        cases("images"),
        recipe=RECIPE.model_copy(update={"averaging": 0.9}),
    )


def of_momentum_in_a_stack():
    recipe = RECIPE.model_copy(update={"optimizer": "sgd", "momentum_rise": 1, "max_norm": 1.0})
    fit_many([mlp(i) for i in range(2)], [cases("moved images") for _ in range(2)], recipes=[recipe] * 2)


def of_a_place_without_its_number():
    checks.check_device(on_gpu(mlp()), torch.device("cuda"))
    with pytest.raises(ValueError, match="network is on cuda:0 but the cases are on cuda:1"):
        checks.check_device(on_gpu(mlp()), torch.device("cuda:1"))


def of_dustbins():
    assert specialists.specialist_labels(on_gpu(LABELS), SPECIAL, CLASSES).device == GPU
    assert specialists.correct_dustbin(on_gpu(SOFT), 3.0).device == GPU
    assert specialists.correct_full(on_gpu(SOFT), SPECIAL, 3.0).device == GPU


def of_eq_5():
    """Both solvers of cases in which two specialists are active, the closed form of one, and who is active."""
    p = on_gpu(SOFT).double().softmax(1)
    d, outside = p[:, :2], torch.ones(CASES, 2, CLASSES, dtype=torch.float64, device=GPU)
    for q, bound in (
        solvers._newton_from(p, d, outside, 1e-12, 3),
        solvers._descend_from(p, d, outside, p, 1e-6, 20),
    ):
        assert q.device == bound.device == GPU
    assert solvers._one_specialist(p, d[:, :1], outside[:, :1], p).device == GPU
    active = specialists.active(p, [SPECIAL, SPECIAL + 1])
    c, d = solvers._counts(p, [p[:, :3], p[:, :3]], [on_gpu(SPECIAL), on_gpu(SPECIAL)], active)
    assert c.device == d.device == active.device == GPU


PATHS = [
    of_an_mlp,
    of_momentum,
    of_a_convolutional_net,
    of_a_mixture,
    of_stored_soft_targets,
    of_a_teacher_that_is_asked,
    of_a_specialist,
    of_an_evaluation,
    of_a_training_that_goes_on,
    of_a_stack,
    of_a_stack_of_any_kind,
    of_frames,
    of_labels_that_are_few,
    of_losses_of_after_2015,
    of_an_average,
    of_momentum_in_a_stack,
    of_losses,
    of_a_place_without_its_number,
    of_averages,
    of_shifts,
    of_soft_targets,
    of_dustbins,
    of_eq_5,
]


TRAININGS = PATHS[: PATHS.index(of_losses)]


def said(path, **options) -> str:
    """What a path raises on a GPU of fakes, "" for nothing; in a process of its own, for fakes of stacks outlive it.

    options: of `a_gpu`.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        error = b""
        try:
            with a_gpu(**options):
                path()
        except BaseException as raised:
            error = "".join(traceback.format_exception(raised)).encode()
        os.write(send, error[-60_000:])
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        error = pipe.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return error


@pytest.mark.parametrize("path", [path for path in PATHS if path not in TRAININGS])
def test_no_operation_has_operands_of_two_devices(path):
    assert said(path) == ""


@pytest.mark.parametrize("path", TRAININGS)
def test_of_a_training_neither_and_only_the_first_step_of_an_epoch_looks_at_values(path):
    """For which a GPU has to be waited for. An epoch here has two steps."""
    found = waits_of(path)
    assert len(found) % 2 == 0 < len(found)
    assert [since for _, since in found[1::2] if since] == []
    assert all(during for during, _ in found[0::2])


def waits_of(path) -> list[tuple[list[str], list[str]]]:
    """What a GPU would be waited for by each step of a path's trainings: as it is taken, and from the one before on."""
    noted: list[str] = []

    def noting_steps():
        found = []
        with pytest.MonkeyPatch.context() as patch:
            for kind in (steps.Alone, steps.Together):
                patch.setattr(kind, "take", taken(kind.take, noted, found))
            path()
        raise AssertionError(json.dumps(found))

    error = said(noting_steps, noted=noted).strip()
    last = error.rpartition("\n")[2]
    assert last.startswith("AssertionError: [["), error
    return json.loads(last.removeprefix("AssertionError: "))


def taken(take, noted, found):
    def one(self, batches, step):
        before = len(noted)
        loss = take(self, batches, step)
        found.append((noted[before:], noted[:]))
        noted.clear()
        return loss

    return one


# --- and would it be noticed? ---------------------------------------------------------------------


@pytest.mark.parametrize("path", [of_an_mlp, of_a_stack])
def test_a_step_that_waits_is_noticed(path, monkeypatch):
    monkeypatch.setattr(steps, "_looks", lambda device, taken: True)
    assert any(since for _, since in waits_of(path)[1::2])


def left_on_the_processor(patch, owner, name):
    """What this function returns stays on the processor by mistake."""
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda *of, **by: real(*of, **by).cpu())


MISTAKES = {
    "a hard loss among soft ones": (losses, "cross_entropies", of_losses),
    "a stack's masks": (training.stack, "scaled_mask", of_a_stack),
    "an epoch's moved images": (training.batches, "flip_images", of_momentum),
    "Eq. 5's sums of dustbins": (solvers, "_gather", of_eq_5),
    "windows of speech": (frame_batches, "cut_windows", of_frames),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_tensor_on_the_wrong_device_is_noticed(mistake, monkeypatch):
    owner, name, path = MISTAKES[mistake]
    left_on_the_processor(monkeypatch, owner, name)
    assert re.search(TWO_DEVICES, said(path).strip().rpartition("\n")[2])


def test_tests_run_on_a_device_that_is_named():
    """`pytest --device` reaches its tests; a processor's number is a name that is there on every machine."""
    one = "tests/training/test_batches.py::test_bad_batches"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", "--device", "cpu:0", one],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
