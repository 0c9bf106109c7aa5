"""Networks that are not this package's: other inputs, outputs, precisions and wrappings, as users have them."""

import warnings
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from training_cases import DEVICE, here, network, weights

from kdrepro import training
from kdrepro.ensembles import Average
from kdrepro.errors import InputError
from kdrepro.networks import MLP
from kdrepro.store import Store
from kdrepro.training import Batch, Batches, Checkpoint, Recipe

X = here(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
Y = here(torch.arange(64) % 4)
RECIPE = Recipe(epochs=2, precision="fp32")


def linear(dtype=torch.float32):
    layer = nn.Linear(8, 4)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(layer.bias)
    return here(layer.to(dtype))


def mlp(*widths, **options):
    return here(MLP(list(widths), **options))


def fit(net, x=X, y=Y, objective=training.hard_targets, recipe=RECIPE, **teacher):
    return training.fit(net, Batches(x, y, **teacher), objective, recipe)


# --- inputs -----------------------------------------------------------------------------------------


class Words(nn.Module):
    """Notes the token ids that it is given."""

    def __init__(self):
        super().__init__()
        self.embedding, self.output, self.seen = nn.Embedding(30_000, 8), nn.Linear(8, 4), set()
        self.to(DEVICE)

    def forward(self, ids):
        self.seen |= set(ids.long().flatten().tolist())
        return self.output(self.embedding(ids.long()).mean(1))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_token_ids_reach_the_network_as_they_are(dtype, precision):
    ids = here(torch.arange(20_000, 20_320).view(64, 5).to(dtype))
    net = Words()
    fit(net, ids, recipe=Recipe(epochs=1, precision=precision))
    training.logits(net, ids)
    assert net.seen == set(range(20_000, 20_320))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.float16, torch.uint8])
def test_a_network_gets_floats_in_its_own_precision(dtype, given):
    x = (X.abs() * 50).to(given) if given == torch.uint8 else X.to(given)
    found = training.logits(linear(dtype), x)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = training.logits(linear(), x)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=3e-2)


def test_a_network_in_float64_is_trained_in_float64():
    net, same = linear(torch.float64), linear()
    fit(net)
    fit(same)
    assert net.weight.dtype == torch.float64
    torch.testing.assert_close(net.weight.float(), same.weight)
    double = mlp(8, 16, 4).double()
    fit(double)
    assert training.logits(double, X).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_not_trained(dtype):
    with pytest.raises(ValueError, match=r"in which small updates are lost: train network.float()"):
        fit(linear(dtype))


def test_integers_for_an_mlp_get_one_sentence():
    with pytest.raises(ValueError, match=r"MLP takes floats, not torch.int64"):
        fit(mlp(8, 4), X.long())
    with pytest.raises(ValueError, match="Each case has 9 numbers, but this MLP was made for 8"):
        training.logits(mlp(8, 4), here(torch.zeros(3, 9)))


def test_bytes_that_are_ids_are_not_scaled_as_pixels():
    ids = here(torch.randint(256, (64, 5), dtype=torch.uint8))
    for call in (lambda: fit(Words(), ids), lambda: training.logits(Words(), ids)):
        with pytest.raises(ValueError, match=r"looks ids up in an embedding: pass inputs\.long\(\)"):
            call()


# --- the loss ---------------------------------------------------------------------------------------


def test_the_loss_is_never_computed_below_float32():
    seen = []

    def noting(z, batch):
        seen.append(z.dtype)
        return training.hard_targets(z, batch)

    fit(linear(), objective=noting, recipe=Recipe(epochs=1, precision="bf16"))
    assert seen == [torch.float32]
    z = torch.tensor([[7.0, 0, 0]], dtype=torch.bfloat16, requires_grad=True)
    loss = training.hard_targets(z, Batch(None, torch.tensor([0])))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(torch.logsumexp(torch.tensor([0, -7.0, -7.0]), 0).item())


