"""The start of many scales, on the host and in JAX."""

import jax
import numpy as np
from scipy.stats import kstest, norm

from flowebm.models.wide_start import WideStart

START = WideStart(
    np.array([1.0, -2.0, 0.0]), np.array([10.0, 1.0, 1.2]), np.array([False, False, True])
)


def test_both_densities_are_the_same():
    x, log_prob = START.on_host(np.random.default_rng(0), 1000)
    np.testing.assert_allclose(jax.vmap(START.log_prob)(x), log_prob, rtol=1e-4, atol=1e-4)


def test_draws_of_both_have_the_density():
    """Against each other and, where the scale is known, against the normal: 1e-4 in all."""
    host, _ = START.on_host(np.random.default_rng(1), 20_000)
    drawn = np.asarray(START.sample(jax.random.key(0), (20_000,)))
    for i in range(3):
        assert kstest(host[:, i], drawn[:, i]).pvalue > 2e-5
    assert kstest(host[:, 2], norm(0, 1.2).cdf).pvalue > 2e-5


def test_it_is_normalised():
    """In one coordinate, by quadrature."""
    start = WideStart(np.zeros(1), np.full(1, 2.0), np.full(1, False))
    x = np.sinh(np.linspace(-14, 14, 40_001))[:, None].astype(np.float32)
    density = np.exp(np.asarray(jax.vmap(start.log_prob)(x), float))
    assert abs(np.trapezoid(density, x[:, 0].astype(float)) - 1) < 1e-3
