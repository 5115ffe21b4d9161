"""Pixels come to the line by a bijection whose determinant is part of the density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.data import LogitPixels, dequantise

BIJECTION = LogitPixels((2, 3), levels=16, smoothness=0.5, margin=0.01)
X = 16 * np.random.default_rng(0).random((7, 2, 3))


def test_log_det_is_that_of_the_jacobian_and_the_inverse_undoes():
    with jax.enable_x64(True):
        x = jnp.asarray(X[0])
        z, log_det = BIJECTION.transform_and_log_det(x)
        back, inverse_log_det = BIJECTION.inverse_and_log_det(z)
        jacobian = jax.jacobian(BIJECTION.transform)(x).reshape(6, 6)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-12)
    np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-12)
    np.testing.assert_allclose(back, x, rtol=1e-12)


def test_rows_on_the_host_agree_with_the_bijection():
    Z = BIJECTION.transform_rows(X)
    assert Z.dtype == np.float64
    np.testing.assert_allclose(Z, jax.vmap(BIJECTION.transform)(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(BIJECTION.inverse_rows(Z), X, rtol=1e-12)


def test_every_level_with_any_noise_is_finite_in_single_precision():
    levels = np.arange(256.0)
    pixels = np.stack([levels, dequantise(0, levels), levels + (1 - 1e-9)])
    z, log_det = jax.vmap(LogitPixels((256,)).transform_and_log_det)(jnp.asarray(pixels, "f4"))
    assert np.all(np.isfinite(z))
    assert np.all(np.isfinite(log_det))


def test_a_uniform_density_of_pixels_is_that_of_whole_numbers():
    """The units are levels: a uniform density over 16 levels is 1/16 a level."""
    with jax.enable_x64(True):
        bijection = LogitPixels((1,), levels=16, margin=0.0)
        z, log_det = bijection.transform_and_log_det(jnp.array([3.7]))
        logistic = jnp.sum(jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z))
        np.testing.assert_allclose(logistic + log_det, -np.log(16), rtol=1e-12)


@pytest.mark.parametrize(
    "choice", [{"smoothness": 0.0}, {"margin": 0.5}, {"margin": -0.1}, {"levels": 1}]
)
def test_choices_out_of_range_are_refused(choice):
    with pytest.raises(ValueError, match="LogitPixels needs"):
        LogitPixels((2,), **choice)
