"""The doctor: each fault of published code is named, and nothing is said of losses that are right."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import kdrepro
from kdrepro import training
from kdrepro.diagnosis import Finding, finding
from kdrepro.losses import (
    correlation_loss,
    decoupled_loss,
    distillation_loss,
    logit_matching_loss,
    standardised_loss,
)
from kdrepro.networks import MLP


def kd(z, v, labels, t, *, weight=0.7, fault=""):
    """Hinton's loss as most people write it, with a switch for each fault."""
    if fault == finding.RELU:
        z, v = z.relu(), v.relu()
    if fault == finding.HALF:
        z, v = z.bfloat16(), v.bfloat16()
    if fault == finding.ALPHA:
        weight = 1 - weight
    log_q, p = F.log_softmax(z / t, 1), F.softmax(v / t, 1)
    if fault == finding.SWAPPED:
        log_q, p = F.log_softmax(v / t, 1), F.softmax(z / t, 1)
    if fault == finding.ONE_LOG:
        log_q = log_q.exp()
    soft = F.kl_div(log_q, p, reduction="batchmean")
    if fault == finding.NOT_FINITE:
        soft = (p * (p.log() - log_q)).sum(1).mean()
    if fault == finding.CLASS_MEAN:
        soft = F.kl_div(log_q, p, reduction="none").mean()  # as reduction="mean", without its warning
    if fault == finding.SIGN:
        soft = -soft
    if fault == finding.NO_TEACHER:
        soft = 0 * soft
    scale = 1 if fault == finding.NO_T2 else t**2
    return weight * scale * soft.float() + (1 - weight) * F.cross_entropy(z.float(), labels)


# --- right losses, as libraries have them ----------------------------------------------------------------------------


def torchdistill(z, v, labels, t, alpha=0.5):
    soft = F.kl_div(torch.log_softmax(z / t, dim=1), torch.softmax(v / t, dim=1), reduction="batchmean")
    return alpha * F.cross_entropy(z, labels) + (1 - alpha) * t**2 * soft


def first_pytorch_tutorial(z, v, labels, t):
    soft = -torch.sum(F.softmax(v / t, dim=-1) * F.log_softmax(z / t, dim=-1)) / len(z) * t**2
    return 0.25 * soft + 0.75 * F.cross_entropy(z, labels)


def later_pytorch_tutorial(z, v, labels, t):
    p = F.softmax(v / t, dim=-1)
    soft = torch.sum(p * (p.log() - F.log_softmax(z / t, dim=-1))) / len(z) * t**2
    return 0.25 * soft + 0.75 * F.cross_entropy(z, labels)


def keras(z, v, labels, t, alpha=0.1):
    p, q = ((x / t).softmax(1).clamp(1e-7, 1) for x in (v, z))
    return alpha * F.cross_entropy(z, labels) + (1 - alpha) * (p * (p / q).log()).sum(1).mean() * t**2


def mdistiller(z, v, labels, t):
    soft = F.kl_div(F.log_softmax(z / t, 1), F.softmax(v / t, 1), reduction="none").sum(1).mean() * t**2
    return 0.1 * F.cross_entropy(z, labels) + 0.9 * soft


def of_ours(loss, **settings_of):
    return lambda z, v, labels, t: loss(z, v, labels, temperature=t, soft_weight=0.5, **settings_of)


RIGHT = {
    "ours": of_ours(distillation_loss),
    "ours, soft targets alone": lambda z, v, labels, t: distillation_loss(z, v, temperature=t),
    "torchdistill's": torchdistill,
    "the first of PyTorch's tutorial": first_pytorch_tutorial,
    "Keras'": keras,
    "mdistiller's": mdistiller,
    "with smoothed labels": lambda z, v, labels, t: (
        distillation_loss(z, v, temperature=t) + F.cross_entropy(z, labels, label_smoothing=0.1)
    ),
    "DKD": of_ours(decoupled_loss),
    "standardised": of_ours(standardised_loss),
    "DIST": of_ours(correlation_loss),
    "matched logits": lambda z, v, labels, t: logit_matching_loss(z, v),
}


@pytest.fixture(scope="module")
def nets(digits):
    """A teacher and a student, trained for a moment on digits, and a batch of test images."""
    images, labels = digits.train_images, digits.train_labels
    made = []
    for widths, dropout in (([64, 64, 10], 0.3), ([64, 16, 10], 0.0)):
        net = MLP(widths, hidden_dropout=dropout, generator=torch.Generator().manual_seed(0))
        recipe = training.Recipe(epochs=6, batch_size=64, learning_rate=5e-3, precision="fp32")
        training.fit(net, training.Batches(images, labels, batch_size=64), training.hard_targets, recipe)
        made.append(net)
    made[0].requires_grad_(False)
    return *made, (digits.test_images[:128].float() / 255, digits.test_labels[:128])


def faults(found):
    return [one.fault for one in found]


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_said_of_a_right_loss(nets, name):
    assert kdrepro.doctor(*nets, loss=RIGHT[name]) == []


