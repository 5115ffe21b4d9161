"""Transforms of single columns: monotone, invertible, straight in the tails."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from flowebm.models.marginals import Marginals, fit_marginals


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def columns(n=2000):
    """Skewed, heavy-tailed, two-moded, rounded to a few values, and nearly constant."""
    rng = np.random.default_rng(0)
    modes = np.where(rng.random(n) < 0.3, -3.0, 3.0) + 0.2 * rng.normal(size=n)
    few = np.round(rng.normal(size=n))
    pile = np.where(rng.random(n) < 0.7, 0.0, rng.normal(size=n))
    return np.stack([rng.exponential(size=n), rng.standard_t(2, size=n), modes, few, pile], axis=1)


@pytest.fixture(scope="module")
def marginals():
    return fit_marginals(columns())


@eqx.filter_jit
def transform(marginals, x):
    return jax.vmap(marginals.transform_and_log_det)(x)


@eqx.filter_jit
def inverse(marginals, z):
    return jax.vmap(marginals.inverse_and_log_det)(z)


@eqx.filter_jit
def jacobians(marginals, x):
    return jax.vmap(jax.jacfwd(marginals.transform))(x)


def far(d=5):
    """Points within and far beyond the knots."""
    return jnp.asarray(np.random.default_rng(1).normal(scale=4, size=(300, d)))


def test_the_inverse_inverts(marginals):
    z, log_det = transform(marginals, far())
    x, inverse_log_det = inverse(marginals, z)
    np.testing.assert_allclose(x, far(), atol=1e-4)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-2)


def test_the_host_has_the_same_transform(marginals):
    points = np.asarray(far())
    z, log_det = marginals.transform_rows(points)
    z_jax, log_det_jax = transform(marginals, far())
    # JAX subtracts knots in single precision.
    np.testing.assert_allclose(z, z_jax, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_det, log_det_jax, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(marginals.inverse_rows(z), points, atol=1e-4)


def test_the_log_determinant_is_that_of_the_jacobian(marginals):
    _, log_det = transform(marginals, far())
    jacobian = np.asarray(jacobians(marginals, far()))
    diagonal = np.diagonal(jacobian, axis1=1, axis2=2)
    assert np.abs(jacobian - np.eye(5) * diagonal[:, None]).max() == 0
    np.testing.assert_allclose(np.log(diagonal).sum(axis=1), log_det, atol=1e-5)


def test_every_column_rises_and_is_straight_beyond_its_knots(marginals):
    ladder = jnp.broadcast_to(jnp.linspace(-60, 60, 4001)[:, None], (4001, 5))
    z = np.asarray(transform(marginals, ladder)[0])
    assert np.all(np.diff(z, axis=0) > 0)
    for j in range(5):
        for side in (ladder[:, j] < marginals.x[j, 0], ladder[:, j] > marginals.x[j, -1]):
            np.testing.assert_allclose(np.diff(z[np.asarray(side), j], n=2), 0, atol=1e-8)


def test_slopes_are_continuous_at_the_knots(marginals):
    knots = jnp.asarray(marginals.x, float)
    for side in (knots - 1e-7, knots + 1e-7):
        slopes = np.diagonal(jacobians(marginals, side.T), axis1=1, axis2=2)
        np.testing.assert_allclose(slopes.T, marginals.slopes, rtol=1e-3)


def test_a_continuous_column_becomes_normal(marginals):
    """To the distance of two knots: quantiles of 2,000 rows have errors of their own."""
    z = np.sort(np.asarray(transform(marginals, jnp.asarray(columns()))[0])[:, :2], axis=0)
    levels = np.array([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
    np.testing.assert_allclose(np.quantile(z, levels, axis=0), norm.ppf(levels)[:, None] * [1, 1],
                               atol=0.15)  # fmt: skip


def test_fixed_and_constant_columns_stay_as_they_are():
    points = columns()
    points[:, 1] = 2.5
    fitted = fit_marginals(points, (True, False, False, False, False))
    z, _ = transform(fitted, far())
    np.testing.assert_allclose(z[:, :2], far()[:, :2], atol=1e-5)


@pytest.mark.parametrize("n", [3, 8, 60])
def test_few_rows(n):
    fitted = fit_marginals(columns(n))
    z, log_det = transform(fitted, far())
    assert jnp.isfinite(z).all()
    assert jnp.isfinite(log_det).all()


def test_parts_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        Marginals(jnp.zeros((2, 4)), jnp.zeros((2, 5)), jnp.ones((2, 4)))
