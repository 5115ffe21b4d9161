"""Maximum likelihood: the weighted cross-entropy and where it is stationary."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.objectives.maximum_likelihood import maximum_likelihood


def test_the_value_is_the_mean_negative_log_density(x):
    q = Normal(jnp.array([0.3, -1.0, 2.0]), 1.7)
    expected = -np.mean([q.log_prob(point) for point in x])
    assert float(maximum_likelihood(q, x)) == pytest.approx(expected, rel=1e-13)


def test_weights_are_shares_of_repeated_points(x):
    """A point of weight k/n is a point that is there k times; equal weights are none."""
    q = Normal(jnp.array([0.3, -1.0, 2.0]), 1.7)
    counts = np.array([1, 3, 0, 2, 1])
    weighted = maximum_likelihood(q, x, jnp.asarray(counts / counts.sum()))
    repeated = maximum_likelihood(q, jnp.repeat(x, counts, axis=0))
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-13)
    equal = maximum_likelihood(q, x, jnp.full(5, 0.2))
    assert float(equal) == pytest.approx(float(maximum_likelihood(q, x)), rel=1e-13)


def test_the_gaussian_with_the_weighted_moments_is_stationary(x):
    weights = jnp.array([0.1, 0.3, 0.05, 0.35, 0.2])
    mean = weights @ x
    std = jnp.sqrt(weights @ (x - mean) ** 2)
    gradient = eqx.filter_grad(lambda q: maximum_likelihood(q, x, weights))

    def size(q):
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient(q)))

    assert size(Normal(mean, std)) < 1e-14
    assert size(Normal(x.mean(0), x.std(0))) > 1e-2
