"""The training loop: jitter, batches, reproducibility, interruption."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro import training
from kdrepro.errors import InputError
from kdrepro.networks import MLP, ConvNet, clip_max_norm
from kdrepro.training import Batches, Recipe, loop
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.training.state import _mix

RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=1e-2, precision="fp32", max_norm=1.5)


def network(seed=0, **dropout):
    return MLP([64, 12, 10], generator=torch.Generator().manual_seed(seed), **dropout)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# --- jitter and batches ---------------------------------------------------------------------------


def shift_reference(images, pixels, generator):
    """One image at a time, pixel by pixel."""
    count, height, width = images.shape
    side = 2 * pixels + 1
    shifts = torch.randint(side * side, (count,), generator=generator)
    out = torch.zeros_like(images)
    for n in range(count):
        down, right = divmod(shifts[n].item(), side)
        for y in range(height):
            for x in range(width):
                sy, sx = y + down - pixels, x + right - pixels
                if 0 <= sy < height and 0 <= sx < width:
                    out[n, y, x] = images[n, sy, sx]
    return out


@given(st.integers(0, 2**31 - 1), st.integers(0, 3))
@settings(max_examples=25)
def test_shift_equals_reference(seed, pixels):
    images = torch.randint(0, 256, (11, 6, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    fast = training.shift_images(images, pixels, torch.Generator().manual_seed(seed))
    slow = shift_reference(images, pixels, torch.Generator().manual_seed(seed))
    assert torch.equal(fast, slow)


def test_every_shift_occurs_equally_often(generator):
    images = torch.zeros(50_000, 5, 5, dtype=torch.uint8)
    images[:, 2, 2] = 1
    shifted = training.shift_images(images, 2, generator)
    assert (shifted.sum((1, 2)) == 1).all()
    share = shifted.float().mean(0)
    assert ((share - 1 / 25).abs() < 0.004).all()


def test_an_epoch_holds_every_case_once_with_its_own_label_and_logits(generator):
    inputs = torch.arange(50).float().unsqueeze(1)
    batches = Batches(inputs, torch.arange(50), batch_size=16, teacher_logits=inputs.repeat(1, 3))
    steps = list(batches.epoch(generator))
    assert len(steps) == len(batches) == 4
    assert max(len(b.inputs) for b in steps) - min(len(b.inputs) for b in steps) <= 1
    assert sorted(torch.cat([b.labels for b in steps]).tolist()) == list(range(50))
    for b in steps:
        assert torch.equal(b.inputs[:, 0].long(), b.labels)
        assert torch.equal(b.teacher_logits[:, 2].long(), b.labels)


def test_teacher_sees_the_same_view_as_the_student(generator, digits):
    teacher = network(1)
    batches = Batches(digits.train_images, digits.train_labels, batch_size=64, jitter=1, teacher=teacher)
    batch = next(iter(batches.epoch(generator)))
    torch.testing.assert_close(batch.teacher_logits, teacher.eval()(training.as_inputs(batch.inputs)))


def test_cached_logits_with_jitter_are_refused(digits):
    cached = torch.zeros(len(digits.train_images), 10)
    with pytest.raises(ValueError, match="jitter"):
        Batches(digits.train_images, digits.train_labels, jitter=1, teacher_logits=cached)


def test_bad_batches():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="labels"):
        Batches(x, torch.zeros(3))
    with pytest.raises(ValueError, match="teacher_logits"):
        Batches(x, teacher_logits=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="empty"):
        Batches(x[:0])
    with pytest.raises(ValueError, match="not both"):
        Batches(x, teacher=network(), teacher_logits=torch.zeros(4, 2))


def test_logits_leave_the_mode_alone(digits):
    net = network(hidden_dropout=0.5).train()
    a, b = (training.logits(net, digits.test_images, chunk) for chunk in (7, 4096))
    assert net.training
    torch.testing.assert_close(a, b)


# --- schedule -------------------------------------------------------------------------------------


@given(st.sampled_from(["cosine", "linear", "constant"]), st.floats(0, 0.5), st.integers(2, 500))
@settings(max_examples=60)
def test_rate_rises_then_falls(schedule, warmup, steps):
    recipe = Recipe(epochs=1, learning_rate=0.3, schedule=schedule, warmup=warmup)
    rates = [recipe.rate(i, steps) for i in range(steps)]
    assert all(0 < r <= 0.3 + 1e-12 for r in rates)
    assert rates[-1] == pytest.approx(0.3) if schedule == "constant" else rates[-1] <= rates[len(rates) // 2]


# --- fit ------------------------------------------------------------------------------------------


def fit(net, digits, seed=0, recipe=RECIPE, jitter=1, **options):
    batches = Batches(digits.train_images, digits.train_labels, batch_size=recipe.batch_size, jitter=jitter)
    return training.fit(net, batches, training.hard_targets, recipe, seed=seed, **options)


def test_learns(digits):
    net = network()
    history = fit(net, digits, recipe=RECIPE.model_copy(update={"epochs": 10, "max_norm": None}), jitter=0)
    assert history[-1]["loss"] < 0.2 < history[0]["loss"]
    assert (training.logits(net, digits.test_images).argmax(1) == digits.test_labels).float().mean() > 0.85


def test_same_seed_same_weights_bit_for_bit(digits):
    nets = [network(hidden_dropout=0.3) for _ in range(3)]
    for net, seed in zip(nets, (5, 5, 6), strict=True):
        fit(net, digits, seed)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.equal(weights(nets[0]), weights(nets[2]))


def test_flushing_denormals_changes_no_weight_and_is_undone(digits, monkeypatch):
    """Adam with a short memory, on images with pixels that are nearly always 0: its averages do get that small."""
    recipe = Recipe(epochs=60, batch_size=16, learning_rate=1e-3, beta2=0.5, precision="fp32")
    cases = Batches(digits.train_images[:160], digits.train_labels[:160], batch_size=16)
    fast, slow = network(), network()
    training.fit(fast, cases, training.hard_targets, recipe)
    assert (torch.tensor([1e-40]) * 1.0).item() > 0
    monkeypatch.setattr(loop, "_denormals_flushed", nullcontext)
    training.fit(slow, cases, training.hard_targets, recipe)
    assert torch.equal(weights(fast), weights(slow))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_equals_a_plain_loop(digits, optimizer):
    """The loop against the few lines that anybody would write: same order, no jitter, no dropout."""
    recipe = Recipe(epochs=2, batch_size=100, optimizer=optimizer, learning_rate=1e-2, warmup=0.0, precision="fp32")
    ours, plain = network(), network()
    fit(ours, digits, recipe=recipe, jitter=0)

    order = torch.Generator().manual_seed(_mix(0, 1))
    make = {
        "adam": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    }[optimizer]
    optimizer = make(plain.parameters())
    step, count = 0, math.ceil(len(digits.train_images) / 100)
    for _ in range(2):
        chosen = torch.randperm(len(digits.train_images), generator=order)
        for part in chosen.tensor_split(count):
            optimizer.param_groups[0]["lr"] = 0.005 * (1 + math.cos(math.pi * step / (2 * count)))
            loss = torch.nn.functional.cross_entropy(plain(digits.train_images[part] / 255), digits.train_labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(weights(ours), weights(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [3, 40, 81, 82, 150])
@pytest.mark.parametrize("every_step", [False, True])
def test_interrupted_training_ends_bit_for_bit_the_same(digits, tmp_path, monkeypatch, stop, every_step):
    """Stopped at any step, with checkpoints at epochs only or at every step, it ends where it would have."""
    if every_step:
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    whole = network(hidden_dropout=0.3)
    history = fit(whole, digits)

    steps = 0

    def stopping(logits, batch):
        nonlocal steps
        steps += 1
        if steps == stop:
            raise InterruptedError
        return training.hard_targets(logits, batch)

    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    batches = Batches(digits.train_images, digits.train_labels, batch_size=16, jitter=1)
    with pytest.raises(InterruptedError):
        training.fit(network(hidden_dropout=0.3), batches, stopping, RECIPE, checkpoint=checkpoint)
    # Other weights at first, to see that the checkpoint's are taken, unless it was stopped before any.
    resumed = network(seed=9 if checkpoint.path.exists() else 0, hidden_dropout=0.3)
    resumed_history = fit(resumed, digits, checkpoint=checkpoint)

    assert torch.equal(weights(whole), weights(resumed))
    assert [r["epoch"] for r in resumed_history] == [1, 2, 3]
    assert [r["loss"] for r in resumed_history] == pytest.approx([r["loss"] for r in history], rel=1e-6)


def test_finished_checkpoint_trains_no_more(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    first = network()
    fit(first, digits, checkpoint=checkpoint)
    again = network(seed=4)
    fit(again, digits, checkpoint=checkpoint)
    assert torch.equal(weights(first), weights(again))


def test_max_norm_holds_at_the_end(digits):
    net = network()
    fit(net, digits)
    assert net.hidden[0].weight.norm(dim=1).max().item() <= 1.5 * (1 + 1e-4)
    before = weights(net)
    clip_max_norm(net, 1.5)
    torch.testing.assert_close(before, weights(net))


def test_nan_loss_stops_with_a_sentence_and_keeps_the_checkpoint(digits, tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    calls = 0

    def turning_bad(logits, batch):
        nonlocal calls
        calls += 1
        return training.hard_targets(logits, batch) * (math.nan if calls > 100 else 1)

    batches = Batches(digits.train_images, digits.train_labels, batch_size=16)
    with pytest.raises(InputError, match="loss is nan in epoch 2"):
        training.fit(network(), batches, turning_bad, RECIPE, checkpoint=checkpoint)
    _, state = checkpoint.load()
    assert state["epoch"] == 1


def test_bf16_comes_close_to_fp32(digits):
    errors = []
    for precision in ("fp32", "bf16"):
        net = network()
        fit(net, digits, recipe=RECIPE.model_copy(update={"epochs": 8, "precision": precision}), jitter=0)
        errors.append((training.logits(net, digits.test_images).argmax(1) != digits.test_labels).sum().item())
    assert abs(errors[0] - errors[1]) < 25


def test_distillation_agrees_with_the_teacher(digits):
    """A student of soft targets alone, which never sees a label, answers as its teacher does."""
    teacher, student = network(1), network(2)
    fit(teacher, digits, recipe=RECIPE.model_copy(update={"epochs": 15, "max_norm": None}), jitter=0)
    batches = Batches(digits.train_images, batch_size=16, teacher_logits=training.logits(teacher, digits.train_images))
    recipe = Recipe(epochs=25, batch_size=16, learning_rate=1e-2, precision="fp32")
    training.fit(student, batches, training.soft_targets(temperature=20), recipe)
    answers = [training.logits(net, digits.test_images).argmax(1) for net in (teacher, student)]
    assert (answers[0] == answers[1]).float().mean() > 0.92


def test_any_module_can_be_fitted(digits):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    history = fit(net, digits, recipe=RECIPE.model_copy(update={"max_norm": None, "epochs": 10}), jitter=0)
    assert history[-1]["loss"] < 0.5


def test_evaluation_rows_and_progress(digits):
    seen = []
    history = fit(network(), digits, evaluate=lambda net: {"errors": 1}, evaluate_every=2, progress=seen.append)
    assert ["errors" in row for row in history] == [False, True, True]
    assert seen == history


class Sampler:
    """The first `count` cases of a random order."""

    def __init__(self, cases, count):
        self.cases, self.count = cases, count

    def __len__(self):
        return self.count

    def draw(self, generator):
        return torch.randperm(self.cases, generator=generator)[: self.count]


def test_an_epoch_has_the_cases_that_the_sampler_draws(generator):
    batches = Batches(torch.arange(50.0).view(50, 1), torch.arange(50), batch_size=4, sampler=Sampler(50, 10))
    assert (batches.cases, len(batches)) == (10, 3)
    epochs = [torch.cat([batch.labels for batch in batches.epoch(generator)]) for _ in range(2)]
    assert [len(labels.unique()) for labels in epochs] == [10, 10]
    assert set(epochs[0].tolist()) != set(epochs[1].tolist())
    for batch in batches.epoch(generator):
        assert torch.equal(batch.inputs[:, 0].long(), batch.labels)


def test_flips_mirror_about_half_of_the_images(generator):
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3).repeat(400, 1, 1, 1)
    flipped = training.flip_images(images, generator)
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    assert (flipped[~mirrored] == images[~mirrored]).all()
    assert 150 < mirrored.sum() < 250


def test_shifts_of_colour_images_are_those_of_each_channel():
    images = torch.randint(0, 256, (9, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    together = training.shift_images(images, 2, torch.Generator().manual_seed(1))
    for channel in range(3):
        alone = training.shift_images(images[:, channel], 2, torch.Generator().manual_seed(1))
        assert torch.equal(together[:, channel], alone)


def test_cases_and_device_of_batches():
    batches = Batches(torch.zeros(7, 2), batch_size=3)
    assert (batches.cases, len(batches), batches.device) == (7, 3, torch.device("cpu"))


# --- early stopping -------------------------------------------------------------------------------


UNCONSTRAINED = RECIPE.model_copy(update={"max_norm": None})


class Figures:
    """Gives these figures one after the other, and keeps the weights that each was given of."""

    def __init__(self, *figures, kept=()):
        self.left, self.kept = list(figures), list(kept)

    def __call__(self, net):
        self.kept.append(weights(net))
        return {"figure": self.left.pop(0)}


@pytest.mark.parametrize(
    ("figures", "best"),
    [([0.1, 0.3, 0.2], 1), ([0.3, 0.2, 0.1], 0), ([0.1, 0.2, 0.3], 2), ([0.2, 0.2, 0.1], 0), ([-3.0, -1.0, -2.0], 1)],
)
def test_the_best_rows_weights_are_kept(digits, figures, best):
    evaluate, net = Figures(*figures), network()
    history = fit(net, digits, recipe=UNCONSTRAINED, evaluate=evaluate, keep_best="figure")
    assert [row["figure"] for row in history] == figures
    assert torch.equal(weights(net), evaluate.kept[best])
    assert not any(torch.equal(weights(net), evaluate.kept[i]) for i in range(3) if i != best)
    assert not net.training


def test_without_keep_best_the_last_weights_are_kept(digits):
    evaluate, net = Figures(0.3, 0.2, 0.1), network()
    fit(net, digits, recipe=UNCONSTRAINED, evaluate=evaluate)
    assert torch.equal(weights(net), evaluate.kept[-1])


def test_only_rows_that_were_evaluated_are_kept(digits):
    evaluate, net = Figures(0.3, 0.2), network()
    history = fit(net, digits, recipe=UNCONSTRAINED, evaluate=evaluate, evaluate_every=2, keep_best="figure")
    assert ["figure" in row for row in history] == [False, True, True]
    assert torch.equal(weights(net), evaluate.kept[0])


@pytest.mark.parametrize(
    ("figures", "stop", "every_step"),
    [
        ([0.3, 0.2, 0.1], 82, False),
        ([0.3, 0.2, 0.1], 200, True),
        ([0.1, 0.3, 0.2], 100, True),
        ([0.1, 0.3, 0.2], 164, False),
        ([0.1, 0.2, 0.3], 120, True),
    ],
)
def test_best_weights_survive_an_interruption(digits, tmp_path, monkeypatch, figures, stop, every_step):
    """Also when the best row lies before the interruption, and the interruption within an epoch."""
    if every_step:
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    whole, evaluate = network(hidden_dropout=0.3), Figures(*figures)
    history = fit(whole, digits, recipe=UNCONSTRAINED, evaluate=evaluate, keep_best="figure")
    steps = 0

    def stopping(logits, batch):
        nonlocal steps
        steps += 1
        if steps > stop:
            raise InterruptedError
        return training.hard_targets(logits, batch)

    checkpoint, batches = Checkpoint(tmp_path / "c.safetensors"), Batches(
        digits.train_images, digits.train_labels, batch_size=16, jitter=1
    )  # fmt: skip
    before = Figures(*figures)
    with pytest.raises(InterruptedError):
        training.fit(
            network(hidden_dropout=0.3), batches, stopping, UNCONSTRAINED,
            checkpoint=checkpoint, evaluate=before, keep_best="figure",
        )  # fmt: skip
    after = Figures(*before.left)
    resumed = network(hidden_dropout=0.3)
    again = fit(resumed, digits, recipe=UNCONSTRAINED, checkpoint=checkpoint, evaluate=after, keep_best="figure")
    assert before.kept
    assert len(before.kept) + len(after.kept) == 3
    assert torch.equal(weights(resumed), weights(whole))
    assert [row["figure"] for row in again] == [row["figure"] for row in history]


def test_keep_best_without_evaluate_is_refused_before_the_training(digits):
    with pytest.raises(ValueError, match="keep_best names 'figure', a figure of evaluate, which is not given"):
        fit(network(), digits, keep_best="figure", progress=pytest.fail)


def test_a_checkpoint_of_another_device_is_said_and_left_alone(digits, tmp_path):
    """Its generators' states cannot be loaded here."""
    warned = []
    checkpoint, first, again = Checkpoint(tmp_path / "c.safetensors", warn=warned.append), network(), network()
    fit(first, digits, checkpoint=checkpoint)
    tensors, state = checkpoint.load()
    assert state["device"] == "cpu"
    tensors |= {"generator.noise": torch.zeros(16, dtype=torch.uint8), "network.output.bias": torch.ones(10)}
    checkpoint.save(tensors, state | {"device": "cuda"})
    fit(again, digits, checkpoint=checkpoint)
    assert torch.equal(weights(first), weights(again))
    assert warned == [
        "The checkpoint c.safetensors was made on cuda and cannot be continued on cpu: "
        "this network is trained from its start."
    ]


