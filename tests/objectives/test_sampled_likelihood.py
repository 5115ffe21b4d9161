"""Sampled maximum likelihood."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.stats import f

from flowebm.objectives.exact_likelihood import ml
from flowebm.objectives.sampled_likelihood import sml


def test_its_gradient_is_that_of_maximum_likelihood_in_expectation(flow, x):
    """Over 2,000 keys the mean of the difference of the gradients vanishes, in all 30
    parameters at once (Hotelling's test at a false-alarm rate of 1e-5), and so does the
    level penalty's part, which is the same in both."""
    parameters, unravel = ravel_pytree(eqx.filter(flow, eqx.is_inexact_array))
    static = eqx.filter(flow, eqx.is_inexact_array, inverse=True)

    def gradient(objective, key):
        def loss(parameters):
            return objective(eqx.combine(unravel(parameters), static), x, key)

        return jax.grad(loss)(parameters)

    n, p = 2000, parameters.size
    keys = jax.random.split(jax.random.key(0), n)
    sampled = jax.jit(jax.vmap(lambda key: gradient(sml(0.1), key)))(keys)
    difference = np.asarray(sampled - jax.jit(lambda key: gradient(ml(0.1), key))(keys[0]))
    mean, covariance = difference.mean(axis=0), np.cov(difference.T)
    statistic = n * mean @ np.linalg.solve(covariance, mean) * (n - p) / (p * (n - 1))
    assert 0 < statistic < f.isf(1e-5, p, n - p)
    assert jnp.linalg.norm(sampled.mean(axis=0)) > 10 * jnp.linalg.norm(difference.mean(axis=0))
