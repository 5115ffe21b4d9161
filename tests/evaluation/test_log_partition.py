"""log Z by importance sampling: right, with warnings where it cannot be."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal, StandardNormal

from flowebm.evaluation import EstimateWarning, LogPartition, as_log_partition, log_partition
from flowebm.models import EnergyModel

pytestmark = pytest.mark.optimised

DIM = 5
CURVATURE = 1.5
LOG_Z = -0.5 * DIM * np.log(1 + CURVATURE)


def quadratic_tilt(x):
    return 0.5 * CURVATURE * jnp.sum(x**2)


@pytest.fixture
def model():
    return EnergyModel(quadratic_tilt, StandardNormal((DIM,)))


def test_known_normaliser_within_its_error_and_without_warning(model):
    """False alarm 7e-5 (z = 4)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = log_partition(jax.random.key(0), model, StandardNormal((DIM,)))
    assert 0 < estimate.stderr < 0.02
    assert abs(estimate.value - LOG_Z) < 4 * estimate.stderr
    assert estimate.khat < 0.7
    assert 100 < estimate.ess < estimate.n == 20_000


def test_perfect_proposal_has_no_error_at_all(model):
    exact = Normal(jnp.zeros(DIM), (1 + CURVATURE) ** -0.5)
    estimate = log_partition(jax.random.key(1), model, exact, n=1_000)
    assert estimate.value == pytest.approx(LOG_Z, abs=1e-12)
    assert estimate.stderr < 1e-12
    assert estimate.khat == 0
    assert estimate.ess == pytest.approx(1_000)


def test_under_dispersed_proposal_warns_of_its_tail(model):
    """A proposal five times too narrow has weights of Pareto shape 1 - 1/25."""
    narrow = Normal(jnp.zeros(DIM), 0.2 * (1 + CURVATURE) ** -0.5)
    with pytest.warns(EstimateWarning, match="log Z.*k̂ = ") as caught:
        estimate = log_partition(jax.random.key(2), model, narrow)
    assert estimate.khat > 0.7
    assert caught[0].filename == __file__


def test_few_effective_draws_warn(model):
    with pytest.warns(EstimateWarning, match="of 60 draws are effective"):
        log_partition(jax.random.key(3), model, StandardNormal((DIM,)), n=60)


def test_log_density_function_needs_no_wrapping():
    base = StandardNormal((DIM,))
    estimate = log_partition(jax.random.key(4), lambda x: base.log_prob(x) + 3.0, base, n=200)
    assert estimate.value == pytest.approx(3.0)


def test_model_that_is_nan_somewhere_is_refused():
    def log_density(x):
        return jnp.where(x[0] > 0, jnp.nan, 0.0)

    with pytest.raises(ValueError, match="log Z are NaN or infinite at"):
        log_partition(jax.random.key(5), log_density, StandardNormal((DIM,)), n=200)


def test_model_with_no_mass_under_the_proposal_is_refused():
    with pytest.raises(ValueError, match="no mass at any of 200 draws"):
        log_partition(jax.random.key(6), lambda x: -jnp.inf * 1.0, StandardNormal((DIM,)), n=200)


def test_half_of_a_proposal_outside_the_support_is_no_problem():
    """A half-Gaussian has Z = 1/2: weights 0 and 1. False alarm 7e-5 (z = 4)."""
    base = StandardNormal((DIM,))
    estimate = log_partition(
        jax.random.key(7), lambda x: jnp.where(x[0] > 0, base.log_prob(x), -jnp.inf), base
    )
    assert estimate.stderr == pytest.approx(1 / np.sqrt(estimate.n), rel=0.05)
    assert abs(estimate.value - np.log(0.5)) < 4 * estimate.stderr


def test_exact_numbers_and_estimates_are_read_alike():
    assert as_log_partition(1.5) == (1.5, 0.0)
    assert as_log_partition(LogPartition(1.5, 0.1, 1.0, 0.0, 1)) == (1.5, 0.1)
