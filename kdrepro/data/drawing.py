"""Images of one printed character: turned, sheared, scaled, shifted, thick or thin, blurred and noisy at random."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch.nn.functional import avg_pool2d, grid_sample

from kdrepro.data.characters import Fonts
from kdrepro.data.image_cache import SPLITS

VERSION = 1  # raised when the same settings would give other images
MASTER = 96  # pixels a side of the drawing that images are sampled from
FINER = 2  # samples a pixel and side
CHUNK = 64  # images drawn at once: what the processor's cache holds

# What is drawn at random for each image, evenly between two ends. Lengths in widths of the image.
ENDS = {
    "font": (0.0, 1.0),  # of all that have the character
    "rotation": (-0.2, 0.2),  # radians
    "shear": (-0.2, 0.2),
    "scale": (0.76, 1.02),
    "stretch": (0.88, 1.12),  # of width against height
    "shift across": (-0.07, 0.07),
    "shift down": (-0.07, 0.07),
    "thickness": (-0.01, 0.014),  # added to each side of a stroke
    "blur": (1.0, 2.0),  # pixels that an edge is wide
    "paper": (0.0, 40.0),  # grey levels
    "ink": (130.0, 255.0),
    "noise": (0.0, 32.0),  # standard deviation, grey levels
}


@dataclass(frozen=True)
class Drawing:
    """The sizes of a data set of glyphs: images a class of each split, pixels a side, the seed."""

    train: int
    validation: int
    test: int
    size: int
    seed: int

    @property
    def per_class(self) -> int:
        """Images of a class in all."""
        return self.train + self.validation + self.test


def draw_class(fonts: Fonts, character: str, drawing: Drawing) -> np.ndarray:
    """The images of one character, training, validation, test: uint8 [per_class, size, size]."""
    masters = torch.stack([_distances(fonts.draw(character, font, MASTER)) for font in fonts.having(character)])
    images = []
    for i, split in enumerate(SPLITS):
        seeds = np.random.SeedSequence([drawing.seed, ord(character), i]).spawn(2)
        chance, noise = map(np.random.default_rng, seeds)  # two, so that the first images of many are those of few
        for start in range(0, getattr(drawing, split), CHUNK):
            count = min(CHUNK, getattr(drawing, split) - start)
            images.append(_images(masters, count, drawing.size, chance, noise))
    return np.concatenate(images)


def _distances(drawn: np.ndarray) -> torch.Tensor:
    """How deep in the ink each point lies (negative outside), in widths of the image: float32 [MASTER, MASTER].

    Unlike grey levels, distances can be sampled at any size, and a stroke is made thicker by adding to them.
    """
    ink = drawn > 127
    return torch.from_numpy((distance_transform_edt(ink) - distance_transform_edt(~ink)) / MASTER).float()


def _images(
    masters: torch.Tensor, count: int, size: int, chance: np.random.Generator, noise: np.random.Generator
) -> np.ndarray:
    """Images [count, size, size] from the distances [fonts, MASTER, MASTER] of one character."""
    low, high = np.array(list(ENDS.values())).T
    values = torch.from_numpy(chance.uniform(low, high, (count, len(ENDS)))).float()
    draw = {name: values[:, i, None, None] for i, name in enumerate(ENDS)}
    font = (draw["font"].flatten() * len(masters)).long().clamp_(max=len(masters) - 1)
    places = _places(draw, FINER * size)
    depth = grid_sample(masters[font][:, None], places, padding_mode="border", align_corners=False)[:, 0]
    ink = ((depth + draw["thickness"]) * (size / draw["blur"]) + 0.5).clamp_(0, 1)
    image = draw["paper"] + avg_pool2d(ink, FINER) * (draw["ink"] - draw["paper"])
    image += draw["noise"] * torch.from_numpy(noise.standard_normal((count, size, size), dtype=np.float32))
    return image.round_().clamp_(0, 255).byte().numpy()


def _places(draw: dict[str, torch.Tensor], pixels: int) -> torch.Tensor:
    """Where the points of an image lie in the master, float32 [count, pixels, pixels, 2], for `grid_sample`.

    Term by term: a matrix product's last digit may depend on how many images there are.
    """
    at = (2 * torch.arange(pixels) + 1) / pixels - 1  # the master is two wide
    x, y = at[None, None, :], at[None, :, None]
    y = y * (draw["stretch"] / draw["scale"])
    x = x / (draw["scale"] * draw["stretch"]) + y * draw["shear"]
    cos, sin = draw["rotation"].cos(), draw["rotation"].sin()
    across = cos * x - sin * y + 2 * draw["shift across"]
    down = sin * x + cos * y + 2 * draw["shift down"]
    return torch.stack([across, down], -1)
