"""EM against scikit-learn's, in double precision, and the number of components."""

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal, multivariate_t
from sklearn.mixture import GaussianMixture as SklearnMixture

from flowebm.models.expectation_maximisation import Moments, Parameters, em
from flowebm.training.stages.mixtures import fit_mixture, fit_scale_mixture


def rows_of(n, centres, sd=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.asarray(centres, float)
    return centres[rng.integers(len(centres), size=n)] + sd * rng.normal(size=(n, len(centres[0])))


THREE = [[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]]


def even(points):
    return np.full(len(points), 1 / len(points))


def fit(points, **choices):
    n = len(points) // 10
    return fit_mixture(0, points[n:], points[:n], **choices)


def nll(fitted, points):
    return -float(np.mean(np.asarray(fitted.log_prob(np.asarray(points, np.float32)))))


def test_log_densities_are_those_of_the_gaussians():
    rng = np.random.default_rng(0)
    points, means, factors = rng.normal(size=(20, 3)), rng.normal(size=(2, 3)), rng.normal(
        size=(2, 3, 3)
    )  # fmt: skip
    covariances = factors @ np.swapaxes(factors, 1, 2) + 0.1 * np.eye(3)
    parameters = Parameters(np.array([0.3, 0.7]), means, covariances)
    parts = zip(*parameters, strict=True)
    expected = [np.log(w) + multivariate_normal(m, c).logpdf(points) for w, m, c in parts]
    found = Moments.of(points).log_densities(parameters)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-9)


def test_em_ends_where_that_of_scikit_learn_ends():
    """From the same start, on clusters that overlap."""
    points = rows_of(1500, THREE, 0.8)
    means, covariances = np.array(THREE), np.stack([np.eye(2)] * 3)
    start = Parameters(np.ones(3) / 3, means, covariances)
    found = em(Moments.of(points).step, start, even(points), 1e-6)
    peer = SklearnMixture(
        3,
        weights_init=np.ones(3) / 3,
        means_init=means,
        precisions_init=covariances,
        tol=3e-4,
        max_iter=60,
    ).fit(points)
    score = Moments.of(points).log_prob(found).mean()
    assert score == pytest.approx(peer.score(points), abs=2e-3)
    np.testing.assert_allclose(found.means, peer.means_, atol=0.1)


def test_a_row_that_counts_twice_is_as_two_rows():
    points = rows_of(400, THREE)
    counts = np.where(np.arange(400) < 200, 2.0, 1.0)
    start = Parameters(np.ones(3) / 3, np.array(THREE), np.stack([np.eye(2)] * 3))
    weighted = em(Moments.of(points).step, start, counts / counts.sum(), 1e-6)
    copies = np.concatenate([points, points[:200]])
    repeated = em(Moments.of(copies).step, start, even(copies), 1e-6)
    for one, other in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [300, 3000])
def test_no_fewer_components_than_there_are(n):
    """Among those that are tried; parameters of 300 rows cost 17 / 600 nats."""
    fitted = fit(rows_of(n, THREE))
    assert fitted.n_components >= 3
    fresh = rows_of(4000, THREE, seed=1)
    gaussians = [multivariate_normal(c, 0.09 * np.eye(2)).pdf(fresh) for c in THREE]
    truth = -np.log(np.mean(gaussians, axis=0)).mean()
    assert nll(fitted, fresh) - truth < 0.1


@pytest.mark.parametrize("n", [60, 3000])
def test_one_gaussian_where_there_is_one(n):
    assert fit(rows_of(n, [[0.0, 0.0, 0.0]], 1.0)).n_components <= 2


@pytest.mark.parametrize("n", [2, 3, 8])
def test_very_few_rows(n):
    data = rows_of(n, [[0.0, 0.0, 0.0, 0.0]], 1.0)
    fitted = fit_mixture(0, data, data)
    assert np.isfinite(nll(fitted, data))


