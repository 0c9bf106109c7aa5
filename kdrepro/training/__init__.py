"""The engine: `fit` trains one network, `fit_many` many at once, on `Batches`, by a `Recipe`, for an objective."""

from kdrepro.training.batches import Batch, Batches, CaseSource, Sampler, flip_images, shift_images
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.training.identity import digest
from kdrepro.training.inference import as_inputs, logits
from kdrepro.training.loop import fit, fit_many
from kdrepro.training.objectives import Objective, hard_targets, matched_logits, soft_targets, taught
from kdrepro.training.recipe import Recipe, gains_from_bf16

__all__ = [
    "Batch",
    "Batches",
    "CaseSource",
    "Checkpoint",
    "Objective",
    "Recipe",
    "Sampler",
    "as_inputs",
    "digest",
    "fit",
    "fit_many",
    "flip_images",
    "gains_from_bf16",
    "hard_targets",
    "logits",
    "matched_logits",
    "shift_images",
    "soft_targets",
    "taught",
]
