"""Published weights: small files that give the network again, a card, and what is left out by name."""

import json

import pytest
import torch

import kdrepro
from kdrepro import paths, training
from kdrepro.errors import InputError
from kdrepro.networks import MLP
from kdrepro.publishing import weights
from kdrepro.store import Store, build
from kdrepro.verdicts import records

WIDE = {"network": {"widths": [784, 1100, 700, 10]}, "seed": 3}  # 3.3 MB in float16
SMALL = {"network": {"widths": [64, 8, 10]}, "seed": 0, "recipe": {"epochs": 3, "max_norm": None}}
OTHER = {"network": {"widths": [784, 1100, 700, 10]}, "seed": 4}
FOREIGN = {"seed": 5, "start": "a generalist"}  # cannot be built from this


@pytest.fixture
def store(tmp_path):
    """Three networks: one in two parts, a small one, and one that needs more than its configuration."""
    store = Store(tmp_path / "store")
    for config in (WIDE, SMALL, FOREIGN):
        made = (lambda c: MLP([4, 3])) if config is FOREIGN else build
        store.train_or_load(config, lambda network, checkpoint: None, made)
    return store


@pytest.fixture
def published(store, tmp_path, monkeypatch):
    """The folder of weights after two claims were published."""
    folder = tmp_path / "weights"
    nets = {"mnist.distilled": [store.key(SMALL), store.key(WIDE)], "mnist.teacher": [store.key(FOREIGN)]}
    entries = {claim: {"nets": {"seed": 0, "keys": keys}} for claim, keys in nets.items()}
    record = {"chapter": "02-mnist", "preset": "full", "claims": entries, "data": {"name": "mnist"}}
    other = {"claims": {"mnist.distilled": {"nets": {"seed": 0, "keys": [store.key(FOREIGN)]}}}}
    others = record | other | {"data": {"name": "digits"}}  # decides nothing, and gives no net
    monkeypatch.setattr(records, "read_all", lambda: [record, others])
    monkeypatch.setattr(paths, "WEIGHTS", folder)
    weights.publish(store.root, folder)
    return folder


def test_a_network_comes_back_from_parts_that_are_small(published, store):
    assert all(path.stat().st_size <= weights.PART_BYTES for path in published.iterdir())
    assert len(list(published.glob(f"{store.key(WIDE)}.*.safetensors"))) == 2
    found, expected = kdrepro.load("mnist.distilled"), build(WIDE).eval()
    assert not found.training
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other.half().float())
    x = torch.rand(20, 784, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(training.logits(found, x), training.logits(expected, x), rtol=5e-3, atol=5e-3)


def test_what_is_left_out_is_named(published, store):
    index = json.loads((published / "index.json").read_bytes())
    assert index["left_out"] == [f"mnist.teacher: {store.key(FOREIGN)}"]
    card = (published / "README.md").read_text()
    assert "- `mnist.teacher`: 1 network\n" in card
    assert "| `mnist.distilled` |" in card
    assert "784 - 1100 - 700 - 10" in card
    with pytest.raises(InputError, match=r"no published weights of 'mnist\.teacher'.*those of mnist\.distilled"):
        kdrepro.load("mnist.teacher")


def test_what_no_claim_names_any_more_goes_and_what_is_not_in_the_store_stays(published, store, tmp_path, monkeypatch):
    entries = {"mnist.distilled": {"nets": {"seed": 0, "keys": [store.key(WIDE)]}}}
    monkeypatch.setattr(
        records,
        "read_all",
        lambda: [{"chapter": "02-mnist", "preset": "full", "claims": entries, "data": {"name": "mnist"}}],
    )
    weights.publish(tmp_path / "empty", published)
    assert {path.name.split(".")[0] for path in published.glob("*.safetensors")} == {store.key(WIDE)}
    kdrepro.load("mnist.distilled")


def test_all_weights_together_have_a_limit(published, store, monkeypatch):
    monkeypatch.setattr(weights, "ALL_BYTES", 100_000)
    for path in published.iterdir():
        path.unlink()
    left = weights.publish(store.root, published)
    assert f"mnist.distilled: {store.key(WIDE)}" in left
    assert weights.read_index(published)["claims"] == {}


def test_a_claims_own_weights_have_a_limit(published, store, monkeypatch):
    """The network that the claim is about, its last, comes first."""
    of_one = weights.read_index(published)["networks"][store.key(WIDE)]["bytes"]
    monkeypatch.setattr(weights, "CLAIM_BYTES", of_one + 200)  # a header's length varies by some bytes
    for path in published.iterdir():
        path.unlink()
    assert f"mnist.distilled: {store.key(SMALL)}" in weights.publish(store.root, published)
    assert weights.read_index(published)["claims"] == {"mnist.distilled": [store.key(WIDE)]}


def test_the_network_of_every_claim_comes_before_those_it_was_compared_with(store, tmp_path, monkeypatch):
    folder, (wide, small) = tmp_path / "weights", (store.key(of) for of in (WIDE, SMALL))
    entries = {"mnist.plain": {"nets": {"seed": 0, "keys": [wide, small]}}}
    entries["mnist.distilled"] = {"nets": {"seed": 0, "keys": [wide]}}

    def published(entries):
        record = {"chapter": "02-mnist", "preset": "full", "claims": entries, "data": {"name": "mnist"}}
        monkeypatch.setattr(records, "read_all", lambda: [record])
        left = weights.publish(store.root, folder)
        return weights.read_index(folder)["claims"], left

    assert published(entries)[0] == {"mnist.plain": [wide, small], "mnist.distilled": [wide]}
    other = build(OTHER)  # of a run that takes the other's place
    store.train_or_load(OTHER, lambda network, checkpoint: None, lambda config: other)
    of_two = weights.read_index(folder)["networks"][wide]["bytes"] + 10_000
    monkeypatch.setattr(weights, "ALL_BYTES", of_two)  # one wide network and the small one
    entries["mnist.distilled"] = {"nets": {"seed": 0, "keys": [store.key(OTHER)]}}
    found, left = published(entries)
    assert found == {"mnist.plain": [small], "mnist.distilled": [store.key(OTHER)]}
    assert left == [f"mnist.plain: {wide}"]


def test_weights_that_are_not_there(published, store):
    next(published.glob(f"{store.key(WIDE)}.1.safetensors")).unlink()
    with pytest.raises(InputError, match=r"\.1\.safetensors are not there"):
        kdrepro.load("mnist.distilled")


def test_published_weights_are_whole_and_small():
    index = weights.read_index(paths.WEIGHTS)
    assert sum(path.stat().st_size for path in paths.WEIGHTS.glob("*")) < weights.ALL_BYTES + 500_000
    for claim in index["claims"]:
        assert kdrepro.load(claim) is not None
