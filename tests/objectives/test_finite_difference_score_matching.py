"""Finite-difference sliced score matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.objectives.exact_score_matching import exact
from flowebm.objectives.finite_difference_score_matching import (
    fdssm,
    finite_difference_sliced_score_matching,
)

KEY = jax.random.key(0)


def average(model, x, signs, step, penalty=0.0):
    def loss(x, r):
        return finite_difference_sliced_score_matching(model, x, r, step, penalty)

    return jnp.mean(jax.vmap(jax.vmap(loss, (None, 0)), (0, None))(x, signs))


@pytest.mark.parametrize("step", [0.01, 1.0])
def test_on_a_gaussian_it_is_exact_at_every_step(gaussian, x, signs, step):
    """A quadratic energy has no higher differences: the average over the 2³ directions is
    exact score matching, with the factor D and not another."""
    loss = average(gaussian, x, signs, step, 0.3)
    np.testing.assert_allclose(loss, exact(0.3)(gaussian, x, KEY), rtol=1e-9)


def test_it_tends_to_sliced_score_matching_with_the_square_of_the_step(flow, x, signs):
    """Averaged over all directions the error against `exact` is O(ε²): it falls by 4 when
    the step is halved, and extrapolating it away leaves the limit."""
    error = jax.jit(lambda step: average(flow, x, signs, step) - exact()(flow, x, KEY))
    coarse, fine = error(0.04), error(0.02)
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.01)
    assert abs((4 * fine - coarse) / 3) < 1e-3 * abs(coarse)


def test_directions_are_drawn_so_that_the_expectation_is_exact(gaussian, precision):
    """4,000 points at the origin, where the loss is -rᵀPr of mean -tr P and variance
    4 Σ_{i<j} P_ij². |z| < 4.1 fails by chance with probability 4e-5."""
    loss = jax.jit(lambda key: fdssm(0.1)(gaussian, jnp.zeros((4000, 3)), key))(KEY)
    error = np.sqrt(4 * np.sum(np.triu(precision, 1) ** 2) / 4000)
    assert 1e-6 < abs(loss + np.trace(precision)) / error < 4.1


def test_a_step_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="positive step"):
        fdssm(0.0)
