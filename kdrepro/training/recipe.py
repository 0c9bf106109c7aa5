"""How a network is trained, apart from what it is trained on."""

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """How a network is trained, apart from what it is trained on.

    epochs: passes over the cases, at least 1. batch_size: cases of a step, as `Batches` cuts them; a training whose
        batches have another size than a recipe that names one is refused.
    optimizer: "adam" (AdamW) or "sgd" (with Nesterov's momentum).
    learning_rate: the peak of the schedule. momentum: sgd's, or adam's decay of the first moment. beta2: adam's decay
        of the second moment.
    schedule: after the warm-up, "cosine" and "linear" fall to 0 at the last step, "constant" stays. warmup: share of
        all steps over which the rate rises from 0.
    weight_decay: decoupled for adam, L2 for sgd.
    max_norm: limit of the L2 norm of a hidden unit's incoming weights, None for none; `MLP`s only.
    precision: of the products of hidden layers, and of an online teacher's: "fp32", "bf16", or "auto", bfloat16 where
        the device multiplies it natively. The last layer of this package's networks, the losses and the weights are
        float32 all the same; another network's last layer is under autocast like the rest of it. Networks in float64
        are trained in float64.
    Raises pydantic's ValidationError, a ValueError, for unknown fields and values out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    max_norm: float | None = Field(None, gt=0, allow_inf_nan=False)
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at a step of `steps`."""
        progress = step / steps
        rising = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        falling = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "constant": 1.0,
        }[self.schedule]
        return self.learning_rate * rising * falling


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively, and so faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, hence the fallback
    return device.type == "cpu" and native is not None and native()
