"""The playground's networks in 8 bits, and its scripts."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import biases, data, paths, training
from kdrepro.errors import InputError
from kdrepro.networks import MLP
from kdrepro.publishing import explore, play, weights
from kdrepro.verdicts import recompute

PUBLISHED = play.there_are(weights.read_index(paths.WEIGHTS))
SEEDS = st.integers(0, 2**31 - 1)


def network(seed=0, widths=(784, 30, 20, 10)):
    return MLP(list(widths), generator=torch.Generator().manual_seed(seed)).eval()


def images(seed, count=20, inputs=784):
    return np.random.default_rng(seed).integers(0, 256, (count, inputs), dtype=np.uint8)


def decoded(text):
    """What z85 says, a character at a time."""
    content = bytearray()
    for i in range(0, len(text), 5):
        word = 0
        for character in text[i : i + 5]:
            word = 85 * word + play.ALPHABET.tobytes().decode().index(character)
        content += word.to_bytes(4, "big")
    return bytes(content)


def one_case(layers, pixels):
    """`play.answer` of one case, a sum at a time."""
    inputs, step = [int(x) for x in pixels], 1 / 255
    for layer in layers:
        sums = [sum(int(w) * x for w, x in zip(row, inputs, strict=True)) for row in layer.weights]
        values = [s * (scale * step) + b for s, scale, b in zip(sums, layer.scales, layer.biases, strict=True)]
        largest = max(0.0, *values)
        step = (largest if largest > 0 else 1) / play.LEVELS
        inputs = [int(np.floor(max(value, 0.0) / step + 0.5)) for value in values]
    return values


def test_z85_is_that_of_its_specification():
    assert play.z85(bytes([0x86, 0x4F, 0xD2, 0x6F, 0xB5, 0x59, 0xF7, 0x5B])) == "HelloWorld"


@given(st.binary(max_size=40))
def test_z85_comes_back(content):
    assert decoded(play.z85(content)) == content + bytes(-len(content) % 4)


@given(SEEDS)
def test_answers_are_exact_and_near_the_networks(seed):
    net = network(seed, (16, 12, 8, 5))
    layers, pixels = play.quantised(net), images(seed, 4, 16)
    found = play.answer(layers, pixels)
    assert found.tolist() == [one_case(layers, case) for case in pixels]
    expected = training.logits(net, torch.from_numpy(pixels)).numpy()
    assert np.abs(found - expected).max() < 0.05 * max(1, np.abs(expected).max())


def diffused_one(row, side):
    """`play.diffused` of one output, as a picture in floats."""
    left = {(y, x): float(row[side * y + x]) for y in range(side) for x in range(side)}
    for y in range(side):
        ahead = 1 if y % 2 == 0 else -1
        for x in range(side)[::ahead]:
            kept = max(-127, min(127, round(left[y, x])))
            lost, left[y, x] = left[y, x] - kept, kept
            for place, share in {
                (y, x + ahead): 7,
                (y + 1, x - ahead): 3,
                (y + 1, x): 5,
                (y + 1, x + ahead): 1,
            }.items():
                if place in left:
                    left[place] += lost * share / 16
    return [left[y, x] for y in range(side) for x in range(side)]


@given(SEEDS)
def test_errors_of_rounding_are_passed_on_to_the_neighbours(seed):
    rows = 127 * np.random.default_rng(seed).uniform(-1, 1, (3, 49))
    assert play.diffused(rows).tolist() == [diffused_one(row, 7) for row in rows]


def test_a_stroke_hears_less_of_the_rounding():
    """On a patch of ink the errors nearly cancel, where those of weights rounded one by one add up."""
    rows, ink = np.random.default_rng(0).normal(0, 30, (200, 784)), np.zeros((28, 28))
    ink[8:20, 12:16] = 1
    errors = [((rounded - rows) @ ink.ravel()).std() for rounded in (play.diffused(rows), np.rint(rows))]
    assert errors[0] < errors[1] / 2


def test_a_blank_image_and_dead_units_have_an_answer():
    net = network()
    with torch.no_grad():
        net.hidden[0].bias.fill_(-100)
    found = play.answer(play.quantised(net), np.zeros((1, 784), np.uint8))
    assert np.isfinite(found).all()


def test_scripts_hold_the_layers(monkeypatch):
    monkeypatch.setattr(play, "PART_CHARACTERS", 10_000)
    layers = play.quantised(network())
    scripts = [
        json.loads(s.removeprefix("kdrepro.takeNet(").removesuffix(");\n")) for s in play.net_scripts("n", layers)
    ]
    assert [s["part"] for s in scripts] == list(range(scripts[0]["parts"]))
    whole = np.frombuffer(decoded("".join(s["data"] for s in scripts)), np.int8)
    start = 0
    for layer, scales, biases_ in zip(layers, scripts[0]["scales"], scripts[0]["biases"], strict=True):
        size = layer.weights.size
        assert np.array_equal(whole[start : start + size].reshape(layer.weights.T.shape), layer.weights.T)
        assert scales == layer.scales.tolist()
        assert biases_ == layer.biases.tolist()
        start += size
    assert scripts[0]["widths"] == [784, 30, 20, 10]


def test_what_is_carried_is_small_and_counted(tmp_path):
    arrays = {
        "shown.images": images(0, 3).reshape(3, 28, 28),
        "shown.labels": np.arange(3),
        "shown.cases": np.arange(3),
    }
    names = play.carry(tmp_path, paths.WEIGHTS, arrays)
    assert list(names) == [*PUBLISHED, "images"]
    index = weights.read_index(paths.WEIGHTS)
    assert all(len(names[claim]) == play._files(index, claim) for claim in PUBLISHED)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(sizes) < 2_000_000
    assert sum(sizes) < 10_000_000
    small = {name: array[:, :8, :8] if array.ndim == 3 else array for name, array in arrays.items()}
    assert "images" not in play.carry(tmp_path, paths.WEIGHTS, small)  # of the digits of smoke


@pytest.mark.parametrize("claim_id", PUBLISHED)
def test_eight_bits_cost_at_most_three_errors(claim_id):
    try:
        mnist = data.mnist(paths.data_root(None))
    except InputError as error:
        pytest.skip(str(error))
    net = weights.load(claim_id)
    expected = (training.logits(net, mnist.test_images).argmax(1) != mnist.test_labels).sum().item()
    answers = play.answer(play.quantised(net), mnist.test_images.flatten(1).numpy()).argmax(1)
    assert abs((answers != mnist.test_labels.numpy()).sum() - expected) <= 3


# --- explorables ------------------------------------------------------------------------------------------------------


def shown(html):
    """The data of an explorable."""
    return json.loads(html.split('<script type="application/json">')[1].split("</script>")[0])


def test_errors_over_the_shift_are_those_of_the_logits():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 300, 5, generator=generator) * 2, torch.randint(5, (300,), generator=generator)
    sides = [biases.right_on_each_side(z, labels, [3]) for z in logits]
    arrays = {
        "without 3.needed": torch.stack([biases.needed(z, [3]) for z in logits]).numpy(),
        "without 3.seen right": np.packbits(torch.stack([a for a, _ in sides]).numpy(), axis=1),
        "without 3.unseen right": np.packbits(torch.stack([b for _, b in sides]).numpy(), axis=1),
        "without 3, best shift.cases on it": np.array(int((labels == 3).sum())),
    }
    found = shown(explore.shifts(arrays))
    for shift, errors, inside in zip(found["shift"], found["errors"], found["inside"], strict=True):
        rows = [biases.compare(z, labels, [3], {"this": shift}) for z in logits]
        assert errors == pytest.approx(np.mean([row[0]["errors"] for row in rows]), abs=0.06)
        assert inside == pytest.approx(np.mean([row[0]["errors_inside"] for row in rows]), abs=0.06)


def test_the_drawing_of_eq_5_starts_from_its_answer():
    q = explore.answer([0.5, 0.3, 0.2], 0.8, 0.15)
    assert sum(q) == pytest.approx(1)
    assert "Together: A {:.0f} %, B {:.0f} %".format(*(100 * v for v in q)) in explore.triangle()
    assert explore.answer([0.5, 0.3, 0.2], 0.5, 0.3) == pytest.approx([0.5, 0.3, 0.2])  # all agree


def test_explorables_stand_after_their_figures_where_there_is_what_they_show():
    def cell(name):
        return {"cell_type": "code", "metadata": {"mystnb": {"figure": {"name": name}}}, "source": "", "outputs": []}

    cells = [cell("fig-specialists-table2"), cell("fig-specialists-eq5"), cell("fig-mnist-shift")]
    placed = explore.place(cells, "05-specialists", dict)
    assert [c["metadata"].get("mystnb", {}).get("figure", {}).get("name") for c in placed] == [
        "fig-specialists-table2",
        "fig-specialists-eq5",
        None,
        "fig-mnist-shift",
    ]
    assert explore.place(cells, "02-mnist", dict) == cells
    arrays = recompute.load(paths.RESULTS / "01-dark-knowledge.json")
    assert ("teacher.logits" in arrays) == bool(explore.softening(arrays))