@pytest.mark.parametrize("make", [linear, lambda: Average([mlp(8, 4), linear()])], ids=["alone", "a member"])
def test_a_foreign_teachers_soft_targets_are_not_rounded_to_bfloat16(make):
    """Under autocast its last layer would be, and at T = 20 three digits are too few."""
    teacher, seen = make(), []

    def noting(z, batch):
        seen.append(batch)
        return training.matched_logits(z, batch)

    fit(mlp(8, 4), objective=noting, recipe=Recipe(epochs=1, precision="bf16"), teacher=teacher)
    assert torch.equal(seen[0].teacher_logits, teacher(seen[0].inputs))


OBJECTIVES = {
    "a vector": (lambda z, b: z.sum(1), r"returned \[64\] where a scalar tensor"),
    "a number": (lambda z, b: z.sum().item(), "returned a float where a scalar tensor"),
    "no gradient": (lambda z, b: z.detach().sum(), "has no gradient"),
}


@pytest.mark.parametrize(("objective", "sentence"), OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("many", [False, True])
def test_an_objective_gives_a_scalar_that_can_be_differentiated(objective, sentence, many):
    of = [mlp(8, 4)], [Batches(X, Y)], [objective], [RECIPE]
    with pytest.raises(ValueError, match=sentence):
        training.fit_many(*of, seeds=[0]) if many else training.fit(*(one[0] for one in of))


SOFT = {"soft": training.soft_targets(4), "mixed": training.soft_targets(4, 0.5), "logits": training.matched_logits}


@pytest.mark.parametrize("objective", SOFT.values(), ids=SOFT)
@pytest.mark.parametrize("many", [False, True])
def test_a_forgotten_teacher_gets_one_sentence(objective, many):
    of = [mlp(8, 4)], [Batches(X, Y)], [objective], [RECIPE]
    with pytest.raises(ValueError, match="This objective needs a teacher, and the batches have none"):
        training.fit_many(*of, seeds=[0]) if many else training.fit(*(one[0] for one in of))


@pytest.mark.parametrize("arguments", [(0,), ("4",), (4, 90), (float("nan"),), (4, -1)])
def test_objectives_that_cannot_be_are_refused_when_they_are_made(arguments):
    with pytest.raises(ValueError, match=r"temperature must|soft_weight must"):
        training.soft_targets(*arguments)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("objective", [training.hard_targets, training.soft_targets(4, 0.5)])
def test_cases_without_a_label_are_left_out_by_fit_and_fit_many_alike(objective, many):
    """As if the loss had been written by hand."""
    some = Y.clone()
    some[::4] = -100
    soft = here(torch.randn(64, 4, generator=torch.Generator().manual_seed(2)))

    def by_hand(z, batch):
        kept = batch.labels >= 0
        hard = nn.functional.cross_entropy(z[kept], batch.labels[kept])
        if objective is training.hard_targets:
            return hard
        log_p, log_q = (batch.teacher_logits / 4).log_softmax(1), (z / 4).log_softmax(1)
        return 0.5 * hard + 0.5 * 16 * (log_p.exp() * (log_p - log_q)).sum(1).mean()

    found, expected = network(0, (8, 16, 4)), network(0, (8, 16, 4))
    batches = Batches(X, some, teacher_logits=soft)
    if many:
        training.fit_many([found], [batches], [objective], [RECIPE], seeds=[0])
    else:
        training.fit(found, batches, objective, RECIPE)
    training.fit(expected, batches, by_hand, RECIPE)
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-3, atol=1e-5)


def test_labels_that_are_none_at_all_and_labels_out_of_range():
    with pytest.raises(ValueError, match="labels holds nothing but -100"):
        Batches(X, torch.full((64,), -100))
    for many in (False, True):
        of = [mlp(8, 3)], [Batches(X, Y)], [training.hard_targets], [RECIPE]
        with pytest.raises(ValueError, match=r"labels must lie between 0 and 2, or be -100 .* but number"):
            training.fit_many(*of, seeds=[0]) if many else training.fit(*(one[0] for one in of))


# --- outputs ----------------------------------------------------------------------------------------


