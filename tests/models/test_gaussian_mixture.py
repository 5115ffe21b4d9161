"""Mixtures of Gaussians: exact densities and draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from scipy.stats import kstest, multivariate_normal, norm

from flowebm.models.gaussian_mixture import gaussian_mixture_of

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[0.0, 1.0], [4.0, -1.0], [-3.0, 2.0]])
COVARIANCES = np.array([[[1.0, 0.8], [0.8, 2.0]], [[0.3, 0.0], [0.0, 0.1]], [[1, -0.5], [-0.5, 1]]])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def mixture():
    return gaussian_mixture_of(WEIGHTS, MEANS, COVARIANCES)


def test_density_is_that_of_the_mixture():
    points = np.random.default_rng(0).normal(scale=3, size=(50, 2))
    parts = zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    exact = sum(w * multivariate_normal(m, c).pdf(points) for w, m, c in parts)
    np.testing.assert_allclose(np.exp(mixture().log_prob(points)), exact, rtol=1e-9)


def test_the_host_has_the_same_density():
    points = np.random.default_rng(0).normal(scale=30, size=(50, 2))
    for density in (mixture(), paramax.non_trainable(mixture())):
        log_prob = density.log_prob_rows(points)
        np.testing.assert_allclose(log_prob, mixture().log_prob(points), rtol=1e-12)


def test_a_scaled_one_is_that_of_scaled_points():
    points = np.random.default_rng(0).normal(scale=3, size=(50, 2))
    log_prob = mixture().scaled(3.0).log_prob_rows(3 * points)
    np.testing.assert_allclose(log_prob, mixture().log_prob_rows(points) - 2 * np.log(3), rtol=1e-9)
    middle = mixture().scaled(3.0).draw_rows(np.random.default_rng(0), 20_000).mean(axis=0)
    np.testing.assert_allclose(middle, 3 * WEIGHTS @ MEANS, atol=0.3)


@pytest.mark.parametrize("on_host", [False, True])
def test_draws_follow_the_mixture(on_host):
    """Both marginals and a slanting one; false-alarm rate 3 × 2e-5 < 1e-4."""
    x = np.asarray(mixture().sample(jr.key(0), (20_000,)))
    if on_host:
        x = mixture().draw_rows(np.random.default_rng(0), 20_000)
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8]):
        means = MEANS @ direction
        scales = np.sqrt(np.einsum("i,kij,j->k", direction, COVARIANCES, direction))

        def cdf(values, means=means, scales=scales):
            return norm(means, scales).cdf(values[:, None]) @ WEIGHTS

        assert kstest(x @ direction, cdf).pvalue > 2e-5


def test_weights_need_not_add_up_to_one():
    x = jnp.array([0.3, -0.2])
    scaled = gaussian_mixture_of(7 * WEIGHTS, MEANS, COVARIANCES)
    np.testing.assert_allclose(scaled.log_prob(x), mixture().log_prob(x), rtol=1e-12)


def test_two_that_are_built_alike_share_their_programs():
    compiled = []

    @eqx.filter_jit
    def log_prob(density, x):
        compiled.append(density)
        return density.log_prob(x)

    for scale in (1.0, 2.0):
        log_prob(gaussian_mixture_of(WEIGHTS, scale * MEANS, COVARIANCES), jnp.zeros(2))
    assert len(compiled) == 1
