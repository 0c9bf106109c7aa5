"""The playground's networks and images, as scripts that a page loads when it is asked for them.

A page that was opened from a file may fetch nothing, but it may load scripts. So each published network becomes one
or a few, in 8-bit weights; `answer` is the same integer arithmetic as `book/_static/play/nets.js` does, number by
number.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kdrepro.files import atomic_write
from kdrepro.publishing import weights
from kdrepro.publishing.standing import Standing

# What readers call each network, by the claim that it is about.
NETS = {
    "mnist.teacher": ("teacher", "two layers of 1200, dropout, moved images"),
    "mnist.plain": ("plain", "two layers of 800, labels alone"),
    "mnist.distilled": ("distilled", "the plain net's layers, with the teacher's soft targets"),
    "mnist.omit3": ("never saw a 3", "distilled without a single 3"),
    "mnist.only78": ("only 7s and 8s", "distilled with 7s and 8s alone"),
}
PART_CHARACTERS = 1_800_000  # of a script, beside scales and biases: no file is above 2 MB
MOST = 127  # of a weight in 8 bits
LEVELS = 4095  # steps of a hidden unit's output
ALPHABET = np.frombuffer(
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#", np.uint8
)

GALLERY = (
    '<details class="play-images"><summary>Or pick one of a hundred test images, the hardest among them</summary>'
    '<div class="play-gallery" role="group" aria-label="Test images: the arrow keys go from one to the next"></div>'
    "</details>"
)
TWOS = (
    '<p><button type="button" class="play-twos">Which 2 looks like a 3?</button> The teacher puts the 2s among them in '
    "order: below each, how many powers of ten it thinks a 3 likelier than a 7.</p>"
    '<div class="play-twos-gallery" role="group" aria-label="Twos, those that look like a 3 first"></div>'
)


@dataclass(frozen=True)
class Layer:
    """A layer in 8 bits: weights int8 [outputs, inputs], of each output a scale and a bias, float64 [outputs]."""

    weights: np.ndarray
    scales: np.ndarray
    biases: np.ndarray


def quantised(network: Any) -> list[Layer]:
    """The layers of an `MLP` of square images, each row of a weight matrix in 8 bits with a scale of its own."""
    layers = []
    for linear in [*network.hidden, network.output]:
        matrix, bias = (t.detach().double().cpu().numpy() for t in (linear.weight, linear.bias))
        scales = np.maximum(np.abs(matrix).max(1), 1e-12) / MOST
        scaled = matrix / scales[:, None]
        rounded = in_turn(scaled) if layers else diffused(scaled)
        layers.append(Layer(rounded.astype(np.int8), scales, bias))
    return layers


def in_turn(rows: np.ndarray) -> np.ndarray:
    """Weights of hidden units [outputs, units], rounded; what is lost of one is passed on to the next.

    No output of a unit is below zero, so that the errors of neighbours cancel in part.
    """
    return np.diff(np.rint(rows.cumsum(1)), axis=1, prepend=0).clip(-MOST, MOST)


def diffused(rows: np.ndarray) -> np.ndarray:
    """Weights of pixels [outputs, side * side], rounded; what is lost of one is passed on to its neighbours.

    Floyd and Steinberg's diffusion of errors (1976), every second line backwards. Neighbouring pixels of a pen's stroke
    are alike, so that most of the errors cancel: half as many answers change as by rounding each weight for itself.
    """
    side = math.isqrt(rows.shape[1])
    left = np.zeros((len(rows), side + 1, side + 2))  # with a margin, which takes what no neighbour does
    left[:, :side, 1:-1] = rows.reshape(-1, side, side)
    for y in range(side):
        ahead = 1 if y % 2 == 0 else -1
        for x in range(1, side + 1)[::ahead]:
            kept = np.rint(left[:, y, x]).clip(-MOST, MOST)
            lost, left[:, y, x] = left[:, y, x] - kept, kept
            left[:, y, x + ahead] += lost * 7 / 16
            left[:, y + 1, x - ahead] += lost * 3 / 16
            left[:, y + 1, x] += lost * 5 / 16
            left[:, y + 1, x + ahead] += lost / 16
    return left[:, :side, 1:-1].reshape(rows.shape)


def answer(layers: Sequence[Layer], pixels: np.ndarray) -> np.ndarray:
    """Logits float64 [B, C] of images uint8 [B, inputs], in the page's arithmetic.

    All sums are of whole numbers, and so exact; the outputs of hidden units are rounded to LEVELS steps of the largest
    of the case.
    """
    inputs, steps = pixels.astype(np.int64), np.full((len(pixels), 1), 1 / 255)
    for layer in layers:
        values = (inputs @ layer.weights.T.astype(np.int64)) * (layer.scales * steps) + layer.biases
        outputs = np.maximum(values, 0)
        largest = outputs.max(1, keepdims=True)
        steps = np.where(largest > 0, largest, 1) / LEVELS
        inputs = np.floor(outputs / steps + 0.5).astype(np.int64)
    return values


def z85(content: bytes) -> str:
    """Bytes as text: four bytes in five of 85 characters (ZeroMQ's RFC 32), zeros added at the end."""
    words = np.frombuffer(content + bytes(-len(content) % 4), ">u4").astype(np.int64)
    digits = words[:, None] // 85 ** np.arange(4, -1, -1) % 85
    return ALPHABET[digits].tobytes().decode()


def net_scripts(name: str, layers: Sequence[Layer]) -> list[str]:
    """A network as scripts: the first says what it is, each has a piece of all weights, input by input."""
    text = z85(b"".join(layer.weights.T.tobytes() for layer in layers))
    pieces = [text[i : i + PART_CHARACTERS] for i in range(0, len(text), PART_CHARACTERS)]
    about = {
        "widths": [layers[0].weights.shape[1], *(len(layer.weights) for layer in layers)],
        "scales": [layer.scales.tolist() for layer in layers],
        "biases": [layer.biases.tolist() for layer in layers],
    }
    said = [{"name": name, "part": i, "parts": len(pieces), "data": piece} for i, piece in enumerate(pieces)]
    said[0] |= about
    return [f"kdrepro.takeNet({json.dumps(one)});\n" for one in said]


def images_script(arrays: Mapping[str, np.ndarray]) -> str:
    """The test images that chapter 2 published for the page (`shown.*`), as a script."""
    images, labels, cases = (arrays[f"shown.{name}"] for name in ("images", "labels", "cases"))
    said = {"images": z85(images.tobytes()), "labels": labels.tolist(), "cases": cases.tolist()}
    return f"kdrepro.takeImages({json.dumps(said)});\n"


def carry(into: Path, folder: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Write the scripts of all published networks and images; returns their names, by claim and "images".

    folder: of the published weights. arrays: those beside chapter 2's record.
    """
    scripts = {}
    for claim_id in there_are(weights.read_index(folder)):
        made = net_scripts(claim_id, quantised(weights.load(claim_id, folder)))
        scripts[claim_id] = {f"{claim_id}.{i}.js": text for i, text in enumerate(made)}
    if gallery(arrays):
        scripts["images"] = {"images.js": images_script(arrays)}
    for files in scripts.values():
        for name, text in files.items():
            atomic_write(into / name, text.encode())
    return {name: list(files) for name, files in scripts.items()}


def nets(index: Mapping[str, Any], these: Sequence[Standing]) -> str:
    """The networks that the page has, as its script reads them, in HTML. index: of the published weights."""
    claims = {one.claim.id: one for one in these}
    there = there_are(index)
    rows = "".join(_row(index, claims[claim_id]) for claim_id in there)
    missing = [NETS[claim_id][0] for claim_id in NETS if claim_id not in there]
    absent = (
        f"<p>Not published yet: {', '.join(missing)}. They come with the chapter's next run.</p>" if missing else ""
    )
    return f'<ul class="play-nets">{rows}</ul>{absent}'


def gallery(arrays: Mapping[str, np.ndarray]) -> str:
    """Where test images can be picked, in HTML; "" where none are published. arrays: beside chapter 2's record."""
    return GALLERY if "shown.images" in arrays and arrays["shown.images"].shape[1:] == (28, 28) else ""


def twos(index: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Where 2s are put in order by the teacher, in HTML; "" where it or the images are not published."""
    return TWOS if gallery(arrays) and "mnist.teacher" in there_are(index) else ""


def there_are(index: Mapping[str, Any]) -> list[str]:
    """Claims whose networks of 28 x 28 pixels are published."""
    found = {claim_id: index["networks"][keys[-1]]["config"]["network"] for claim_id, keys in index["claims"].items()}
    return [claim_id for claim_id in NETS if found.get(claim_id, {}).get("widths", [0])[0] == 784]


def _row(index: Mapping[str, Any], one: Standing) -> str:
    """A network as the script reads it, with what it is and what its claim says of its kind."""
    name, what = NETS[one.claim.id]
    figure = f", {escape(one.row['metric'])} {escape(one.row['ours'])}" if one.decided else ""
    return (
        f'<li data-net="{one.claim.id}" data-files="{_files(index, one.claim.id)}"><strong>{escape(name)}</strong>: '
        f'{escape(what)}{figure} (<a href="claims.html#{one.anchor}">{one.claim.id}</a>)</li>'
    )


def _files(index: Mapping[str, Any], claim_id: str) -> int:
    """Into how many scripts a network goes, from its layers alone."""
    widths = index["networks"][index["claims"][claim_id][-1]]["config"]["network"]["widths"]
    count = sum(a * b for a, b in pairwise(widths))
    return -(-(-(-count // 4) * 5) // PART_CHARACTERS)
