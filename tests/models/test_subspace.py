"""Densities and tilts of a few directions, against what they say in dense matrices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.scipy.stats import norm

from flowebm.models import MLPTilt, partition_trainable
from flowebm.models.gaussian_mixture import gaussian_mixture_of
from flowebm.models.linear_change import LinearChange
from flowebm.models.subspace import SubspaceDensity, SubspaceTilt

MATRIX = jr.normal(jr.key(0), (5, 5)) + 2 * jnp.eye(5)
OFFSET = jnp.arange(5.0)
X = jr.normal(jr.key(1), (5,))


def two_modes():
    return gaussian_mixture_of([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.2 * np.eye(2)] * 2)


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_a_density_of_a_subspace_has_a_normal_beside_it(shape):
    density = SubspaceDensity(two_modes(), LinearChange.of(MATRIX, OFFSET, shape))
    z = jnp.linalg.solve(MATRIX, X - OFFSET)
    normal = norm.logpdf(z[2:]).sum() - jnp.linalg.slogdet(MATRIX)[1]
    assert density.shape == shape
    log_prob = density.log_prob(X.reshape(shape))
    np.testing.assert_allclose(log_prob, two_modes().log_prob(z[:2]) + normal, rtol=1e-4)


def test_its_draws_have_its_moments():
    """Means and covariances of 20,000 draws: z-tests at 5 standard errors, 20 of them."""
    density = SubspaceDensity(two_modes(), LinearChange.of(MATRIX, OFFSET, (5,)))
    z = np.linalg.solve(MATRIX, np.asarray(density.sample(jr.key(2), (20_000,)) - OFFSET).T)
    mean = np.array([0.3 * -1 + 0.7 * 2, 0.7, 0, 0, 0])
    covariance = np.eye(5)
    covariance[:2, :2] = 0.2 * np.eye(2) + 0.21 * np.outer([3.0, 1.0], [3.0, 1.0])
    scale = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(z.mean(axis=1) - mean) < 5 * scale / 20_000**0.5)
    # No entry of an empirical covariance of these varies more than a Gaussian's.
    errors = (np.cov(z) - covariance) / np.outer(scale, scale)
    assert np.abs(errors).max() < 5 * (2 / 20_000) ** 0.5


def test_a_tilt_of_a_subspace_sees_nothing_else():
    tilt = MLPTilt((5,), width=8, depth=2, key=jr.key(4))
    readout = jr.normal(jr.key(5), tilt.readout.weight.shape)
    tilt = eqx.tree_at(lambda t: t.readout.weight, tilt, readout)
    seeing = SubspaceTilt.of(tilt, LinearChange.of(MATRIX, OFFSET, (5,)), 2, key=jr.key(6))
    slopes = jax.grad(seeing)(X) @ MATRIX
    np.testing.assert_allclose(slopes[2:], 0, atol=1e-4)
    assert float(jnp.abs(slopes[:2]).max()) > 1e-2
    shapes = [leaf.shape for leaf in jax.tree.leaves(partition_trainable(seeing)[0])]
    # Neither the matrix nor its inverse is trained.
    assert shapes.count((8, 2)) == 1
    assert (5, 5) not in shapes
