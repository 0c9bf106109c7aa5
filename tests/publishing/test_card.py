"""The card that goes with a link: a picture of the size that the sites ask for, with and without records."""

import io

import pytest
from PIL import Image

from kdrepro import paths
from kdrepro.publishing import card, standing


@pytest.mark.parametrize("published", [True, False])
def test_the_card_is_a_picture(published, tmp_path):
    these = standing.standings(paths.RESULTS if published else tmp_path)
    image = Image.open(io.BytesIO(card.draw(these)))
    assert image.size == (1200, 630)
    # Nothing touches the edges, as text that does not fit would.
    edges = [image.convert("L").crop(box) for box in ((0, 0, 20, 630), (1180, 0, 1200, 630))]
    assert all(edge.getextrema() == (255, 255) for edge in edges)
