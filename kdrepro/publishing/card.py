"""The picture that goes with a link to the book where people share it."""

import io
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from kdrepro.publishing.front import tally
from kdrepro.publishing.standing import Standing
from kdrepro.verdicts import wording

LINE = 100  # characters
INCHES, DPI = (12.0, 6.3), 100  # 1200 x 630 pixels, as the sites ask for
INK, BLUE, ORANGE = "#1b1f24", "#0072b2", "#d55e00"


def draw(these: Sequence[Standing]) -> bytes:
    """The card as PNG: the three nets on MNIST, where they were measured, and the tally."""
    figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
    figure.text(0.06, 0.85, "Distilling the Knowledge, number by number", size=29, weight="bold", color=INK)
    figure.text(0.06, 0.77, "Hinton, Vinyals & Dean (2015), every claim tested again", size=20, color=INK)
    of = {one.claim.id: one for one in these}
    nets = [(name, of[f"mnist.{name}"]) for name in ("plain", "distilled", "teacher")]
    if all(one.decided and one.mean is not None for _, one in nets):
        axes = figure.add_axes((0.22, 0.27, 0.7, 0.42))
        for y, (name, one) in enumerate(nets):
            axes.barh(y, one.mean, color=ORANGE if name == "plain" else BLUE, height=0.62)
            paper = f"{wording.written('errors', one.mean)}  (paper: {one.row['paper']})"
            axes.text(one.mean + 2, y, paper, va="center", size=20, color=INK)
        axes.set_yticks(range(3), [name for name, _ in nets], size=22, color=INK)
        axes.set_xlim(0, 1.45 * max(one.mean for _, one in nets))
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.text(0.22, 0.2, "test errors on MNIST, of 10,000", size=17, color=INK)
    counts = textwrap.fill(tally(these).split(";")[0].rstrip(".") + ".", LINE)
    figure.text(0.06, 0.05, counts, size=14, color=INK, linespacing=1.4)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
