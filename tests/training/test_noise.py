"""Noise on training points has the covariance that it is said to have, and reaches the fit."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowebm.training.noise import NO_NOISE, Noise, NormalNoise
from flowjax.distributions import Normal

from flowebm.training.flow import fit_flow
from flowebm.training.row_weights import RowWeights

ROWS = jr.normal(jr.key(0), (40, 3)) @ jnp.array([[2.0, 0.3, 0.0], [0, 0.5, 0], [1, 0, 0.01]])


def covariance_of(noise: NormalNoise):
    return np.asarray(noise.factor.T @ noise.factor)


def test_like_the_data():
    expected = 0.09 * np.cov(np.asarray(ROWS).T, bias=True)
    np.testing.assert_allclose(
        covariance_of(NormalNoise.of(Noise(0.3), ROWS)), expected, rtol=1e-4, atol=1e-7
    )


def test_like_the_data_as_they_are_weighted():
    weights = np.arange(40.0)
    row_weights = RowWeights.of(weights, np.ones(3))
    np.testing.assert_allclose(row_weights.train, weights / weights.sum(), atol=1e-7)
    expected = np.cov(np.asarray(ROWS).T, bias=True, aweights=weights)
    noise = NormalNoise.of(Noise(1.0), ROWS, row_weights)
    np.testing.assert_allclose(covariance_of(noise), expected, rtol=1e-4, atol=1e-7)


def test_alike_in_all_directions():
    noise = NormalNoise.of(Noise(0.3, like_data=False), ROWS)
    np.testing.assert_allclose(covariance_of(noise), 0.09 * np.eye(3), rtol=1e-6)


def test_none():
    points = ROWS[:5]
    assert jnp.array_equal(NormalNoise.of(NO_NOISE, ROWS)(jr.key(0), points), points)


def test_fewer_rows_than_coordinates_and_points_of_any_shape():
    rows = jr.normal(jr.key(0), (4, 2, 3))
    noise = NormalNoise.of(Noise(0.5), rows)
    expected = 0.25 * np.cov(np.asarray(rows).reshape(4, 6).T, bias=True)
    np.testing.assert_allclose(covariance_of(noise), expected, rtol=1e-4, atol=1e-6)
    assert noise(jr.key(1), rows).shape == rows.shape


def test_what_is_drawn():
    """The variances of 20,000 draws, of which 5 standard deviations are 5%: a false alarm in 10^6
    runs, of a fixed key."""
    noise = NormalNoise.of(Noise(0.3), ROWS)
    drawn = noise(jr.key(1), jnp.zeros((20_000, 3)))
    np.testing.assert_allclose(drawn.var(axis=0), 0.09 * ROWS.var(axis=0), rtol=0.05)


def test_a_fit_sees_it():
    """A normal's variance is the data's with the noise's."""
    data = jr.normal(jr.key(0), (500, 1))
    noise = NormalNoise.of(Noise(1.0, like_data=False), data)
    validation = noise(jr.key(1), data)
    given = {"max_steps": 600, "block_length": 100, "learning_rate": 0.02}

    def variance(prepare):
        normal = Normal(jnp.zeros(1))
        fitted, _ = fit_flow(jr.key(2), normal, data, validation, prepare=prepare, **given)
        return float(fitted.scale[0]) ** 2

    variances = [variance(noise), variance(None)]
    assert variances[0] == pytest.approx(1 + float(data.var()), abs=0.1)
    assert variances[1] == pytest.approx(float(data.var()), abs=0.1)
