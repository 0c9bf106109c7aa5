"""How a network is trained, apart from what it is trained on."""

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """How a network is trained, apart from what it is trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)  # the peak of the schedule
    momentum: float = Field(0.9, ge=0, lt=1)  # Nesterov's for sgd, the first moment's decay for adam
    beta2: float = Field(0.999, ge=0, lt=1)  # adam's decay of the second moment
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up, down to 0
    warmup: float = Field(0.03, ge=0, lt=1)  # share of all steps over which the rate rises from 0
    weight_decay: float = Field(0.0, ge=0)
    max_norm: float | None = Field(None, gt=0)  # L2 norm of a hidden unit's incoming weights
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of hidden layers' matrix products, an online teacher's too

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
