"""Importance weights: unbiased normaliser, honest error, honest tail diagnostic."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import StandardNormal

from flowebm.evaluation import (
    effective_sample_size,
    importance_log_weights,
    importance_sample,
    log_mean_exp,
    pareto_khat,
)
from flowebm.evaluation.importance import bounded_log_mean_error
from flowebm.models import EnergyModel

CURVATURES = (0.5, 1.0, 2.0)
Z = float(np.prod(1 + np.array(CURVATURES)) ** -0.5)
SECOND_MOMENT = float(np.prod(1 + 2 * np.array(CURVATURES)) ** -0.5)
N = 500
REPLICATIONS = 4_000


def quadratic_tilt(x):
    return 0.5 * jnp.sum(jnp.array(CURVATURES) * x**2)


@pytest.fixture(scope="module")
def replications():
    """Independent estimates of log Z and their standard errors, each from N draws."""

    @eqx.filter_jit
    def estimate(keys):
        base = StandardNormal((3,))
        model = EnergyModel(quadratic_tilt, base)
        return jax.lax.map(
            lambda key: log_mean_exp(
                importance_log_weights(key, model, base, n=N, batch_size=N),
            ),
            keys,
            batch_size=100,
        )

    with jax.enable_x64(True):
        value, stderr = estimate(jax.random.split(jax.random.key(0), REPLICATIONS))
    return np.asarray(value), np.asarray(stderr)


def test_partition_estimate_is_unbiased(replications):
    """E[Ẑ] = Z, with the exact variance of the weights. False alarm 7e-5 (z = 4)."""
    log_z, _ = replications
    stderr = np.sqrt((SECOND_MOMENT - Z**2) / N / REPLICATIONS)
    assert abs(np.exp(log_z).mean() - Z) < 4 * stderr


def test_stated_error_covers_the_truth_as_often_as_it_says(replications):
    """Coverage of value ± 1.96 stderr is 95%. False alarm 7e-5 (binomial, z = 4)."""
    value, stderr = replications
    coverage = np.mean(np.abs(value - np.log(Z)) < 1.959964 * stderr)
    assert abs(coverage - 0.95) < 4 * np.sqrt(0.95 * 0.05 / REPLICATIONS)


def test_log_mean_exp_ignores_a_common_constant_in_its_error():
    log_weights = jax.random.normal(jax.random.key(1), (50,))
    value, stderr = log_mean_exp(log_weights)
    shifted_value, shifted_stderr = log_mean_exp(log_weights + 1e4)
    assert shifted_value == pytest.approx(float(value) + 1e4)
    assert shifted_stderr == pytest.approx(float(stderr), rel=1e-8)


@pytest.mark.parametrize("batch_size", [37, 100, 1_000])
def test_batches_make_n_distinct_draws_with_their_own_weights(batch_size):
    base = StandardNormal((3,))
    model = EnergyModel(quadratic_tilt, base)
    x, log_weights = importance_sample(jax.random.key(2), model, base, n=100, batch_size=batch_size)
    assert x.shape == (100, 3)
    assert len(np.unique(np.asarray(x[:, 0]))) == 100
    np.testing.assert_allclose(log_weights, -jax.vmap(quadratic_tilt)(x), rtol=1e-10, atol=1e-12)


def test_statistic_is_kept_in_place_of_the_point():
    base = StandardNormal((3,))
    key = jax.random.key(3)
    x, _ = importance_sample(key, base.log_prob, base, n=20)
    norms, _ = importance_sample(key, base.log_prob, base, n=20, statistic=jnp.linalg.norm)
    np.testing.assert_allclose(norms, np.linalg.norm(x, axis=1))


def test_effective_sample_size_of_equal_and_of_concentrated_weights():
    assert effective_sample_size(jnp.full(40, -7.0)) == pytest.approx(40)
    assert effective_sample_size(jnp.zeros(40).at[3].set(800.0)) == pytest.approx(1)
    assert effective_sample_size(jnp.array([0.0, 0.0, -jnp.inf, -jnp.inf])) == pytest.approx(2)


@pytest.mark.parametrize("k", [0.3, 0.9])
def test_khat_finds_the_shape_of_pareto_weights(k):
    """u^-k has Pareto shape k; k̂'s deviation is (1 + k)/√tail. False alarm 7e-5 (z = 4)."""
    n = 200_000
    log_weights = -k * jnp.log(jax.random.uniform(jax.random.key(4), (n,)))
    tail = 3 * np.sqrt(n)
    khat = pareto_khat(log_weights)
    assert abs(khat - k) < 4 * (1 + k) / np.sqrt(tail)
    assert khat == pytest.approx(float(pareto_khat(log_weights - 300.0)), abs=1e-6)


def test_khat_of_equal_weights_is_zero_even_with_rounding_noise():
    noise = 1e-6 * jax.random.normal(jax.random.key(5), (1_000,))
    assert pareto_khat(jnp.zeros(1_000)) == 0
    assert pareto_khat(5.0 + noise) == 0


def test_khat_is_infinite_where_no_tail_can_be_fitted():
    assert pareto_khat(jax.random.normal(jax.random.key(6), (20,))) == jnp.inf
    ten_of_a_thousand = jnp.full(1_000, -jnp.inf).at[:10].set(jnp.arange(10.0))
    assert pareto_khat(ten_of_a_thousand) == jnp.inf


def test_a_proposal_over_another_space_is_refused():
    model = EnergyModel(quadratic_tilt, StandardNormal((3,)))
    with pytest.raises(ValueError, match=r"shape \(3,\) but the proposal's \(2,\)"):
        importance_sample(jax.random.key(0), model, StandardNormal((2,)), n=10)
    with pytest.raises(ValueError, match="n >= 2"):
        importance_sample(jax.random.key(0), model, StandardNormal((3,)), n=1)


@pytest.mark.parametrize("rare", [0.002, 0.3])
def test_bounded_weights_have_an_error_that_holds(rare):
    """Of 500 weights, of which a rare one is 20 times the mean; and so it is of one draw in two.

    Three repetitions in eight have none of the rare ones, and a standard error of zero.
    """
    rng, bound, n = np.random.default_rng(0), 2.0, 500
    log_weights = np.where(rng.random((1000, n)) < rare, bound, -bound)
    truth = np.log(rare * np.exp(bound) + (1 - rare) * np.exp(-bound))
    errors = np.abs(np.log(np.exp(log_weights).mean(axis=1)) - truth)
    bounds = [bounded_log_mean_error(row, bound) for row in log_weights]
    assert (errors <= bounds).mean() >= 0.95
    # A bound that is never told of would hold as well.
    assert np.median(bounds) < 1.0 if rare > 0.01 else np.isfinite(errors).all()
    deviations = np.exp(log_weights).std(axis=1) / np.exp(log_weights).mean(axis=1)
    assert rare > 0.01 or (errors <= 2 * deviations / n**0.5).mean() < 0.95


def test_a_step_near_the_top_is_no_heavy_tail():
    """Weights of 0.6 to 1.2, and a few up to twice the mean: a Pareto fit takes that for k > 1."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.6, 1.2, 20_000)
    weights[:40] = rng.uniform(1.2, 2.0, 40)
    assert pareto_khat(jnp.log(jnp.asarray(weights))) <= 0
    # Twenty of ten times the mean may have others behind them.
    weights[:20] = 10
    assert pareto_khat(jnp.log(jnp.asarray(weights))) > 1
