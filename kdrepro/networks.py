"""The paper's fully connected networks (ReLU layers, dropout, weight constraints), and a small convolutional one.

Section 3's teacher is 784-1200-1200-10, its students 784-800-800-10 and narrower; dropout and the
constraint on the weights follow Hinton et al. 2012 (arXiv:1207.0580). Section 5's generalist is a deep convolutional
net that the paper does not describe.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from kdrepro.checks import as_sizes, check_whole


class Dropout(nn.Module):
    """Inverted dropout whose masks come from a generator that is handed in (`use_generator`).

    rate: the probability of dropping a unit, in steps of 1/256: a mask takes one random byte a unit,
    which is several times cheaper than a random float a unit, and the kept units are scaled by the
    exact inverse of the rate that results. Off in eval mode.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"A dropout rate must lie in [0, 1), not {rate}.")
        self.dropped = min(255, round(256 * rate))  # of 256 byte values
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Some numbers of `x`, of any shape, at 0 and the others scaled up; in eval mode `x` itself."""
        if not self.training or self.dropped == 0:
            return x
        return x * keep_mask(x.shape, self.dropped, self.generator, x.dtype, x.device)

    def extra_repr(self) -> str:
        """What PyTorch prints of it."""
        return f"rate={self.dropped / 256:.3f}"


def keep_mask(
    shape: Sequence[int],
    dropped: int,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> torch.Tensor:
    """A dropout mask: 0 with probability dropped / 256, otherwise 256 / (256 - dropped).

    Raises ValueError unless dropped lies between 0 and 255.
    """
    words = torch.empty((math.prod(shape) + 7) // 8, dtype=torch.int64, device=device)
    return scaled_mask(draw_bytes(words, generator), shape, dropped, dtype)


def draw_bytes(words: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Fill int64 words with random bytes, in place; returns them."""
    # from=-2^63 to=None is the full 64-bit range; the default range leaves every eighth byte half empty.
    return words.random_(-(2**63), None, generator=generator)


def scaled_mask(words: torch.Tensor, shape: Sequence[int], dropped: int, dtype: torch.dtype) -> torch.Tensor:
    """The mask of `keep_mask` from random words: of one network [W], or of M networks [M, W] with shape [M, ...]."""
    if not 0 <= dropped < 256:
        raise ValueError(f"dropped must lie between 0 and 255, of 256 byte values, not {dropped}.")
    shape = tuple(shape)
    drawn = words.view(torch.uint8)[..., : math.prod(shape[words.dim() - 1 :])].reshape(shape)
    # Comparing to bool, then turning bool into floats, takes nine times as long: loops without vector instructions.
    kept = torch.ge(drawn, dropped, out=torch.empty(shape, dtype=dtype, device=words.device))
    return kept.mul_(256 / (256 - dropped))


class MLP(nn.Module):
    """Fully connected ReLU network: [B, ...] is flattened to [B, widths[0]]; returns logits [B, widths[-1]].

    widths: units of each layer from the input to the classes, e.g. [784, 1200, 1200, 10].
    input_dropout, hidden_dropout: rates (0.2 and 0.5 in Hinton et al. 2012).
    initial_std: standard deviation of the initial weights, 0.01 in Hinton et al. 2012; None for variances of 2 / fan-in
        (1 / fan-in before the softmax). generator: draws these weights, from normal distributions.

    The last layer runs in its weights' own precision even under autocast: distillation at T = 20 compares logits
    divided by 20, and a bfloat16 has three digits.
    Raises ValueError for widths that are no sizes, and for inputs that are not floats (`training` turns uint8 images
    into them) or not of widths[0] numbers.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        initial_std: float | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        widths = as_sizes(widths, "widths", 2)
        self.widths = tuple(widths)
        *hidden, classes = widths
        self.hidden = nn.ModuleList(_linear(a, b, 2.0, generator, initial_std) for a, b in pairwise(hidden))
        self.output = _linear(hidden[-1], classes, 1.0, generator, initial_std)
        self.input_dropout = Dropout(input_dropout)
        self.hidden_dropout = Dropout(hidden_dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes] of cases [B, ...]."""
        x = _floats(x, "MLP").flatten(1)
        if x.shape[1] != self.widths[0]:
            raise ValueError(f"Each case has {x.shape[1]:,} numbers, but this MLP was made for {self.widths[0]:,}.")
        x = self.input_dropout(x)
        for layer in self.hidden:
            x = self.hidden_dropout(F.relu(layer(x)))
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.output.weight.dtype), self.output.weight, self.output.bias)