def test_clusters_ten_thousand_apart_keep_their_width():
    """N(0, 1) and N(9999, 1), 500 rows each: log 2 + log(2πe)/2 = 2.11 nats."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1000, 1)) + 9999.0 * (np.arange(1000) % 2)[:, None]
    fitted = fit_mixture(0, points, points)
    assert fitted.n_components >= 2
    means = np.sort(np.asarray(fitted.means)[:, 0])
    np.testing.assert_allclose(means[[0, -1]], [0.0, 9999.0], atol=0.5)
    scales = np.asarray(fitted.factors)[:, 0, 0]
    np.testing.assert_array_less(scales, 1.3)
    assert nll(fitted, points) == pytest.approx(2.11, abs=0.1)


def test_a_column_that_is_nearly_another():
    """x₂ = x₁ + 10⁻⁴ noise: log(2πe) + log 10⁻⁴ = -6.37 nats, in double precision."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=2000)
    points = np.stack([first, first + 1e-4 * rng.normal(size=2000)], axis=1)
    with jax.enable_x64(True):
        fitted = fit(points)
        found = -float(np.mean(np.asarray(fitted.log_prob(points))))
    truth = np.log(2 * np.pi * np.e) + np.log(1e-4)
    assert found == pytest.approx(truth, abs=0.1)


def test_many_components_from_the_start_are_as_narrow_as_few():
    """Points on 12 short needles, which the ordinary ridge blurs: nats of each direction count."""
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(12, 3))
    needles = rng.normal(size=(4000, 3)) * [1.0, 1e-3, 1e-3]
    points = centres[rng.integers(12, size=4000)] + needles
    from_one, from_eight = (fit(points, least_components=least) for least in (1, 8))
    assert nll(from_eight, points) < nll(from_one, points) + 0.2


def test_weight_on_one_cluster_alone():
    points = rows_of(400, [[-3.0, 0.0], [3.0, 0.0]])
    weights = (points[:, 0] > 0).astype(float)
    fitted = fit_mixture(
        0, points, points, weights=weights, validation_weights=weights, most_components=1
    )
    assert float(fitted.means[0, 0]) == pytest.approx(3.0, abs=0.1)


def test_the_first_is_fitted_when_no_time_is_left():
    assert fit(rows_of(3000, THREE), out_of_time=lambda: True).n_components == 1
    assert np.isfinite(nll(fit(rows_of(60, THREE), out_of_time=lambda: True), rows_of(60, THREE)))


def test_the_number_of_components_has_a_limit():
    assert fit(rows_of(3000, THREE), most_components=2).n_components <= 2


def test_a_scale_mixture_has_the_tails_of_the_rows():
    # Student's t of three degrees of freedom, oblique. A planted error: with the covariance alone
    # the KL divergence is above 0.3, and one row in a thousand is 50 nats too improbable.
    rng = np.random.default_rng(0)
    factor = np.linalg.cholesky(0.7 * np.ones((4, 4)) + 0.3 * np.eye(4))
    t = multivariate_t(np.arange(4.0), factor @ factor.T, df=3)
    rows, new = t.rvs(4000, random_state=rng), t.rvs(20_000, random_state=rng)
    fitted = fit_scale_mixture(rows)
    assert np.mean(t.logpdf(new) - fitted.log_prob_rows(new)) < 0.02
    assert np.max(t.logpdf(new) - fitted.log_prob_rows(new)) < 4
    weights, means, _ = fitted.parameters()
    assert (weights > 0).all()
    np.testing.assert_allclose(means, np.tile(np.arange(4.0), (len(means), 1)), atol=0.1)


def test_a_scale_mixture_counts_weights_as_copies():
    rows = np.random.default_rng(1).standard_t(4, (300, 2))
    twice = np.concatenate([rows, rows[:100]])
    weighted = fit_scale_mixture(rows, np.where(np.arange(300) < 100, 2.0, 1.0))
    copied = fit_scale_mixture(twice)
    # Its covariance shrinks with the number of rows, which copies add to.
    np.testing.assert_allclose(nll(weighted, rows), nll(copied, rows), atol=0.01)


@pytest.mark.parametrize("kind", ["in a plane", "two values", "mostly one", "fewer than columns"])
def test_a_scale_mixture_of_rows_without_spread_is_a_density(kind):
    rng = np.random.default_rng(2)
    rows = {
        "in a plane": np.repeat(rng.normal(size=(3000, 1)), 3, axis=1),
        "two values": np.repeat([[0.0, 0.0], [1.0, 1.0]], 200, axis=0),
        "mostly one": np.where(rng.random((2000, 1)) < 0.95, 1.0, rng.normal(size=(2000, 3))),
        "fewer than columns": rng.normal(size=(10, 30)),
    }[kind]
    assert np.isfinite(fit_scale_mixture(rows).log_prob_rows(rows)).all()
