"""Dropout, max-norm, initial weights."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from kdrepro import networks
from kdrepro.networks import MLP, ConvNet, Dropout


def test_same_seed_same_weights():
    a, b, c = (MLP([8, 6, 3], generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.hidden[0].weight, c.hidden[0].weight)


def test_spread_of_the_initial_weights():
    by_fan_in, small = (
        MLP([400, 300, 10], initial_std=std, generator=torch.Generator().manual_seed(0)) for std in (None, 0.01)
    )
    assert by_fan_in.hidden[0].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    for layer in (small.hidden[0], small.output):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    MLP([8, 6, 3], generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_forward_equals_plain_layers():
    net = MLP([6, 5, 4, 3], input_dropout=0.2, hidden_dropout=0.5, generator=torch.Generator().manual_seed(0)).eval()
    x = torch.randn(7, 2, 3)
    h = x.flatten(1)
    for layer in net.hidden:
        h = torch.relu(h @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(x), h @ net.output.weight.T + net.output.bias)


def test_dropout_rate_and_scale(generator):
    layer = Dropout(0.25).train()
    networks.use_generator(layer, generator)
    y = layer(torch.ones(200_000))
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])


def test_every_byte_of_the_mask_is_fair(generator):
    """Each of the eight bytes of a random word decides a unit; all must drop at the same rate."""
    mask = networks.keep_mask((80_000,), 128, generator, torch.float32, "cpu")
    rates = (mask.view(-1, 8) == 0).float().mean(0)
    assert ((rates - 0.5).abs() < 0.02).all()


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 255),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.booleans(),
)
def test_a_mask_is_the_comparison_of_its_bytes(shape, dropped, dtype, of_many):
    """The quick way beside the plain one, to the last bit: for one network and for several."""
    many, cases = (shape[:1], shape[1] * shape[2]) if of_many else ((), math.prod(shape))
    words = networks.draw_bytes(torch.empty(*many, (cases + 7) // 8, dtype=torch.int64), torch.Generator())
    drawn = words.view(torch.uint8).reshape(-1, 8 * words.shape[-1])[:, :cases].reshape(shape)
    plain = (drawn >= dropped).to(dtype) * (256 / (256 - dropped))
    mask = networks.scaled_mask(words, shape, dropped, dtype)
    assert mask.dtype == dtype
    assert torch.equal(mask, plain)


def test_no_dropout_in_eval_mode(generator):
    layer = Dropout(0.5).eval()
    assert torch.equal(layer(torch.ones(10)), torch.ones(10))


def test_max_norm_clips_only_what_is_too_long():
    net = MLP([4, 3, 2], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.hidden[0].weight[0] = 10.0
        net.hidden[0].weight[1] = 0.1
    short, output = net.hidden[0].weight[1].clone(), net.output.weight.clone()
    networks.clip_max_norm(net, 2.0)
    assert net.hidden[0].weight[0].norm().item() == pytest.approx(2.0, rel=1e-4)
    assert torch.equal(net.hidden[0].weight[1], short)
    assert torch.equal(net.output.weight, output)


def test_last_layer_is_float32_under_autocast():
    net = MLP([4, 3, 2], generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.randn(2, 4)).dtype == torch.float32


def test_parameter_count_of_the_papers_nets():
    assert networks.parameter_count(MLP([784, 1200, 1200, 10])) == 2_395_210
    assert networks.parameter_count(MLP([784, 800, 800, 10])) == 1_276_810


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_bad_dropout_rate(rate):
    with pytest.raises(ValueError, match="rate"):
        Dropout(rate)


CONV = {"channels": [4, 6], "in_channels": 3, "classes": 2}
MIXTURE = CONV | {"experts": 2, "gate_channels": [4]}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MLP([10]), r"widths must list 2 or more whole numbers, not \[10\]"),
        (lambda: MLP(3), "widths must list 2 or more whole numbers, not 3"),
        (lambda: MLP([3, 2.5]), r"widths\[1\] must be a whole number of at least 1, not 2.5"),
        (lambda: MLP("12"), r"widths\[0\] must be a whole number of at least 1, not '1'"),
        (lambda: MLP([3, 0]), r"widths\[1\] must be .* not 0"),
        (lambda: ConvNet(**CONV | {"channels": []}), "channels must list 1 or more whole numbers"),
        (lambda: ConvNet(**CONV | {"channels": [4, 1.5]}), r"channels\[1\] must be a whole number"),
        (lambda: ConvNet(**CONV | {"classes": 0}), "classes must be a whole number of at least 1, not 0"),
        (lambda: ConvNet(**CONV | {"in_channels": 0}), "in_channels must be a whole number of at least 1, not 0"),
        (lambda: ConvNet(**CONV, blocks=[1, -1]), r"blocks\[1\] must be a whole number of at least 0, not -1"),
        (lambda: networks.MixtureOfExperts(**MIXTURE | {"experts": 1}), "at least 2 experts, not 1"),
        (lambda: networks.MixtureOfExperts(**MIXTURE | {"experts": 2.5}), "experts must be a whole number, not 2.5"),
        *(
            (lambda n=n: networks.keep_mask((2,), n, None, torch.float32, "cpu"), "dropped must lie between 0 and 255")
            for n in (-1, 256, 300)
        ),
    ],
)
def test_sizes_that_are_none(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_sizes_may_be_any_whole_numbers():
    sizes = np.array([6, 5, 3])
    a, b = (MLP(widths, generator=torch.Generator().manual_seed(0)) for widths in (sizes, [6, 5, 3]))
    assert a.widths == b.widths
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


# --- convolutional ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 1, 16, 16), (4, 1, 9, 7)])
def test_conv_net_takes_grey_images_of_any_size(shape):
    net = ConvNet([4, 8], in_channels=1, classes=5, generator=torch.Generator().manual_seed(0)).eval()
    assert net(torch.rand(shape)).shape == (4, 5)


def test_conv_nets_of_one_seed_are_equal_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    a, b, c = (ConvNet([4, 8], in_channels=3, classes=5, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.stages[0].down.convolution.weight, c.stages[0].down.convolution.weight)


def test_conv_net_equals_plain_layers():
    net = ConvNet([4], in_channels=3, classes=2, generator=torch.Generator().manual_seed(0)).eval()
    x, stage = torch.randn(2, 3, 8, 8), net.stages[0]

    def layer(x, part, stride):  # fresh normalisation: mean 0, variance 1
        return F.conv2d(x, part.convolution.weight, stride=stride, padding=1) / (1 + 1e-5) ** 0.5

    down = layer(x, stage.down, 2).relu()
    after = (down + layer(layer(down, stage.first, 1).relu(), stage.second, 1)).relu()
    torch.testing.assert_close(net(x), after.mean((2, 3)) @ net.output.weight.T + net.output.bias)


def test_blocks_of_a_stage_are_residual_layers_one_after_the_other():
    generator = torch.Generator().manual_seed(0)
    net = ConvNet([4, 6], in_channels=3, classes=2, blocks=[0, 3], generator=generator).eval()
    x = torch.randn(2, 3, 8, 8)
    first, second = net.stages
    plain = second.down(first.down(x).relu()).relu()
    for a, b in [(second.first, second.second), *second.more]:
        plain = (plain + b(a(plain).relu())).relu()
    torch.testing.assert_close(net(x), plain.mean((2, 3)) @ net.output.weight.T + net.output.bias)
    assert len(second.more) == 2


def test_one_block_a_stage_is_the_network_that_is_stored():
    a, b = (
        ConvNet([4, 6], in_channels=1, classes=2, blocks=blocks, generator=torch.Generator().manual_seed(0))
        for blocks in (None, [1, 1])
    )
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("blocks", [[1], [1, 1, 1]])
def test_blocks_are_one_number_a_stage(blocks):
    with pytest.raises(ValueError, match="blocks must have a number for each of the 2 stages"):
        ConvNet([4, 6], in_channels=1, classes=2, blocks=blocks)


def test_initial_activations_keep_their_size():
    net = ConvNet([16, 32, 64], in_channels=3, classes=10, generator=torch.Generator().manual_seed(0)).train()
    assert 0.2 < net.features(torch.randn(64, 3, 16, 16)).std() < 5
