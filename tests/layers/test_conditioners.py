"""Couplings with a fresh conditioner."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flowebm.layers import AffineCoupling, SplineCoupling, conv_conditioner, mlp_conditioner


def test_couplings_start_at_the_identity():
    key = jax.random.key(0)
    n = SplineCoupling.n_parameters(3)
    affine = AffineCoupling((2, 2, 2), conv_conditioner(key, 1, 2, width=2))
    spline = SplineCoupling((2,), mlp_conditioner(key, 1, n, width=2), n_knots=3)
    for layer, x in [(affine, jnp.arange(8.0).reshape(2, 2, 2)), (spline, jnp.array([0.3, -2.1]))]:
        y, log_det = eqx.filter_jit(lambda layer, x: layer.forward_and_log_det(x))(layer, x)
        np.testing.assert_allclose(y, x, atol=1e-12)
        np.testing.assert_allclose(log_det, 0, atol=1e-12)
