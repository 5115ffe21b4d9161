"""Mixtures of Gaussians: exact densities, in shapes of any kind, and flows beside them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowjax.distributions import Normal
from scipy.stats import kstest, multivariate_normal, norm

from flowebm.models.defensive import draw
from flowebm.models.gaussian_mixture import gaussian_mixture_of, stacked, standard_mixture
from flowebm.models.trainable import partition_trainable

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[0.0, 1.0], [4.0, -1.0], [-3.0, 2.0]])
COVARIANCES = np.array([[[1.0, 0.8], [0.8, 2.0]], [[0.3, 0.0], [0.0, 0.1]], [[1, -0.5], [-0.5, 1]]])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def mixture(shape=(2,)):
    return gaussian_mixture_of(*map(jnp.asarray, (WEIGHTS, MEANS, COVARIANCES)), shape)


def exact(points):
    parts = zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    return sum(w * multivariate_normal(m, c).pdf(points) for w, m, c in parts)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1, 1)])
def test_density_is_that_of_the_mixture(shape):
    points = np.random.default_rng(0).normal(scale=3, size=(50, 2))
    log_prob = mixture(shape).log_prob(points.reshape(50, *shape))
    np.testing.assert_allclose(np.exp(log_prob), exact(points), rtol=1e-9)


def test_draws_follow_the_mixture():
    """Both marginals; false-alarm rate 2 × 2e-5 < 1e-4."""
    x = np.asarray(mixture().sample(jr.key(0), (20_000,)))
    for i in range(2):
        scales = np.sqrt(COVARIANCES[:, i, i])

        def cdf(values, i=i, scales=scales):
            return norm(MEANS[:, i], scales).cdf(values[:, None]) @ WEIGHTS

        assert kstest(x[:, i], cdf).pvalue > 2e-5


def test_two_that_are_built_alike_share_their_programs():
    compiled = []

    @eqx.filter_jit
    def log_prob(density, x):
        compiled.append(density)
        return density.log_prob(x)

    for scale in (1.0, 2.0):
        gaussians = jnp.asarray(WEIGHTS), scale * jnp.asarray(MEANS), jnp.asarray(COVARIANCES)
        log_prob(gaussian_mixture_of(*gaussians, (2,)), jnp.zeros(2))
    assert len(compiled) == 1


def test_the_skeleton_has_the_same_arrays():
    ours, skeleton = (
        [leaf.shape for leaf in jax.tree.leaves(eqx.filter(m, eqx.is_array))]
        for m in (mixture((1, 2)), standard_mixture(3, (1, 2)))
    )
    assert ours == skeleton
    assert standard_mixture(3, (1, 2)).shape == (1, 2)


def test_a_flow_beside_a_mixture():
    flow = Normal(jnp.ones(2), jnp.full(2, 0.7))
    both = stacked(flow, mixture(), 0.3)
    points = np.random.default_rng(0).normal(scale=3, size=(50, 2))
    expected = 0.7 * norm(1, 0.7).pdf(points).prod(axis=1) + 0.3 * exact(points)
    np.testing.assert_allclose(np.exp(both.log_prob(points)), expected, rtol=1e-9)
    x, log_prob = draw(jr.key(0), both, 100)
    np.testing.assert_allclose(log_prob, both.log_prob(x), rtol=1e-12)


def test_the_mixture_beside_a_flow_is_not_trained():
    both = stacked(Normal(jnp.ones(2)), mixture(), 0.3)
    trained = jax.tree.leaves(partition_trainable(both)[0])
    of_flow = jax.tree.leaves(partition_trainable(Normal(jnp.ones(2)))[0])
    assert len(trained) == len(of_flow)
    assert isinstance(paramax.unwrap(both).wide.log_normalized_weights, jax.Array)
