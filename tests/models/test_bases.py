"""The Gaussian base: exactly the shrunk Gaussian of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy.stats import chi2, kstest, multivariate_normal
from sklearn.covariance import LedoitWolf

from flowebm.models.bases import as_mixture, gaussian_base
from flowebm.models.flows import make_flow


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def correlated(n, d):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@pytest.mark.parametrize("inflation", [1.0, 1.7])
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1)])
def test_density_is_that_of_the_ledoit_wolf_gaussian(shape, inflation):
    rows = correlated(40, 3)
    base = gaussian_base(jnp.asarray(rows.reshape(40, *shape)), inflation=inflation)
    exact = multivariate_normal(rows.mean(axis=0), inflation * LedoitWolf().fit(rows).covariance_)
    points = 3 * correlated(10, 3)
    assert base.shape == shape
    log_prob = base.log_prob(points.reshape(10, *shape))
    np.testing.assert_allclose(log_prob, exact.logpdf(points), rtol=1e-10)


def test_the_mixture_of_one_is_the_same_density():
    base = gaussian_base(jnp.asarray(correlated(40, 3)))
    points = 3 * correlated(10, 3)
    for density in (base, paramax.non_trainable(base)):
        log_prob = as_mixture(density).log_prob_rows(points)
        np.testing.assert_allclose(log_prob, base.log_prob(points), rtol=1e-10)
    assert as_mixture(make_flow("affine-coupling", (2,), layers=1, key=jax.random.key(0))) is None


def test_draws_follow_the_density():
    """Squared Mahalanobis distances are chi-square; false-alarm rate 1e-4."""
    rows = correlated(40, 3)
    base = gaussian_base(jnp.asarray(rows))
    x = np.asarray(base.sample(jax.random.key(0), (4000,)))
    precision = np.linalg.inv(LedoitWolf().fit(rows).covariance_)
    centred = x - rows.mean(axis=0)
    distances = np.einsum("ni,ij,nj->n", centred, precision, centred)
    assert kstest(distances, chi2(3).cdf).pvalue > 1e-4


def test_fewer_points_than_coordinates_still_make_a_proper_density():
    base = gaussian_base(jnp.asarray(correlated(4, 10)))
    assert np.isfinite(base.log_prob(jnp.zeros(10)))


def test_one_point_is_refused():
    with pytest.raises(ValueError, match="at least 2 points; got 1"):
        gaussian_base(jnp.zeros((1, 3)))
