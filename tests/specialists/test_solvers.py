"""The certificate of Eq. 5's solvers, their closed form, and cases that are solved in a crowd."""

import pytest
import torch
from eq5_problems import KINDS, everyone, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro.specialists import solvers
from kdrepro.specialists.combining import active, combine, objective

SEEDS = st.integers(0, 2**31 - 1)


@given(SEEDS)
@settings(max_examples=40)
def test_the_bound_is_above_the_excess(seed):
    """At any q and u, however far from the minimum: Newton's and gradient descent's, after each of a few steps."""
    p_g, p_m, classes = problem(seed, kinds=KINDS)
    everywhere = everyone(p_g, classes)
    c, d = solvers._counts(p_g, p_m, classes, everywhere)
    outside = solvers.in_dustbin(classes, p_g).double().expand(8, -1, -1)
    least = objective(combine(p_g, p_m, classes, top_n=6), p_g, p_m, classes, everywhere)
    for steps in (1, 2, 4, 8):
        for q, bound in (
            solvers._newton_from(c, d, outside, 1e-12, steps),
            solvers._descend_from(c, d, outside, p_g, 1e-12, steps),
        ):
            excess = objective(q, p_g, p_m, classes, everywhere) - least
            assert (excess <= bound + 1e-11).all()


@given(SEEDS, st.sampled_from(KINDS))
@settings(max_examples=60)
def test_one_specialist_in_closed_form(seed, kind):
    p_g, p_m, classes = problem(seed, n_specialists=1, kinds=("soft", "sharp", kind))
    everywhere = everyone(p_g, classes)
    closed = combine(p_g, p_m, classes, top_n=6)
    c, d = solvers._counts(p_g, p_m, classes, everywhere)
    iterated, _ = solvers._newton_from(c, d, solvers.in_dustbin(classes, p_g).double().expand(8, 1, -1), 1e-12, 100)
    values = [objective(q, p_g, p_m, classes, everywhere) for q in (closed, iterated)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-11)
    special = classes[0]
    torch.testing.assert_close(closed[:, special], (p_g[:, special] + p_m[0][:, :-1]) / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_cases_do_not_touch_each_other(method, monkeypatch):
    """Solved in a crowd of different sizes, of which each leaves when it is done, or alone: the same."""
    p_g, p_m, classes = problem(4, 12, 12, 5, kinds=("soft",))
    assert len(active(p_g, classes, 2).sum(1).unique()) >= 3
    together = combine(p_g, p_m, classes, top_n=2, method=method)
    alone = [combine(p_g[i : i + 1], [p[i : i + 1] for p in p_m], classes, top_n=2, method=method) for i in range(12)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(solvers, "CPU_CHUNK", 100)
    torch.testing.assert_close(combine(p_g, p_m, classes, top_n=2, method=method), together, rtol=1e-9, atol=1e-12)
