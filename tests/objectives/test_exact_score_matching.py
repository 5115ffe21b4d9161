"""Exact score matching."""

import jax
import jax.numpy as jnp
import numpy as np

from flowebm.models.energy import LogDensity
from flowebm.objectives.exact_score_matching import exact

KEY = jax.random.key(0)


def test_on_a_gaussian_it_is_the_closed_form(gaussian, precision, x):
    """½ ‖P x‖² - tr P."""
    expected = np.mean(0.5 * np.sum((x @ precision) ** 2, axis=1)) - np.trace(precision)
    np.testing.assert_allclose(exact()(gaussian, x, KEY), expected, rtol=1e-12)


def test_on_a_flow_it_uses_the_dense_hessian(flow, x):
    """½ ‖∇E‖² - tr ∇²E, and λ adds λ times the mean energy."""

    @jax.jit
    def observe(x):
        gradients = jax.vmap(jax.grad(flow.energy))(x)
        hessians = jax.vmap(jax.hessian(flow.energy))(x)
        expected = 0.5 * jnp.sum(gradients**2, axis=1) - jnp.trace(hessians, axis1=1, axis2=2)
        energy = jnp.mean(jax.vmap(flow.energy)(x))
        return jnp.mean(expected), energy, exact()(flow, x, KEY), exact(0.3)(flow, x, KEY)

    expected, energy, loss, penalized = observe(x)
    np.testing.assert_allclose(loss, expected, rtol=1e-11)
    np.testing.assert_allclose(penalized - loss, 0.3 * energy, rtol=1e-11)


def test_the_true_precision_is_its_minimiser(gaussian, precision):
    """On data whose covariance is exactly P⁻¹, the gradient in the precision Q of
    mean ½ ‖Q x‖² - tr Q is Q P⁻¹ - I, which vanishes at P and not elsewhere."""
    root = np.linalg.cholesky(np.linalg.inv(precision))
    data = jnp.asarray(np.sqrt(3) * np.concatenate([root.T, -root.T]))

    def loss(q):
        return exact()(LogDensity(lambda x: -0.5 * x @ q @ x, (3,)), data, KEY)

    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(precision)), 0, atol=1e-12)
    assert np.abs(jax.grad(loss)(jnp.eye(3))).max() > 0.1
