"""How a network is trained, apart from what it is trained on."""

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from kdrepro.settings import Settings

DECAY = 0.998  # of the rate, from epoch to epoch, and the momentum of the first: Hinton et al. 2012
MOMENTUM_AT_START = 0.5


class Recipe(Settings):
    """How a network is trained, apart from what it is trained on.

    epochs: passes over the cases, at least 1. batch_size: cases of a step, as `Batches` cuts them; a training whose
        batches have another size than a recipe that names one is refused.
    optimizer: "adam" (AdamW) or "sgd" (with Nesterov's momentum).
    learning_rate: the peak of the schedule. momentum: sgd's, or adam's decay of the first moment. beta2: adam's decay
        of the second moment.
    momentum_rise: epochs over which sgd's momentum rises from .5 to that value (Hinton et al. 2012). The rate is
        meanwhile higher by (1 - momentum so far) / (1 - momentum), so that a gradient moves the weights as far in all.
    schedule: after the warm-up, "cosine" and "linear" fall to 0 at the last step, "exponential" by .2 % an epoch, as in
        2012, "constant" stays. warmup: share of all steps over which the rate rises from 0.
    weight_decay: decoupled for adam, L2 for sgd.
    averaging: the decay, a step, of a running average of the weights, which the network is evaluated with and ends
        with (batch normalisation's figures are averaged too); it rises as (1 + step) / (10 + step), so that the first
        weights are soon forgotten. 0 for none. Such networks train one at a time.
    max_norm: limit of the L2 norm of a hidden unit's incoming weights, None for none; `MLP`s only.
    precision: of the products of hidden layers, and of an online teacher's: "fp32", "bf16", or "auto", bfloat16 where
        the device multiplies it natively. The last layer of this package's networks, the losses and the weights are
        float32 all the same; another network's last layer is under autocast like the rest of it. Networks in float64
        are trained in float64. "fp32" keeps cuDNN, too, from convolving in TF32 on a GPU, which it does otherwise;
        matrix products are in TF32 only where torch.set_float32_matmul_precision has said so.
    Raises pydantic's ValidationError, a ValueError, for unknown fields and values out of range.
    """

    later: ClassVar[frozenset[str]] = frozenset({"momentum_rise", "averaging"})

    epochs: int = Field(ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    momentum_rise: int = Field(0, ge=0)
    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    averaging: float = Field(0.0, ge=0, lt=1)
    max_norm: float | None = Field(None, gt=0, allow_inf_nan=False)
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @model_validator(mode="after")
    def _adam_has_no_rise(self) -> Self:
        if self.momentum_rise and self.optimizer != "sgd":
            raise ValueError("momentum_rise is of sgd's momentum: leave it at 0 with another optimizer")
        return self

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at a step of `steps`."""
        progress = step / steps
        higher = (1 - self.momentum_at(step, steps)) / (1 - self.momentum)
        rising = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        falling = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "exponential": DECAY ** math.floor(progress * self.epochs),
            "constant": 1.0,
        }[self.schedule]
        return self.learning_rate * rising * falling * higher

    def momentum_at(self, step: int, steps: int) -> float:
        """Sgd's momentum at a step of `steps`."""
        if not self.momentum_rise:
            return self.momentum
        risen = min(1.0, math.floor(step / steps * self.epochs) / self.momentum_rise)
        return (1 - risen) * MOMENTUM_AT_START + risen * self.momentum


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively, and so faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, hence the fallback
    return device.type == "cpu" and native is not None and native()
