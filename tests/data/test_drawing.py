"""Images of one character: few are the first of many."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro.data.drawing import CHUNK, Drawing, draw_class


@given(st.integers(1, 2 * CHUNK), st.integers(1, 2 * CHUNK), st.sampled_from("é↗█"), st.integers(0, 2**40))
@settings(max_examples=8)
def test_few_images_are_the_first_of_many(fonts, few, many, character, seed):
    few, many = sorted((few, many))
    drawn = draw_class(fonts, character, Drawing(many, 0, 1, 16, seed))
    assert drawn.shape == (many + 1, 16, 16)
    first = draw_class(fonts, character, Drawing(few, 2, 1, 16, seed))
    assert np.array_equal(first[:few], drawn[:few])
    assert np.array_equal(first[-1], drawn[-1])
