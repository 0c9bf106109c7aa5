"""Arithmetic: what an image of distillation costs, and how fast the machine multiplies matrices.

Only matrix products are counted, a multiplication and an addition as two operations. A training step takes three times
its forward pass (the layer's output, the gradient to its weights, the gradient to its inputs), less the gradient to the
images, which nobody needs; the teacher takes one forward pass.
"""

import time
from collections.abc import Sequence
from itertools import pairwise

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def forward(widths: Sequence[int]) -> int:
    """Operations of a fully connected network's forward pass, an image."""
    return 2 * sum(a * b for a, b in pairwise(widths))


def training(widths: Sequence[int]) -> int:
    """Operations of a forward and a backward pass, an image."""
    return 3 * forward(widths) - 2 * widths[0] * widths[1]


def distillation(student: Sequence[int], teacher: Sequence[int]) -> int:
    """Operations of distilling, an image: the student's training and the teacher's forward pass."""
    return training(student) + forward(teacher)


def matrix_rate(size: int, dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """GFLOP/s of square matrix products of this size, the fastest of as many as start within `seconds` (at least 2)."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    best, count, began = float("inf"), 0, time.perf_counter()
    while count < 2 or time.perf_counter() - began < seconds:
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        best, count = min(best, time.perf_counter() - start), count + 1
    return 2 * size**3 / best / 1e9


def synchronize(device: torch.device) -> None:
    """Wait for a GPU to finish; a processor has nothing outstanding."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
