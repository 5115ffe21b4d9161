"""A model behind preprocessing: the same normaliser, densities in the data's units."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.data import Standardise
from flowebm.models.energy import LogDensity
from flowebm.models.preprocessed import PreprocessedModel


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def inner():
    return LogDensity(lambda z: -jnp.sum(z**4) / 4 + jnp.prod(jnp.sin(z)), (2,))


@pytest.fixture
def outer(inner):
    return PreprocessedModel(inner, Standardise(jnp.array([5.0, -2.0]), jnp.array([0.1, 30.0])))


def partition(model, centre, half_width):
    """Z by the trapezoidal rule on a box, beyond which there is less than 1e-15 of it."""
    axis = np.linspace(-1, 1, 201)
    unit = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    volume = np.prod(half_width) * 0.01**2
    points = jnp.asarray(centre + unit * half_width)
    density = eqx.filter_jit(lambda m, x: jnp.exp(jax.vmap(m.unnormalized_log_prob)(x)))
    return density(model, points).sum() * volume


def test_the_normaliser_is_that_of_the_inner_model(inner, outer):
    """Smooth and vanishing at the box's edge: the trapezoidal rule is exact to rounding."""
    inside = partition(inner, np.zeros(2), np.full(2, 4.0))
    outside = partition(outer, np.array([5.0, -2.0]), 4 * np.array([0.1, 30.0]))
    np.testing.assert_allclose(outside, inside, rtol=1e-12)
    # On another grid also, so that not merely the grids correspond.
    shifted = partition(outer, np.array([5.03, 1.0]), 4.5 * np.array([0.1, 30.0]))
    np.testing.assert_allclose(shifted, inside, rtol=1e-8)


def test_scores_change_units(inner, outer):
    x = jnp.array([5.05, 10.0])
    z = outer.preprocessing.transform(x)
    np.testing.assert_allclose(outer.score(x), inner.score(z) / np.array([0.1, 30.0]), rtol=1e-12)
    assert outer.shape == (2,)
