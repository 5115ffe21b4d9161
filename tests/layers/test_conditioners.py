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


def _direct(conditioner, x):
    first, second, last = conditioner.convolutions
    return last(conditioner.activation(second(conditioner.activation(first(x)))))


def test_conv_conditioner_computes_its_three_convolutions():
    conditioner = conv_conditioner(jax.random.key(0), 2, 3, width=4)
    rng = np.random.default_rng(1)
    conditioner = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), conditioner)
    x = jnp.asarray(rng.standard_normal((2, 3, 5)))

    def value_and_gradients(network, conditioner, x):
        # The sum of squares of a gradient in x, as in score matching.
        def score(conditioner, x):
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(network(conditioner, x))))(x) ** 2)

        return network(conditioner, x), jax.grad(score, argnums=(0, 1))(conditioner, x)

    @jax.jit
    def observe(conditioner, x):
        networks = (lambda conditioner, x: conditioner(x)), _direct
        return [value_and_gradients(network, conditioner, x) for network in networks]

    ours, expected = observe(conditioner, x)
    for ours_leaf, leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours_leaf, leaf, rtol=1e-10, atol=1e-10)
