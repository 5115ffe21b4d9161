"""Roots of increasing functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.layers import SmoothLeakyReLU, invert_increasing


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_inverse_is_exact_to_float_precision_from_tiny_to_huge(alpha, dtype):
    """|f(x) - y| is at most a few roundings of y, over twelve decades of both signs."""
    decades = np.logspace(-6, 6, 25)
    y = jnp.asarray(np.concatenate([-decades, [0.0], decades]), dtype)
    layer = SmoothLeakyReLU(y.shape, alpha)
    residual = layer.forward(jax.jit(layer.inverse)(y)) - y
    np.testing.assert_array_less(
        np.abs(residual), 8 * jnp.finfo(dtype).eps * np.maximum(1, np.abs(y))
    )


def test_derivatives_follow_the_implicit_function_theorem():
    """For f = sinh: x' = 1/sqrt(1+y²), x'' = -y/(1+y²)^{3/2}; and for f(x) = a x³,
    dx/da = -x/(3a): the parameter that the function closes over has a derivative too."""
    y = jnp.array([-2.0, 0.5, 3.0])

    def arcsinh(y):
        return invert_increasing(jnp.sinh, y, jnp.full(3, -5.0), jnp.full(3, 5.0))

    ones = jnp.ones_like(y)

    def slope(y):
        return jax.jvp(arcsinh, (y,), (ones,))[1]

    first, second = jax.jvp(slope, (y,), (ones,))
    np.testing.assert_allclose(arcsinh(y), np.arcsinh(y), rtol=1e-14)
    np.testing.assert_allclose(first, 1 / np.sqrt(1 + y**2), rtol=1e-13)
    np.testing.assert_allclose(second, -y / (1 + y**2) ** 1.5, rtol=1e-12)

    def cube_root(a):
        return invert_increasing(lambda x: a * x**3, jnp.array(16.0), 0.1, jnp.array(10.0))

    np.testing.assert_allclose(cube_root(2.0), 2.0, rtol=1e-14)
    np.testing.assert_allclose(jax.grad(cube_root)(2.0), -2.0 / 6, rtol=1e-13)


def test_a_newton_step_out_of_the_bracket_is_replaced_by_bisection():
    """arctan: Newton alone diverges from |x| > 1.39."""
    y = jnp.array([-1.2, 0.0, 1.3])
    x = invert_increasing(jnp.arctan, y, jnp.full(3, -30.0), jnp.full(3, 30.0))
    np.testing.assert_allclose(x, np.tan(y), rtol=1e-12, atol=1e-14)