class Output(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = linear(), wrap

    def forward(self, x):
        return self.wrap(self.layer(x))


TAKEN = {
    "dict": lambda z: {"logits": z, "hidden": None},
    "ModelOutput": lambda z: OrderedDict(loss=None, logits=z),
    "object": lambda z: SimpleNamespace(logits=z),
}
REFUSED = {
    "tuple": (lambda z: (z, None), "Output returned a tuple, not logits"),
    "dict without logits": (lambda z: {"out": z}, "Output returned a dict, not logits"),
    "None": (lambda z: None, "Output returned a NoneType, not logits"),
    "one number a case": (lambda z: z[:, 0], r"returned \[64\] for 64 cases: logits must be \[cases, classes\]"),
    "other cases": (lambda z: z[:-1], r"returned \[63, 4\] for 64 cases"),
}


@pytest.mark.parametrize("wrap", TAKEN.values(), ids=TAKEN)
def test_logits_are_taken_out_of_what_holds_them(wrap):
    net, plain = Output(wrap), linear()
    fit(net)
    fit(plain)
    assert torch.equal(net.layer.weight, plain.weight)
    assert torch.equal(training.logits(net, X), training.logits(plain, X))


@pytest.mark.parametrize(("wrap", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_logits_is_refused_in_training_and_after(wrap, sentence):
    for call in (lambda: fit(Output(wrap)), lambda: training.logits(Output(wrap), X)):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_a_network_that_ends_in_a_softmax_is_warned_of():
    for call in (fit, lambda net: training.logits(net, X)):
        with pytest.warns(UserWarning, match="Sequential returns probabilities, which a loss takes for logits"):
            call(nn.Sequential(linear(), nn.Softmax(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.logits(nn.Sequential(linear(), nn.LogSoftmax(1)), X)


# --- networks that are wrapped, shared, lazy, or cannot be copied ------------------------------------


def test_a_teacher_that_cannot_be_copied_is_asked_itself():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        teacher = nn.Sequential(nn.utils.weight_norm(linear()))
    teacher[0](X)  # computes its weight, which then has a history
    student, same = mlp(8, 4, generator=torch.Generator().manual_seed(0)), mlp(8, 4)
    same.load_state_dict(student.state_dict())
    fit(student, objective=training.matched_logits, teacher=teacher)
    fit(same, objective=training.matched_logits, teacher_logits=training.logits(teacher, X))
    torch.testing.assert_close(weights(student), weights(same))


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "torch.compile": lambda net: torch.compile(net, backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_network_trains_as_the_network_in_it(wrap):
    inner, plain = network(0, (8, 16, 4)), network(0, (8, 16, 4))
    recipe = RECIPE.model_copy(update={"max_norm": 0.5})
    net = wrap(inner)
    fit(net, recipe=recipe)
    fit(plain, recipe=recipe)
    torch.testing.assert_close(weights(inner), weights(plain))
    assert torch.equal(training.logits(net, X), training.logits(inner, X))
    fit(linear(), objective=training.matched_logits, teacher=net)


@pytest.mark.on_cpu  # gloo's network
def test_a_distributed_network_trains_and_teaches(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        inner, plain = linear(), linear()
        net = nn.parallel.DistributedDataParallel(inner)
        fit(net)
        fit(plain)
        torch.testing.assert_close(inner.weight, plain.weight)
        fit(mlp(8, 4), objective=training.matched_logits, teacher=net)
    finally:
        torch.distributed.destroy_process_group()


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = here(nn.Linear(8, 8)), here(nn.Linear(8, 8))
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    net = Tied()
    training.fit(net, Batches(X, Y), training.hard_targets, RECIPE, checkpoint=Checkpoint(tmp_path / "c.safetensors"))
    again = Tied()
    rows = training.fit(
        again, Batches(X, Y), training.hard_targets, RECIPE, checkpoint=Checkpoint(tmp_path / "c.safetensors")
    )
    assert len(rows) == 2
    assert torch.equal(again.second.weight, net.first.weight)
    assert again.second.weight is again.first.weight
    store = Store(tmp_path / "store")
    stored = store.train_or_load({"seed": 0}, lambda n, c: n.load_state_dict(net.state_dict()), lambda config: Tied())
    loaded = store.train_or_load({"seed": 0}, pytest.fail, lambda config: Tied())
    assert torch.equal(loaded.second.weight, stored.first.weight)


NETWORKS = {
    "lazy": (nn.Sequential(nn.LazyLinear(4)), "call it on one batch first"),
    "a list": ([linear()], "network must be a torch.nn.Module, not a list: average several"),
    "a function": (torch.relu, "network must be a torch.nn.Module"),
    "elsewhere": (nn.Linear(8, 4, device="meta"), f"network is on meta but the cases are on {X.device}"),
}


@pytest.mark.parametrize(("net", "sentence"), NETWORKS.values(), ids=NETWORKS)
def test_networks_that_cannot_be_trained_or_asked_get_one_sentence(net, sentence):
    for call in (lambda: fit(net), lambda: training.logits(net, X)):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_a_teacher_elsewhere_gets_one_sentence():
    with pytest.raises(ValueError, match=f"teacher is on meta but the cases are on {X.device}"):
        fit(linear(), objective=training.matched_logits, teacher=nn.Linear(8, 4, device="meta"))


def test_a_single_case_and_batch_normalisation():
    net = here(nn.Sequential(linear(), nn.BatchNorm1d(4)))
    with pytest.raises(ValueError, match="A step has a single case, of which batch normalisation has no variance"):
        training.fit(net, Batches(X, Y, batch_size=1), training.hard_targets, RECIPE)
    net[1].eval()
    training.fit(net, Batches(X, Y, batch_size=1), training.hard_targets, Recipe(epochs=1))


# --- batches of one's own ---------------------------------------------------------------------------


class Own:
    """The four members of `CaseSource`."""

    device, cases = X.device, 64

    def __len__(self):
        return 2

    def views(self, generator):
        for rows in here(torch.randperm(64, generator=generator)).split(32):
            yield Batch(X[rows], Y[rows])


class Taught(Own):
    """With a teacher, whom the training asks."""

    teacher = linear()


def test_batches_of_ones_own_need_four_members_and_may_have_a_teacher():
    found, expected = network(0, (8, 4)), network(0, (8, 4))
    training.fit(found, Own(), training.hard_targets, RECIPE)
    training.fit(expected, Batches(X, Y, batch_size=32), training.hard_targets, RECIPE)
    assert torch.equal(weights(found), weights(expected))
    training.fit(found, Taught(), training.matched_logits, RECIPE)
    training.fit_many([found], [Taught()], [training.matched_logits], [RECIPE], seeds=[0])


@pytest.mark.parametrize("missing", ["device", "cases", "__len__", "views"])
def test_what_batches_lack_is_named_before_anything_is_trained(missing):
    members = {name: getattr(Own, name) for name in ("device", "cases", "__len__", "views") if name != missing}
    with pytest.raises(ValueError, match=f"batches is a Some without `{missing}`"):
        training.fit(linear(), type("Some", (), members)(), training.hard_targets, RECIPE)


def test_a_dataset_in_place_of_batches_is_told_to_be_wrapped():
    dataset = torch.utils.data.TensorDataset(X, Y)
    with pytest.raises(ValueError, match=r"batches is a TensorDataset without `device`: wrap what you have"):
        training.fit(linear(), dataset, training.hard_targets, RECIPE)


def test_a_checkpoint_needs_a_fingerprint_of_the_cases(tmp_path):
    with pytest.raises(ValueError, match="without a `fingerprint`"):
        training.fit(linear(), Own(), training.hard_targets, RECIPE, checkpoint=Checkpoint(tmp_path / "c"))


def test_a_recipe_and_batches_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="The recipe says batch_size=16 but the batches have 256"):
        fit(linear(), recipe=Recipe(epochs=1, batch_size=16))


def test_a_network_that_diverges_is_told_from_bad_input():
    with pytest.raises(InputError, match="lower the learning rate"):
        fit(
            linear(),
            objective=training.soft_targets(4),
            recipe=Recipe(epochs=3, learning_rate=1e38, optimizer="sgd"),
            teacher_logits=here(torch.zeros(64, 4)),
        )
