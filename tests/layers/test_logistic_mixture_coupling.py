"""Couplings by the quantile map of a logistic mixture."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import logistic

from flowebm.layers import LogisticMixtureCoupling

N = 3
WEIGHTS = np.array([0.5, 0.2, 0.3])
OFFSETS = np.array([0.4, -0.7, 0.1])
NARROWING = np.array([1.0, 3.0, -0.5])
LOG_SLOPE, SHIFT = 0.3, -1.2
SPREAD = 1.5


def layer():
    """The same map whatever the kept entry is."""
    line = [LOG_SLOPE, SHIFT]
    parameters = jnp.concatenate([np.log(WEIGHTS), OFFSETS, NARROWING, jnp.array(line)])
    return LogisticMixtureCoupling((2,), lambda kept: parameters + 0 * kept, N, SPREAD)


@eqx.filter_jit
def observe(layer, x):
    y, log_det = jax.vmap(layer.forward_and_log_det)(x)
    return y, log_det, jax.vmap(layer.inverse)(y)


def test_takes_the_logistic_mixture_to_a_logistic():
    """p_mixture(x) = p_logistic(f(x)) f'(x) before the line, so the log-determinant is the
    difference of the two log-densities, and the distribution functions agree."""
    x = np.linspace(-4, 4, 41)
    y, log_det, back = observe(layer(), jnp.stack([jnp.ones(41), x], axis=1))
    np.testing.assert_array_equal(y[:, 0], 1.0)
    means = np.linspace(-SPREAD, SPREAD, N) + OFFSETS
    scales = 2 * SPREAD / N * np.exp(-NARROWING)
    logit = (y[:, 1] - SHIFT) * np.exp(-LOG_SLOPE)
    cdf = logistic.cdf(x[:, None], means, scales) @ WEIGHTS
    pdf = logistic.pdf(x[:, None], means, scales) @ WEIGHTS
    np.testing.assert_allclose(logistic.cdf(logit), cdf, rtol=1e-9)
    np.testing.assert_allclose(
        log_det, np.log(pdf) - logistic.logpdf(logit) + LOG_SLOPE, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(back[:, 1], x, atol=1e-9)


def test_far_out_it_is_a_line():
    """The widest component rules, so the slope is that of its scale; nothing overflows."""
    x = jnp.array([-1e4, -9e3, 9e3, 1e4])
    y, log_det, back = observe(layer(), jnp.stack([jnp.ones(4), x], axis=1))
    widest = np.log(2 * SPREAD / N) - NARROWING.min()
    np.testing.assert_allclose(log_det, LOG_SLOPE - widest, rtol=1e-9)
    np.testing.assert_allclose(back[:, 1], x, rtol=1e-12)
    np.testing.assert_allclose(
        np.diff(y[:, 1])[[0, 2]], 1e3 * np.exp(LOG_SLOPE - widest), rtol=1e-9
    )


def test_each_pixel_is_bent_by_its_own_parameters():
    """With a pixelwise conditioner the layer commutes with any reordering of pixels."""
    n = LogisticMixtureCoupling.n_parameters(N)
    frequencies = jnp.arange(1, 2 * n + 1)[:, None, None]
    images = LogisticMixtureCoupling((3, 2, 2), lambda kept: 2 * jnp.sin(frequencies * kept), N)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2)))
    y, _, _ = observe(images, jnp.stack([x, x[:, ::-1].swapaxes(1, 2)]))
    np.testing.assert_allclose(y[1], y[0][:, ::-1].swapaxes(1, 2), rtol=1e-12)


def test_refuses_what_it_cannot_split():
    with pytest.raises(ValueError, match="two channels"):
        LogisticMixtureCoupling((1,), lambda kept: kept)
    with pytest.raises(ValueError, match="one component"):
        LogisticMixtureCoupling((2,), lambda kept: kept, 0)
