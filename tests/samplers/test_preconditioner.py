"""Standard coordinates: moments, shrinkage, and the density in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.models import as_energy_model
from flowebm.samplers.preconditioner import (
    StandardisedDensity,
    moments,
    preconditioner,
    update,
)


@pytest.fixture(scope="module", autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def points():
    mix = jnp.array([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [0.0, 0.3, 4.0]])
    return jax.random.normal(jax.random.key(0), (5_000, 3)) @ mix.T + 7.0


def test_points_are_standard_in_them_and_come_back(points):
    coordinates = preconditioner(moments(points, 1e12))
    standard = coordinates.standardise(points)
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-10)
    # A ten-thousandth of shrinkage is always there; two coordinates here are nearly one.
    np.testing.assert_allclose(jnp.cov(standard.T, bias=True), np.eye(3), atol=3e-3)
    np.testing.assert_allclose(coordinates.restore(standard), points, rtol=1e-10)


def test_remembered_and_new_moments_are_those_of_the_mixture(points):
    old, new = points[:1_000], points[1_000:] + 1.0
    mixed = update(moments(old, 1_000), moments(new, 4_000), 0.8)
    both = moments(jnp.concatenate([old, new]), 5_000)
    np.testing.assert_allclose(mixed.mean, both.mean, rtol=1e-10)
    np.testing.assert_allclose(mixed.covariance, both.covariance, rtol=1e-10)
    assert float(mixed.n) == pytest.approx(5_000)
    forgotten = update(moments(old, 1_000), moments(new, 4_000), 1.0)
    np.testing.assert_allclose(forgotten.covariance, moments(new, 4_000).covariance)


def test_correlations_that_are_noise_are_shrunk_and_true_ones_are_kept(points):
    few = jax.random.normal(jax.random.key(1), (40, 60))
    factor = preconditioner(moments(few, 40)).factor
    covariance = np.asarray(factor @ factor.T)
    raw = np.cov(np.asarray(few).T, bias=True)
    off = ~np.eye(60, dtype=bool)
    assert np.abs(covariance[off]).mean() < 0.2 * np.abs(raw[off]).mean()
    np.testing.assert_allclose(np.diag(covariance), np.diag(raw), rtol=1e-10)
    kept = preconditioner(moments(points, 5_000)).factor
    np.testing.assert_allclose(kept @ kept.T, moments(points, 1).covariance, rtol=2e-3, atol=1e-2)


def test_the_density_of_standard_coordinates_has_the_jacobian(points):
    def log_density(x):
        return -0.5 * jnp.sum(x**2)

    coordinates = preconditioner(moments(points, 5_000))
    standard = StandardisedDensity(as_energy_model(log_density, (3,)), coordinates)
    y = jnp.array([0.3, -1.0, 0.7])
    log_det = jnp.linalg.slogdet(jax.jacobian(coordinates.restore)(y))[1]
    expected = log_density(coordinates.restore(y)) + log_det
    np.testing.assert_allclose(standard.unnormalized_log_prob(y), expected, rtol=1e-12)
