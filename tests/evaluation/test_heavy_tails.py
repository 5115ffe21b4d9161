"""Where weights have heavy tails, errors count what the draws have missed."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowjax.distributions import Normal
from scipy.special import logsumexp

from flowebm.evaluation import NearestMode, mode_weights
from flowebm.evaluation.heavy_tails import heavy_log_mean, khat_limit
from flowebm.evaluation.log_partition import LogPartition


@pytest.mark.parametrize(
    ("d", "scale", "khat", "least"),
    # The delta method's intervals hold it in 81%, 91% and 63% of such estimates.
    [(2, 0.6, 0.63, 0.87), (10, 0.75, 0.57, 0.9), (2, 0.5, 0.68, 0.8)],
)
def test_intervals_hold_log_z_where_weights_have_hardly_a_variance(d, scale, khat, least):
    """A normal under a narrower one, of true log Z zero: 200 estimates from 20,000 draws each.

    The least share lies four binomial standard errors below what 2,000 other estimates gave.
    """
    squares = np.random.default_rng(0).chisquare(d, (200, 20_000))
    log_weights = 0.5 * (1 - scale**2) * squares + d * np.log(scale)
    estimates = np.array([heavy_log_mean(row, khat) for row in log_weights])
    held = np.abs(estimates[:, 0]) <= 1.96 * estimates[:, 1]
    plain = logsumexp(log_weights, axis=1) - np.log(20_000)
    errors = np.exp(log_weights - plain[:, None]).std(axis=1) / 20_000**0.5
    assert held.mean() >= least
    assert held.mean() > (np.abs(plain) <= 1.96 * errors).mean()


def test_a_light_tail_is_left_to_the_delta_method():
    log_weights = 0.5 * jr.normal(jr.key(0), (20_000,))
    estimate = LogPartition.from_log_weights(log_weights)
    assert estimate.khat < 0.4
    assert estimate.value == pytest.approx(float(logsumexp(log_weights) - np.log(20_000)), abs=1e-5)


@pytest.mark.parametrize(("n", "limit"), [(100, 0.5), (1000, 2 / 3), (20_000, 0.7)])
def test_few_draws_have_a_lower_limit(n, limit):
    assert khat_limit(n) == pytest.approx(limit)


def test_a_mode_that_no_draw_hit_has_an_upper_limit():
    centers = jnp.array([[0.0], [100.0]])
    base = Normal(jnp.zeros(1), 1.0)
    estimate = mode_weights(jr.key(0), base.log_prob, base, NearestMode(centers), 2, n=2000)
    assert estimate.weights[1] == 0
    assert estimate.upper[1] == pytest.approx(3 / estimate.ess, rel=1e-6)
    assert estimate.stderr[1] > 0
    assert np.all(estimate.upper >= estimate.weights)
