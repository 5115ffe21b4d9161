"""The importance-weighted likelihood, with a grid for draws: then it is exact."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowebm.objectives.importance_weighted import importance_weighted_likelihood
from jax.scipy.special import logsumexp

from flowebm.models.energy import LogDensity

PRECISION = np.array([[2.0, 0.5], [0.5, 1.0]])
HALF_WIDTH, CELLS = 9.0, 120


class Gaussian(eqx.Module):
    """E(x) = ½ exp(k) xᵀ P x - a·x: its log Z is known."""

    log_scale: jax.Array
    slope: jax.Array
    shape = (2,)

    def energy(self, x):
        return 0.5 * jnp.exp(self.log_scale) * x @ PRECISION @ x - self.slope @ x

    def log_partition(self):
        precision = jnp.exp(self.log_scale) * PRECISION
        _, log_det = jnp.linalg.slogdet(precision)
        half_square = 0.5 * self.slope @ jnp.linalg.solve(precision, self.slope)
        return half_square + jnp.log(2 * jnp.pi) - 0.5 * log_det


@pytest.fixture
def model():
    return Gaussian(jnp.array(0.3), jnp.array([0.4, -0.7]))


@pytest.fixture
def data():
    return 0.5 + jax.random.normal(jax.random.key(0), (7, 2))


@pytest.fixture
def grid():
    """Midpoints of a square, as draws of the uniform density on it."""
    centres = (np.arange(CELLS) + 0.5) * (2 * HALF_WIDTH / CELLS) - HALF_WIDTH
    points = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    return jnp.asarray(points), jnp.full(len(points), -2 * np.log(2 * HALF_WIDTH))


def exact(model, data):
    return jnp.mean(jax.vmap(model.energy)(data)) + model.log_partition()


def test_value_and_gradient_are_those_of_the_likelihood(model, data, grid):
    def loss(model):
        return importance_weighted_likelihood(model, data, *grid)[0]

    value, gradient = eqx.filter_value_and_grad(loss)(model)
    expected, expected_gradient = eqx.filter_value_and_grad(exact)(model, data)
    assert value == pytest.approx(float(expected), abs=1e-10)
    for a, b in zip(*map(jax.tree.leaves, (gradient, expected_gradient)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_log_weights_are_those_of_the_draws(model, data, grid):
    points, log_proposal = grid
    _, log_weights = importance_weighted_likelihood(model, data, points, log_proposal)
    expected = [-float(model.energy(x)) + 2 * np.log(2 * HALF_WIDTH) for x in points[:50]]
    np.testing.assert_allclose(log_weights[:50], expected)


def test_a_constant_in_the_energy_changes_nothing(data, grid):
    values = [
        importance_weighted_likelihood(LogDensity(density, (2,)), data, *grid)[0]
        for density in (
            lambda x: logsumexp(-((x[0] - jnp.array([1.0, -1.0])) ** 2)) - x[1] ** 2,
            lambda x: 5 + logsumexp(-((x[0] - jnp.array([1.0, -1.0])) ** 2)) - x[1] ** 2,
        )
    ]
    assert values[0] == pytest.approx(float(values[1]), abs=1e-10)
