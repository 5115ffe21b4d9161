"""Spline couplings."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flowebm.layers import SplineCoupling

N_KNOTS = 3
N = SplineCoupling.n_parameters(N_KNOTS)


def pixelwise(kept):
    """Parameters of two channels, at each pixel from that pixel alone."""
    frequencies = jnp.arange(1, 2 * N + 1)[:, None, None]
    return 2 * jnp.sin(frequencies * kept)


@eqx.filter_jit
def forward(layer, x):
    return jax.vmap(layer.forward_and_log_det)(x)


def test_each_pixel_is_bent_by_its_own_parameters():
    """With a pixelwise conditioner the layer commutes with any reordering of pixels."""
    layer = SplineCoupling((3, 2, 2), pixelwise, N_KNOTS)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2)))
    flipped = x[:, ::-1].swapaxes(1, 2)
    y, _ = forward(layer, jnp.stack([x, flipped]))
    np.testing.assert_allclose(y[1], y[0][:, ::-1].swapaxes(1, 2), rtol=1e-12)
    assert jnp.abs(y[0] - x).max() > 0.1


def test_density_does_not_jump_at_the_ends_of_the_interval():
    """The slope tends to 1, that of the identity outside, from inside."""
    layer = SplineCoupling((2,), lambda kept: jnp.full(N, 0.7) * jnp.arange(N), N_KNOTS, 2.0)
    _, log_det = forward(layer, jnp.array([[0.3, -2 + 1e-9], [0.3, 2 - 1e-9], [0.3, 1.0]]))
    np.testing.assert_allclose(log_det[:2], 0, atol=1e-6)
    assert abs(log_det[2]) > 0.1