OF_THE_LOSS = [
    *(finding.RELU, finding.HALF, finding.ALPHA, finding.SWAPPED, finding.ONE_LOG, finding.NOT_FINITE),
    *(finding.CLASS_MEAN, finding.NO_T2, finding.SIGN, finding.NO_TEACHER),
]


@pytest.mark.parametrize("fault", OF_THE_LOSS)
@pytest.mark.parametrize("temperature", [2.0, 20.0])
def test_a_faulty_loss_is_named(nets, fault, temperature):
    found = kdrepro.doctor(*nets, loss=lambda *given: kd(*given, fault=fault), temperature=temperature, soft_weight=0.7)
    assert faults(found) == [fault]
    assert str(found[0]).startswith(f"{fault}: ")


@given(st.sampled_from([fault for fault in OF_THE_LOSS if fault != finding.ALPHA] + [""]), st.floats(0.2, 1))
@settings(max_examples=25)
def test_whatever_the_weight(fault, weight):
    net = MLP([4, 7], generator=torch.Generator().manual_seed(1)).eval().requires_grad_(False)
    batch = torch.rand(16, 4), torch.arange(16) % 7
    found = kdrepro.doctor(net, net, batch, loss=lambda *given: kd(*given, weight=weight, fault=fault))
    assert faults(found) == [fault] * bool(fault)


def test_published_formulas_that_are_not_quite_right(nets):
    assert faults(kdrepro.doctor(*nets, loss=later_pytorch_tutorial)) == [finding.NOT_FINITE]
    # With alpha 0, torchdistill's KDLoss returns its soft term as it is.
    alone = kdrepro.doctor(*nets, loss=lambda z, v, y, t: F.kl_div(F.log_softmax(z / t, 1), F.softmax(v / t, 1),
                                                                  reduction="batchmean"))  # fmt: skip
    assert faults(alone) == [finding.NO_T2]