class ConvNet(nn.Module):
    """Residual convolutional network: images [B, H, W] or [B, in_channels, H, W] to logits [B, classes].

    channels: of each stage, e.g. [32, 64, 128, 256]; a stage halves the image's sides (3 x 3, stride 2) and adds
    residual blocks of two 3 x 3 layers, all with batch normalisation. The last stage's mean over the image goes
    through dropout into the classes.
    blocks: residual blocks of each stage, [0, 1, 2, 2] say; None for one each. Most of the arithmetic of a block is in
    the first stages, most of its weights in the last ones. Channels in multiples of 32 suit a processor best.
    dropout: its rate. generator: draws the initial weights, normal with variance 2 / fan-in (1 / fan-in before the
    softmax).

    As in `MLP`, the last layer runs in its weights' own precision even under autocast.
    Raises ValueError for what are no sizes, and for inputs that are not floats.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        in_channels: int,
        classes: int,
        blocks: Sequence[int] | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        channels = as_sizes(channels, "channels")
        in_channels, classes = check_whole(in_channels, "in_channels", 1), check_whole(classes, "classes", 1)
        blocks = [1] * len(channels) if blocks is None else as_sizes(blocks, "blocks", least=0)
        if len(blocks) != len(channels):
            raise ValueError(f"blocks must have a number for each of the {len(channels)} stages, not {blocks}.")
        sizes = zip(pairwise([in_channels, *channels]), blocks, strict=True)
        self.stages = nn.ModuleList(_Stage(a, b, count, generator) for (a, b), count in sizes)
        self.dropout = Dropout(dropout)
        self.output = _linear(channels[-1], classes, 1.0, generator)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer sees, [B, channels[-1]]."""
        x = _floats(x, "ConvNet")
        x = x.unsqueeze(1) if x.dim() == 3 else x
        x = x.contiguous(memory_format=torch.channels_last)  # twice as fast on a processor
        for stage in self.stages:
            x = stage(x)
        return self.dropout(x.mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes] of images."""
        x = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.output.weight.dtype), self.output.weight, self.output.bias)


class _Stage(nn.Module):
    """Half the sides, other channels, then residual blocks.

    The first block's layers have names of their own, by which stored networks know them.
    """

    def __init__(self, before: int, after: int, blocks: int, generator: torch.Generator | None):
        super().__init__()
        self.down = _Normalised(before, after, 2, generator)
        if blocks:
            self.first = _Normalised(after, after, 1, generator)
            self.second = _Normalised(after, after, 1, generator)
        layers = ((_Normalised(after, after, 1, generator) for _ in range(2)) for _ in range(blocks - 1))
        self.more = nn.ModuleList(nn.ModuleList(pair) for pair in layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.down(x))  # in place: normalisation needs none of what it puts out for its gradient
        blocks = [(self.first, self.second), *self.more] if hasattr(self, "first") else []
        for first, second in blocks:
            x = torch.relu_(second(torch.relu_(first(x))).add_(x))
        return x


class _Normalised(nn.Module):
    """A 3 x 3 convolution and its batch normalisation."""

    def __init__(self, before: int, after: int, stride: int, generator: torch.Generator | None):
        super().__init__()
        self.convolution = nn.utils.skip_init(nn.Conv2d, before, after, 3, stride=stride, padding=1, bias=False)
        nn.init.normal_(self.convolution.weight, 0.0, math.sqrt(2.0 / (9 * before)), generator=generator)
        self.normalisation = nn.BatchNorm2d(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalisation(self.convolution(x))


def _floats(x: torch.Tensor, name: str) -> torch.Tensor:
    if not x.is_floating_point():
        raise ValueError(f"{name} takes floats, not {x.dtype}: of integers only uint8 images are turned into floats.")
    return x


def _linear(
    fan_in: int, fan_out: int, gain: float, generator: torch.Generator | None, std: float | None = None
) -> nn.Linear:
    # skip_init: nn.Linear would draw its own weights from the global generator first.
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    std = math.sqrt(gain / fan_in) if std is None else std
    nn.init.normal_(layer.weight, 0.0, std, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class MixtureOfExperts(nn.Module):
    """Several convolutional experts and a gate, itself a small one: images to float32 log-probabilities [B, classes].

    p(class) = sum over experts of gate(expert) p_expert(class), every factor a softmax of its own, so that
    cross-entropy with these "logits" is the mixture's negative log-likelihood (softmax leaves log p as it is).
    experts: how many. channels, blocks: stages of each expert (see `ConvNet`); gate_channels: of the gate. generator:
    draws initial weights.
    Raises ValueError for fewer than two experts, and as `ConvNet` does.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        experts: int,
        gate_channels: Sequence[int],
        in_channels: int,
        classes: int,
        blocks: Sequence[int] | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if check_whole(experts, "experts") < 2:
            raise ValueError(f"A mixture needs at least 2 experts, not {experts}.")
        common = {"in_channels": in_channels, "generator": generator}
        self.experts = nn.ModuleList(
            ConvNet(channels, classes=classes, blocks=blocks, dropout=dropout, **common) for _ in range(experts)
        )
        self.gate = ConvNet(gate_channels, classes=experts, **common)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, classes] of images: the experts' distributions, mixed by the gate's."""
        gate = self.gate(x).log_softmax(1)  # [B, experts]
        opinions = torch.stack([expert(x).log_softmax(1) for expert in self.experts], dim=1)  # [B, experts, classes]
        return (gate.unsqueeze(2) + opinions).logsumexp(1)

    def shares(self, x: torch.Tensor) -> torch.Tensor:
        """How much the gate trusts each expert, [B, experts]."""
        return self.gate(x).softmax(1)


class Composed(nn.Module):
    """A network that is made of others: an ensemble, or a generalist with its specialists.

    members: where all are this package's, it is given its inputs in the precision of their hidden layers, as each of
        them would be. What it makes of their logits it makes in float32 or float64.
    cases_at_once: about how many it is best asked together: as a teacher, about those of several steps.
    """

    members: Sequence[nn.Module]
    cases_at_once: int = 1


def use_generator(network: nn.Module, generator: torch.Generator | None) -> None:
    """Give every Dropout of the network the generator that its masks come from."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator


@torch.no_grad()
def clip_max_norm(network: MLP, limit: float) -> None:
    """Scale back, in place, the incoming weights of each hidden unit to an L2 norm of at most `limit`.

    This is the weight constraint of Hinton et al. 2012 (there the squared norm is limited to 15).
    """
    for layer in network.hidden:
        layer.weight.copy_(torch.renorm(layer.weight, p=2, dim=0, maxnorm=limit))


def parameter_count(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
