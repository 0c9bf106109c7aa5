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


def test_rate_and_momentum_of_2012():
    """A rate of 10, times .998 an epoch; momentum from .5 to .99, and (1 - momentum) of each gradient."""
    recipe = Recipe(
        epochs=10, optimizer="sgd", learning_rate=0.1, momentum=0.99, momentum_rise=4, schedule="exponential", warmup=0
    )
    momenta = [recipe.momentum_at(step, 20) for step in range(20)]  # two steps an epoch
    assert momenta[0] == momenta[1] == 0.5
    assert momenta[4] == pytest.approx(0.745)
    assert momenta[8:] == pytest.approx([0.99] * 12)
    expected = [10 * (1 - momenta[step]) * 0.998 ** (step // 2) for step in range(20)]
    assert [recipe.rate(step, 20) for step in range(20)] == pytest.approx(expected)


def test_a_rise_of_momentum_is_of_sgd_and_leaves_older_recipes_as_they_were():
    with pytest.raises(ValueError, match="momentum_rise is of sgd's momentum"):
        Recipe(epochs=1, momentum_rise=3)
    assert "momentum_rise" not in Recipe(epochs=1).model_dump()
    rising = Recipe(epochs=1, optimizer="sgd", momentum_rise=3)
    assert Recipe(**rising.model_dump()) == rising != Recipe(epochs=1, optimizer="sgd")
