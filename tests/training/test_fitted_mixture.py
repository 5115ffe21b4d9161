"""Mixtures of each mode's own components."""

import jax
import numpy as np

from flowebm.training.fitted_mixture import Mixture, fit_mixture


def mixture(rng, points, labels, n_modes=1, shares=None):
    peaks = [(np.zeros(points.shape[1]), np.eye(points.shape[1]))] * n_modes
    shares = np.ones(n_modes) / n_modes if shares is None else shares
    return fit_mixture(rng, points, labels, peaks, shares)


def test_host_and_compiled_densities_are_the_same_and_draws_have_them():
    """Weights of draws against another mixture have mean one, within 5 standard errors."""
    rng = np.random.default_rng(0)
    factors = np.array([[[1.0, 0], [0.5, 2]], [[0.1, 0], [0, 0.1]]])
    made = Mixture(np.array([0.3, 0.7]), np.array([[0.0, 0], [1, 5]]), factors, np.array([0, 1]))
    x = made.draw(rng, 20_000)
    log_prob = made.log_prob(x)
    compiled = jax.jit(jax.vmap(made.distribution().log_prob))(x)
    np.testing.assert_allclose(compiled, log_prob, rtol=1e-3, atol=2e-3)
    wider = made._replace(factors=1.3 * factors)
    ratio = np.exp(wider.log_prob(x) - log_prob)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / len(ratio) ** 0.5
    fresh = made.distribution().sample(jax.random.key(0), (20_000,))
    ratio = np.exp(wider.log_prob(np.asarray(fresh)) - made.log_prob(np.asarray(fresh)))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / len(ratio) ** 0.5


def test_a_bent_mode_gets_several_components_and_a_normal_one():
    rng = np.random.default_rng(0)
    straight = rng.normal(size=(3000, 2))
    bent = straight + np.stack([np.zeros(3000), straight[:, 0] ** 2], axis=1)
    zeros = np.zeros(3000, int)
    assert len(mixture(rng, straight, zeros).weights) <= 2
    assert len(mixture(rng, bent, zeros).weights) >= 4


def test_modes_have_the_shares_that_are_asked_for_and_know_their_points():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [2900, 100])
    points = rng.normal(size=(3000, 3)) + 20.0 * labels[:, None]
    made = mixture(rng, points, labels, 2, np.array([0.8, 0.2]))
    np.testing.assert_allclose(made.weights[made.mode == 1].sum(), 0.2)
    np.testing.assert_array_equal(made.modes_of(points), labels)


def test_a_mode_without_points_is_the_normal_of_its_peak():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 2))
    peaks = [(np.zeros(2), np.eye(2)), (np.array([50.0, 0]), 0.01 * np.eye(2))]
    made = fit_mixture(rng, points, np.zeros(500, int), peaks, np.array([0.9, 0.1]))
    assert abs(made.draw(rng, 5000)[:, 0] > 40).mean() > 0.05


def test_a_normal_mode_of_few_points_is_that_of_its_peak():
    rng = np.random.default_rng(0)
    covariance = 0.9 + 0.1 * np.eye(30)
    points = rng.multivariate_normal(np.ones(30), covariance, 400)
    made = fit_mixture(rng, points, np.zeros(400, int), [(np.ones(30), covariance)], np.ones(1))
    np.testing.assert_allclose(made.factors[0] @ made.factors[0].T, covariance, rtol=1e-9)
    # Not where the points are of another shape.
    wrong = fit_mixture(rng, points, np.zeros(400, int), [(np.zeros(30), np.eye(30))], np.ones(1))
    assert (wrong.factors[0] @ wrong.factors[0].T)[0, 1] > 0.5
