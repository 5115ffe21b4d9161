"""Exact maximum likelihood."""

import jax
import numpy as np

from flowebm.objectives.exact_likelihood import ml


def test_it_is_the_mean_negative_log_likelihood(flow, x):
    """And λ adds λ times the mean energy."""

    @jax.jit
    def observe(x):
        key = jax.random.key(0)
        energy = jax.vmap(flow.energy)(x).mean()
        return energy, flow.log_normalizer(), ml()(flow, x, key), ml(0.3)(flow, x, key)

    energy, log_normalizer, loss, penalized = observe(x)
    np.testing.assert_allclose(loss, energy + log_normalizer, rtol=1e-12)
    np.testing.assert_allclose(penalized - loss, 0.3 * energy, rtol=1e-11)
