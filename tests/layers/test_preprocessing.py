"""Dequantization."""

import jax
import jax.numpy as jnp
import numpy as np

from flowebm.layers import Logit, dequantize


def test_dequantized_levels_stay_in_their_cell_and_below_one():
    """floor(256 z) gives the levels back, and the logit of all is finite, in float32 too."""
    x = jnp.broadcast_to(jnp.arange(256, dtype=jnp.uint8), (50, 256))
    z = dequantize(jax.random.key(0), x).astype(jnp.float32)
    np.testing.assert_array_equal(jnp.floor(z * 256), x)
    assert jnp.all(z < 1)
    y, log_det = Logit((50, 256)).forward_and_log_det(z)
    assert jnp.all(jnp.isfinite(y))
    assert jnp.isfinite(log_det)


def test_dequantization_noise_is_uniform():
    """Kolmogorov-Smirnov, 20,000 draws in one cell: sqrt(n) D < 2.3 fails by chance with
    probability 2 exp(-2 · 2.3²) = 5e-5."""
    z = dequantize(jax.random.key(1), jnp.full(20000, 3), 10)
    u = np.sort(10 * np.asarray(z) - 3)
    steps = np.arange(20001) / 20000
    distance = max(np.max(steps[1:] - u), np.max(u - steps[:-1]))
    assert np.sqrt(20000) * distance < 2.3
