"""Sliced score matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.objectives.exact_score_matching import exact
from flowebm.objectives.sliced_score_matching import sliced_score_matching, ssm

KEY = jax.random.key(0)


def test_the_average_over_all_slices_is_exact_score_matching(flow, x, signs):
    """The expectation over Rademacher slices is a sum over the 2³ sign vectors."""

    @jax.jit
    def observe(x):
        losses = jax.vmap(lambda x: sliced_score_matching(flow, x, signs, 0.3))(x)
        return jnp.mean(losses), exact(0.3)(flow, x, KEY)

    np.testing.assert_allclose(*observe(x), rtol=1e-11)


@pytest.mark.parametrize("n_slices", [1, 4])
def test_slices_are_drawn_so_that_the_expectation_is_exact(gaussian, precision, n_slices):
    """4,000 points at the origin: the loss is -vᵀPv averaged, of mean -tr P and variance
    4 Σ_{i<j} P_ij² / n for each point. |z| < 4.1 fails by chance with probability 4e-5; the
    spread itself is checked to 20% (a chi-square with 3,999 degrees of freedom: 9 sigmas)."""
    n = 4000
    loss = jax.jit(lambda key: ssm(n_slices)(gaussian, jnp.zeros((n, 3)), key))
    variance = 4 * np.sum(np.triu(precision, 1) ** 2) / n_slices
    z = (loss(KEY) + np.trace(precision)) / np.sqrt(variance / n)
    assert 1e-6 < abs(z) < 4.1

    one = jax.vmap(lambda key: ssm(n_slices)(gaussian, jnp.zeros((1, 3)), key))
    spread = np.var(one(jax.random.split(KEY, n)))
    np.testing.assert_allclose(spread, variance, rtol=0.2)


def test_a_number_of_slices_below_one_is_refused():
    with pytest.raises(ValueError, match="at least one slice"):
        ssm(0)
