"""A mixture of normals of rows with gaps: unbiased, and conditionals in closed form."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from flowebm.samplers.gap_mixture import GapMixture

TRUTH = GapMixture(
    np.array([0.7, 0.3]),
    np.array([[0.0, 0.0, 0.0], [3.0, 2.0, -1.0]]),
    np.array(
        [
            [[1.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 1.0]],
            [[0.5, -0.2, 0.1], [-0.2, 0.4, 0.0], [0.1, 0.0, 0.6]],
        ]
    ),
)


def rows(n, seed, share):
    rng = np.random.default_rng(seed)
    k = (rng.random(n) < 0.3).astype(int)
    factors = np.linalg.cholesky(TRUTH.covariances)[k]
    x = TRUTH.means[k] + np.einsum("nde,ne->nd", factors, rng.normal(size=(n, 3)))
    gaps = np.where(rng.random((n, 3)) < share, np.nan, x)
    return x, gaps[~np.isnan(gaps).all(axis=1)]


def test_a_marginal_density_is_that_of_the_entries_that_are_there():
    x, _ = rows(20, 0, 0.0)
    x[:, 1] = np.nan
    keep = [0, 2]
    parts = [
        w * multivariate_normal(m[keep], c[np.ix_(keep, keep)]).pdf(x[:, keep])
        for w, m, c in zip(*TRUTH, strict=True)
    ]
    np.testing.assert_allclose(TRUTH.log_prob(x), np.log(np.sum(parts, axis=0)), rtol=1e-10)


def test_with_a_third_of_the_entries_missing_parameters_are_unbiased():
    _, gaps = rows(4000, 1, 0.3)
    fitted = GapMixture.fit(np.random.default_rng(0), gaps)
    mean = fitted.weights @ fitted.means
    apart = fitted.means - mean
    covariance = np.einsum("k,kde->de", fitted.weights, fitted.covariances)
    covariance += np.einsum("k,kd,ke->de", fitted.weights, apart, apart)
    true_mean = TRUTH.weights @ TRUTH.means
    true_apart = TRUTH.means - true_mean
    true = np.einsum("k,kde->de", TRUTH.weights, TRUTH.covariances)
    true += np.einsum("k,kd,ke->de", TRUTH.weights, true_apart, true_apart)
    # Standard errors are 0.035 and below for means and 0.06 for covariances; means in the place
    # of what is missing would cost the covariances a third.
    np.testing.assert_allclose(mean, true_mean, atol=0.15)
    np.testing.assert_allclose(covariance, true, atol=0.3)


@pytest.mark.parametrize("wide", [0.0, 0.3])
def test_draws_have_the_density_that_is_stated(wide):
    # E_q[p / q] = 1 for any p; here p is the true conditional, and for narrow draws q is p.
    x, _ = rows(1, 3, 0.0)
    gap = np.where([[True, False, True]], np.nan, x)
    many = np.repeat(gap, 4000, axis=0)
    filled = TRUTH.fill(np.random.default_rng(2), many, wide=wide)
    np.testing.assert_array_equal(filled.rows[:, 1], x[0, 1])
    log_weights = TRUTH.log_prob(filled.rows) - TRUTH.log_prob(gap) - filled.log_q
    if wide == 0:
        np.testing.assert_allclose(log_weights, 0, atol=1e-9)
    assert np.exp(log_weights).mean() == pytest.approx(1, abs=0.05)


def test_draws_of_narrow_conditionals_have_their_moments():
    gap = np.repeat([[0.5, np.nan, 1.0]], 20_000, axis=0)
    one = GapMixture(np.ones(1), TRUTH.means[:1], TRUTH.covariances[:1])
    drawn = one.fill(np.random.default_rng(4), gap).rows[:, 1]
    covariance = TRUTH.covariances[0]
    gain = np.linalg.solve(covariance[np.ix_([0, 2], [0, 2])], covariance[[0, 2], 1])
    # Five standard errors: false alarms under 1e-6.
    assert drawn.mean() == pytest.approx(gain @ [0.5, 1.0], abs=5 / 20_000**0.5)
    assert drawn.var() == pytest.approx(1 - gain @ covariance[[0, 2], 1], rel=0.06)
