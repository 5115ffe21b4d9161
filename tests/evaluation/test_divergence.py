"""Divergences between Gaussians, which have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal, StandardNormal

from flowebm.evaluation import Estimate, EstimateWarning, fisher_divergence, kl_divergence

DIM = 3
SHIFT = 0.3
SCALE = 1.2
CONSTANT = 7.0
KL = DIM * (np.log(SCALE) + (1 + SHIFT**2) / (2 * SCALE**2) - 0.5)
FISHER = DIM * ((1 / SCALE**2 - 1) ** 2 + SHIFT**2 / SCALE**4)


@pytest.fixture
def truth():
    return StandardNormal((DIM,))


def shifted_gaussian(x):
    """A Gaussian's log-density plus log Z = CONSTANT."""
    return jnp.sum(Normal(SHIFT, SCALE).log_prob(x)) + CONSTANT


def test_kl_between_gaussians(truth):
    """False alarm 7e-6 (z = 4.5)."""
    estimate = kl_divergence(jax.random.key(0), truth, shifted_gaussian)
    assert 0 < estimate.stderr < 0.01
    assert abs(estimate.value - KL) < 4.5 * estimate.stderr


def test_kl_with_the_exact_log_partition(truth):
    """False alarm 7e-6 (z = 4.5)."""
    estimate = kl_divergence(jax.random.key(1), truth, shifted_gaussian, log_partition=CONSTANT)
    assert 0 < estimate.stderr < 0.01
    assert abs(estimate.value - KL) < 4.5 * estimate.stderr


def test_kl_interval_covers_the_truth_as_often_as_it_says(truth):
    """Coverage of ± 1.96 stderr is 95%. False alarm 7e-5 (binomial, z = 4)."""
    replications = 400
    estimates = np.array(
        [
            kl_divergence(key, truth, shifted_gaussian, n=2_000)
            for key in jax.random.split(jax.random.key(2), replications)
        ]
    )
    covered = np.mean(np.abs(estimates[:, 0] - KL) < 1.959964 * estimates[:, 1])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / replications)


def test_error_of_a_given_log_partition_adds_in_quadrature(truth):
    arguments = (jax.random.key(3), truth, shifted_gaussian)
    exact = kl_divergence(*arguments, n=500, log_partition=CONSTANT)
    uncertain = kl_divergence(*arguments, n=500, log_partition=Estimate(CONSTANT, 0.2))
    assert uncertain.value == exact.value
    assert uncertain.stderr == pytest.approx(np.hypot(exact.stderr, 0.2))


def test_divergences_of_a_density_from_itself_are_exactly_zero(truth):
    kl = kl_divergence(jax.random.key(4), truth, lambda x: truth.log_prob(x) + 4.0, n=500)
    fisher = fisher_divergence(jax.random.key(4), truth, truth.log_prob, n=500)
    assert kl == pytest.approx((0.0, 0.0), abs=1e-12)
    assert fisher == pytest.approx((0.0, 0.0), abs=1e-12)


def test_fisher_divergence_between_gaussians(truth):
    """False alarm 7e-6 (z = 4.5)."""
    estimate = fisher_divergence(jax.random.key(5), truth, shifted_gaussian)
    assert 0 < estimate.stderr < 0.02
    assert abs(estimate.value - FISHER) < 4.5 * estimate.stderr


def test_narrow_truth_cannot_normalise_a_wide_model(truth):
    with pytest.warns(EstimateWarning, match="log Z from the truth's draws"):
        kl_divergence(jax.random.key(6), truth, lambda x: -0.5 * jnp.sum(x**2) / 5**2)


def test_model_that_excludes_the_truth_is_refused(truth):
    with pytest.raises(ValueError, match="draws of the truth, so their divergence is not finite"):
        kl_divergence(jax.random.key(7), truth, lambda x: jnp.where(x[0] > 0, 0.0, -jnp.inf))
    with pytest.raises(ValueError, match="score is NaN or infinite"):
        fisher_divergence(jax.random.key(7), truth, lambda x: jnp.nan * jnp.sum(x))