def test_a_checkpoint_of_another_training_is_said_and_left_alone(digits, tmp_path):
    warned = []
    checkpoint, alone, after = Checkpoint(tmp_path / "c.safetensors", warn=warned.append), network(), network()
    fit(network(), digits, seed=1, checkpoint=checkpoint)
    assert fit(after, digits, seed=2, checkpoint=checkpoint) != []
    fit(alone, digits, seed=2)
    assert torch.equal(weights(after), weights(alone))
    assert warned == [
        "The checkpoint c.safetensors is that of another training (another recipe, seed, number of cases or network): "
        "this network is trained from its start."
    ]


def test_max_norm_is_for_mlps(digits):
    convolutional = ConvNet([4], in_channels=1, classes=10, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="max_norm limits the weights of an MLP's units; this is a ConvNet"):
        fit(convolutional, digits, recipe=RECIPE.model_copy(update={"max_norm": 2.0}))


def test_labels_on_another_device_are_refused():
    with pytest.raises(ValueError, match="labels is on meta but inputs is on cpu: move one of them"):
        Batches(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64, device="meta"))


def test_an_online_teacher_is_not_asked_again_for_steps_that_are_done(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    teacher, asked = network(seed=7), []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    batches = Batches(digits.train_images[:400], digits.train_labels[:400], batch_size=40, teacher=teacher)
    checkpoint, steps = Checkpoint(tmp_path / "c.safetensors"), []

    def stopping(logits, batch):
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return training.matched_logits(logits, batch)

    recipe = Recipe(epochs=1, precision="fp32")
    with pytest.raises(KeyboardInterrupt):
        training.fit(network(), batches, stopping, recipe, checkpoint=checkpoint)
    asked.clear()
    training.fit(network(), batches, training.matched_logits, recipe, checkpoint=checkpoint)
    assert len(asked) == 10 - 7


def test_a_finished_checkpoint_gives_the_best_weights(digits, tmp_path):
    checkpoint, first, again = Checkpoint(tmp_path / "c.safetensors"), network(), network(seed=4)
    fit(first, digits, recipe=UNCONSTRAINED, checkpoint=checkpoint, evaluate=Figures(0.3, 0.2, 0.1), keep_best="figure")
    never = Figures()
    fit(again, digits, recipe=UNCONSTRAINED, checkpoint=checkpoint, evaluate=never, keep_best="figure")
    assert torch.equal(weights(first), weights(again))
