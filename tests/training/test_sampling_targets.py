"""`flowebm.sample` as it comes, on densities that are hard: slow."""

import warnings

import jax
import jax.numpy as jnp
import jax.scipy.stats as jstats
import numpy as np
import pytest
from scipy.stats import norm

from flowebm import EstimateWarning, sample
from flowebm.data.targets import Funnel, GaussianMixture4

pytestmark = pytest.mark.slow


def stderr_of_mean(values):
    """From the means of the 32 chains."""
    means = np.asarray(values, float).mean(axis=1)
    return means.std(ddof=1) / len(means) ** 0.5


def test_sixteen_dimensions_from_the_smallest_mode():
    """Weights within 6 standard errors and 0.003, for the bias of particles shared by the chains'
    starts, and log Z within 5: with 31 degrees of freedom false alarms under 1e-4."""
    mixture = GaussianMixture4(16)
    result = sample(
        jax.random.key(0), lambda x: mixture.log_prob(x) + 1.5, mixture.means[3], verbose=False
    )
    modes = np.asarray(jax.vmap(jax.vmap(mixture.mode))(result.draws))
    for mode, weight in enumerate(np.asarray(mixture.mode_weights)):
        share = modes == mode
        assert abs(share.mean() - weight) < 6 * stderr_of_mean(share) + 0.003
    assert result.warnings == ()
    log_z = result.log_partition
    assert abs(log_z.value - 1.5) < 5 * log_z.stderr


def test_a_funnel_is_sampled_or_said_not_to_be():
    """Its narrow end is slow to enter by local moves of one step size. Seven wide slices of its
    log-variance hold the same mass each, within 6 standard errors and 0.015; if the narrow one
    does not hold as much, the result says that its chains have not mixed."""
    funnel = Funnel(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimateWarning)
        result = sample(jax.random.key(0), funnel.log_prob, jnp.ones(10), verbose=False)
    slices = np.floor(8 * norm.cdf(np.asarray(result.draws)[..., 0] / funnel.scale))
    shares = np.array([(slices == number).mean() for number in range(8)])
    for number in range(1, 8):
        error = 6 * stderr_of_mean(slices == number) + 0.015
        assert abs(shares[number] - 1 / 8) < error
    assert abs(shares[0] - 1 / 8) < 0.01 or result.warnings


def two_modes(x):
    right = jnp.sum(jstats.norm.logpdf(x, 5.0)) + jnp.log(0.75)
    return jnp.logaddexp(jnp.sum(jstats.norm.logpdf(x, -5.0)) + jnp.log(0.25), right)


def banana(x):
    return jstats.norm.logpdf(x[0], 0, 3) + jstats.norm.logpdf(x[1] + 0.3 * x[0] ** 2, 0, 0.5)


def student(x):
    return jnp.sum(jstats.t.logpdf(x, 6.0))


def level(x):
    return 0 * x.sum()


@pytest.mark.parametrize(
    ("log_density", "d", "choices"),
    [(two_modes, 2, {}), (banana, 2, {}), (student, 4, {}), (level, 3, {"bounds": (0, 1)})],
)
def test_errors_of_log_z_are_what_they_say(log_density, d, choices):
    """100 keys: the standard deviation of z lies between 0.75 and 1.3 (it is 1 ± 0.07 if errors
    are right: false alarms under 1e-3), and the mean within 0.4."""
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimateWarning)
        for seed in range(100):
            result = sample(
                jax.random.key(seed), log_density, d, n_draws=20, verbose=False, **choices
            )
            scores.append(result.log_partition.value / result.log_partition.stderr)
    assert 0.75 < np.std(scores) < 1.3
    assert abs(np.mean(scores)) < 0.4
