"""The spline is flowjax's: value, inverse, log-determinants and their gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowjax.bijections import RationalQuadraticSpline
from flowjax.utils import get_ravelled_pytree_constructor

from flowebm.models.scalar_spline import ScalarSpline


def at(spline, parameters, x, direction):
    """Value and log-determinant, of the spline that free parameters make."""
    constructor, n = get_ravelled_pytree_constructor(spline, eqx.is_inexact_array)
    assert n == parameters.size
    return getattr(paramax.unwrap(constructor(parameters)), direction)(x)


@pytest.mark.parametrize("direction", ["transform_and_log_det", "inverse_and_log_det"])
def test_it_is_flowjax_spline(direction):
    ours, theirs = ScalarSpline(knots=5, interval=2.0), RationalQuadraticSpline(knots=5, interval=2)
    parameters = jr.normal(jr.key(0), (16, 19))
    # Inside, outside and at both edges.
    x = jnp.concatenate([jnp.linspace(-3.0, 3.0, 41), jnp.array([-2.0, 2.0])])

    def both(spline):
        def total(parameters, x):
            value, log_det = at(spline, parameters, x, direction)
            return value + 0.3 * log_det, (value, log_det)

        many = jax.vmap(
            jax.vmap(jax.value_and_grad(total, (0, 1), has_aux=True), (None, 0)), (0, None)
        )
        return jax.jit(many)(parameters, x)

    for a, b in zip(jax.tree.leaves(both(ours)), jax.tree.leaves(both(theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
