"""The learning rate of each step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro.training import Recipe


@given(st.sampled_from(["cosine", "linear", "constant"]), st.floats(0, 0.5), st.integers(2, 500))
@settings(max_examples=60)
def test_rate_rises_then_falls(schedule, warmup, steps):
    recipe = Recipe(epochs=1, learning_rate=0.3, schedule=schedule, warmup=warmup)
    rates = [recipe.rate(i, steps) for i in range(steps)]
    assert all(0 < r <= 0.3 + 1e-12 for r in rates)
    assert rates[-1] == pytest.approx(0.3) if schedule == "constant" else rates[-1] <= rates[len(rates) // 2]
