"""The reference mixture in more than two dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal

from flowebm.data.targets import GaussianMixture4

MEANS = np.array([[4, 4, 0, 0, 0], [-4, 4, 0, 0, 0], [4, -4, 0, 0, 0], [-4, -4, 0, 0, 0]])
WEIGHTS = np.array([0.5, 0.25, 0.15, 0.1])
N = 20_000


@pytest.fixture(scope="module")
def draws():
    """The mixture in five dimensions, with samples, their log-densities and modes."""
    with jax.enable_x64(True):
        target = GaussianMixture4(5)
        x = target.sample(jax.random.key(2), (N,))
        return np.asarray(x), np.asarray(target.log_prob(x)), np.asarray(jax.vmap(target.mode)(x))


def test_log_prob_is_that_of_four_gaussians(draws):
    x, log_prob, _ = draws
    densities = [multivariate_normal(m, 0.49).pdf(x[:100]) for m in MEANS]
    np.testing.assert_allclose(log_prob[:100], np.log(WEIGHTS @ densities), rtol=1e-12)


def test_samples_fall_into_the_modes_by_weight(draws):
    """Chi-square with 3 degrees of freedom; false-alarm rate 1e-5."""
    counts = np.bincount(draws[2], minlength=4)
    assert chi2.sf(np.sum((counts - N * WEIGHTS) ** 2 / (N * WEIGHTS)), 3) > 1e-5


def test_samples_spread_about_their_mode_with_the_standard_deviation(draws):
    """The squared distances are chi-square in 5 N degrees of freedom; false-alarm rate 1e-5."""
    x, _, modes = draws
    p = chi2.cdf(np.sum((x - MEANS[modes]) ** 2) / 0.49, 5 * N)
    assert 5e-6 < p < 1 - 5e-6


def test_mode_is_the_nearest_mean():
    assert [int(GaussianMixture4(5).mode(jnp.asarray(m, float) * 0.4)) for m in MEANS] == [
        0,
        1,
        2,
        3,
    ]


def test_standard_deviation_depends_on_the_dimension():
    assert GaussianMixture4().sd == 0.5
    assert GaussianMixture4(3).sd == 0.7
    assert GaussianMixture4(3, sd=0.2).sd == 0.2


@pytest.mark.parametrize("options", [{"dim": 1}, {"sd": 0.0}, {"sd": float("nan")}])
def test_impossible_parameters_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GaussianMixture4(**options)
