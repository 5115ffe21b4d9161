"""Whitening's start from a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

from flowebm.layers import Whitening


def correlated(n, dimension, seed=0):
    """Normal points whose covariance has a condition number of about a million."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dimension, dimension)) * np.geomspace(1, 1e3, dimension)[:, None]
    return jnp.asarray(rng.standard_normal((n, dimension)) @ mixing.T + 5)


@pytest.fixture(scope="module")
def points():
    with jax.enable_x64(True):
        return correlated(5000, 4)


def test_whitened_points_have_mean_zero_and_covariance_one(points):
    layer = Whitening((2, 2)).initialized(points.reshape(-1, 2, 2))
    y = jax.vmap(paramax.unwrap(layer).forward)(points.reshape(-1, 2, 2)).reshape(-1, 4)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-9)
    # Up to the shrinkage, 0.01 here, of a correlation whose least eigenvalue is 0.11.
    np.testing.assert_allclose(np.cov(y.T), np.eye(4), atol=0.08)


def test_outputs_stay_next_to_their_inputs(points):
    layer = paramax.unwrap(Whitening((4,)).initialized(points))
    standardised = (points - points.mean(axis=0)) / points.std(axis=0)
    correlation = np.corrcoef(standardised.T, jax.vmap(layer.forward)(points).T)[:4, 4:]
    assert np.all(np.diag(correlation) > 0.5)
    np.testing.assert_allclose(correlation, correlation.T, atol=0.05)


def test_a_few_points_of_many_entries_are_shrunken_until_others_are_likely():
    """The Gaussian that 60 points of 40 independent entries start from: without shrinkage fresh
    points have 40 / 0.65 nats more than the truth's."""
    rng = np.random.default_rng(1)
    layer = paramax.unwrap(Whitening((40,)).initialized(jnp.asarray(rng.normal(size=(60, 40)))))
    fresh = jax.vmap(layer.forward)(jnp.asarray(rng.normal(size=(2000, 40))))
    excess = 0.5 * (fresh**2).sum(axis=1).mean() - layer.log_det() - 20
    assert 0 < excess < 4


def test_a_constant_entry_keeps_a_finite_scale(points):
    layer = paramax.unwrap(Whitening((5,)).initialized(jnp.pad(points, ((0, 0), (0, 1)))))
    assert np.isfinite(layer.log_det())
    assert np.isfinite(layer.inverse(layer.forward(jnp.ones(5)))).all()


def test_it_is_the_identity_before_and_is_not_trained():
    layer = Whitening((3,))
    assert all(
        isinstance(x, paramax.NonTrainable) for x in (layer.linear.weight, layer.linear.bias)
    )
    np.testing.assert_array_equal(paramax.unwrap(layer).forward(jnp.arange(3.0)), [0, 1, 2])