@pytest.mark.parametrize("temperature", [2.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_loss_in_half_precision(nets, dtype, temperature):
    def loss(z, v, labels, t):
        return torchdistill(z.to(dtype), v.to(dtype), labels, t).float()

    assert faults(kdrepro.doctor(*nets, loss=loss, temperature=temperature)) == [finding.HALF]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision(nets, dtype):
    teacher, student, (images, labels) = nets
    half = [torch.nn.Sequential(copy.deepcopy(net), Cast(dtype)).eval().requires_grad_(False) for net in nets[:2]]
    batch = images, labels
    # The loss itself is right, for logits in float32.
    assert kdrepro.doctor(teacher, student, batch, loss=torchdistill) == []
    assert faults(kdrepro.doctor(*half, batch, loss=torchdistill)) == [finding.HALF]
    assert kdrepro.doctor(*half, batch, loss=lambda z, v, y, t: torchdistill(z.float(), v.float(), y, t)) == []
    for loss in (OURS, RIGHT["DKD"], RIGHT["standardised"]):
        assert kdrepro.doctor(*half, batch, loss=loss) == []


class Cast(torch.nn.Module):
    """What a network in half precision gives."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


def test_autocast_on_a_cpu_leaves_the_softmax_in_half_precision(nets):
    def loss(z, v, labels, t):
        with torch.autocast("cpu", torch.bfloat16):
            z, v = (x @ torch.eye(x.shape[1]) for x in (z, v))  # as a last layer's
            return torchdistill(z, v, labels, t)

    assert finding.HALF in faults(kdrepro.doctor(*nets, loss=loss, temperature=20))


@pytest.mark.parametrize(
    ("loss", "where"),
    [
        (lambda z, v, y, t: (z * float("nan")).sum(), "(10 classes, T = 2)"),
        (lambda z, v, y, t: kd(z, v, y, t) / (z.shape[1] < 20), "(20 classes, T = 2)"),
        (lambda z, v, y, t: kd(z, v, y, t) / (t < 8), "(10 classes, T = 8)"),
    ],
)
def test_a_loss_that_is_not_finite_at_ordinary_logits(nets, loss, where):
    found = kdrepro.doctor(*nets, loss=loss)
    assert {finding.NOT_FINITE} == set(faults(found))
    assert where in found[-1].found


def test_a_loss_that_half_precision_cannot_hold(nets):
    teacher, student, batch = nets
    half = torch.nn.Sequential(student, Cast(torch.float16)).eval()

    def loss(z, v, labels, t):
        return distillation_loss(z, v, temperature=t) + 0 * (1e4 * z).square().sum()

    assert faults(kdrepro.doctor(teacher, half, batch, loss=loss)) == [finding.HALF]


def test_two_faults_at_once(nets):
    def loss(z, v, labels, t):
        soft = F.kl_div(F.log_softmax(z / t, 1), F.softmax(v / t, 1), reduction="none").mean()
        return soft + F.cross_entropy(z, labels)

    assert set(faults(kdrepro.doctor(*nets, loss=loss, soft_weight=0.5))) == {finding.NO_T2, finding.CLASS_MEAN}


def test_arguments_the_wrong_way_round(nets):
    found = kdrepro.doctor(*nets, loss=lambda z, v, labels, t: distillation_loss(v, z, temperature=t))
    assert faults(found) == [finding.SWAPPED]


# --- networks and stored logits --------------------------------------------------------------------------------------

OURS = RIGHT["ours"]


def test_a_teacher_in_train_mode(nets):
    teacher, student, batch = nets
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    try:
        found = kdrepro.doctor(teacher, student, batch, loss=OURS)
        assert teacher.training, "it was left as it was"
    finally:
        teacher.eval()
    assert faults(found) == [finding.TRAIN_MODE]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_batch_statistics_are_not_touched():
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )
    batch = torch.rand(32, 4) * 5, torch.arange(32) % 3
    mean = teacher[1].running_mean.clone()
    found = kdrepro.doctor(teacher.requires_grad_(False), torch.nn.Linear(4, 3), batch, loss=OURS)
    assert faults(found) == [finding.TRAIN_MODE]
    assert torch.equal(mean, teacher[1].running_mean)


def test_a_gradient_into_the_teacher(nets):
    teacher, student, batch = nets
    teacher.requires_grad_(True)
    try:
        assert faults(kdrepro.doctor(teacher, student, batch, loss=torchdistill)) == [finding.INTO_TEACHER]
        # As PyTorch's tutorial asks a teacher that it has not frozen, and torchdistill one that it has.
        assert kdrepro.doctor(teacher, student, batch, loss=torchdistill, no_grad=True) == []
        stored = (*batch, training.logits(teacher, batch[0]))
        assert kdrepro.doctor(teacher, student, stored, loss=torchdistill) == []
        assert kdrepro.doctor(teacher, student, batch, loss=OURS) == []
        assert all(p.grad is None for p in teacher.parameters())
    finally:
        teacher.requires_grad_(False)


def test_stored_logits(nets):
    teacher, student, (images, labels) = nets
    own = training.logits(teacher, images)

    def found(stored):
        return faults(kdrepro.doctor(teacher, student, (images, labels, stored), loss=OURS))

    assert found(own) == []
    assert found(own.numpy()) == []
    assert found(own.double().requires_grad_()) == []
    assert found(own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))]) == [finding.SHUFFLED]
    assert found(training.logits(teacher, images.roll(1, -1))) == [finding.MOVED]
    bad = {"stored logits are": own[:, :9], "holds NaN": own.log(), "must be floating point": own.long()}
    for named, logits in bad.items():
        with pytest.raises(ValueError, match=named):
            found(logits)


def test_outputs_that_are_no_logits(nets):
    teacher, student, batch = nets
    clipped = torch.nn.Sequential(teacher, torch.nn.ReLU()).eval()
    assert faults(kdrepro.doctor(clipped, student, batch, loss=OURS)) == [finding.RELU]
    softmax = torch.nn.Sequential(teacher, torch.nn.Softmax(1)).eval()
    assert faults(kdrepro.doctor(softmax, student, batch, loss=OURS)) == [finding.PROBABILITIES]


def test_a_label_smoothed_teacher(digits, nets):
    _, student, batch = nets
    net = MLP([64, 64, 10], generator=torch.Generator().manual_seed(0))

    def smoothed(z, given):
        return F.cross_entropy(z, given.labels, label_smoothing=0.1)

    recipe = training.Recipe(epochs=30, batch_size=64, learning_rate=5e-3, precision="fp32")
    cases = training.Batches(digits.train_images, digits.train_labels, batch_size=64)
    training.fit(net, cases, smoothed, recipe)
    assert faults(kdrepro.doctor(net.requires_grad_(False), student, batch, loss=OURS)) == [finding.SMOOTHED]


def test_cases_that_chose_and_judge(nets, digits):
    judged = digits.test_images
    given = {"loss": OURS, "judged_on": judged}
    for chosen in (judged[:20], judged[:20].bfloat16(), judged[:20].float().requires_grad_()):
        assert faults(kdrepro.doctor(*nets, **given, chosen_on=chosen)) == [finding.TEST_CHOICE]
    assert kdrepro.doctor(*nets, **given, chosen_on=digits.train_images[:20]) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": lambda z, v, y, t: (z - v).square()}, "loss returned"),
        ({"batch": torch.zeros(3, 64)}, "batch must be"),
        ({"batch": (torch.zeros(0, 64), torch.zeros(0))}, "inputs is empty"),
        ({"batch": (torch.full((3, 64), torch.nan), torch.zeros(3).long())}, "the teacher's output holds NaN"),
        ({"student": torch.nn.Identity()}, r"the student's output must be \[cases, classes\]"),
        ({"student": MLP([64, 9])}, "both must be of the same classes"),
        ({"teacher": [1]}, "teacher must be a torch.nn.Module"),
        ({"temperature": 0}, "temperature"),
        ({"soft_weight": 2}, "soft_weight"),
    ],
)
def test_bad_input_is_named(nets, change, named):
    teacher, student, batch = nets
    given_all = {"teacher": teacher, "student": student, "batch": batch, "loss": OURS, **change}
    with pytest.raises(ValueError, match=named):
        kdrepro.doctor(**given_all)


def test_a_finding_reads_as_a_sentence():
    assert str(Finding("a fault", "it was found.", "Mend it.")) == "a fault: it was found. Mend it."
