"""The moons' quadrature."""

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

from flowebm.data.targets import Moons


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_log_prob_is_the_integral_over_the_arcs(noise):
    """Against ten Gauss-Legendre nodes on each of a thousand pieces of the arcs."""
    x = np.array([[0.0, 1.0], [1.0, -0.5], [0.52, 0.27], [-1.0, -0.1], [7.0, 7.0], [-9.0, 1.0]])
    nodes, weights = np.polynomial.legendre.leggauss(10)
    t = np.pi * (np.arange(1000)[:, None] + (nodes + 1) / 2).ravel() / 1000
    arcs = np.array([[np.cos(t), np.sin(t)], [1 - np.cos(t), 0.5 - np.sin(t)]])
    kernels = -np.sum((x[:, None, :, None] - arcs) ** 2, axis=2) / (2 * noise**2)
    share = np.tile(weights, 1000) / 4000
    expected = logsumexp(kernels, b=share, axis=(1, 2)) - np.log(2 * np.pi * noise**2)
    with jax.enable_x64(True):
        log_prob = Moons(noise).log_prob(x)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-11)


def test_half_turn_swaps_the_moons():
    x = np.array([[0.2, 0.9], [1.0, 0.5] - np.array([0.2, 0.9])])
    target = Moons()
    mode, log_prob = jax.jit(jax.vmap(lambda x: (target.mode(x), target._log_prob(x))))(x)
    assert mode.tolist() == [0, 1]
    np.testing.assert_allclose(log_prob[0], log_prob[1], rtol=1e-5)


def test_too_little_noise_is_refused():
    with pytest.raises(ValueError, match="noise"):
        Moons(0.01)
