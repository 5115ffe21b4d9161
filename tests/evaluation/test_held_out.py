"""Held-out likelihood: its interval counts the data's error and log Z's."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.evaluation import LogPartition, bits_per_dimension, held_out_nll

DIM = 2
LOG_Z = 0.5 * DIM * np.log(2 * np.pi)
ENTROPY = LOG_Z + 0.5 * DIM


def log_density(x):
    return -0.5 * jnp.sum(x**2)


def partition(value, stderr):
    return LogPartition(value, stderr, 1_000.0, 0.0, 1_000)


def test_interval_covers_the_truth_as_often_as_it_says():
    """Both errors of equal size, 90% intervals. False alarm 7e-5 (binomial, z = 4)."""
    replications, n = 600, 400
    stderr = np.sqrt(DIM / 2 / n)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(replications):
        log_z = partition(LOG_Z + stderr * rng.standard_normal(), stderr)
        result = held_out_nll(log_density, rng.standard_normal((n, DIM)), log_z, level=0.9)
        covered += result.lower < ENTROPY < result.upper
    assert abs(covered / replications - 0.9) < 4 * np.sqrt(0.9 * 0.1 / replications)


def test_errors_add_in_quadrature_and_levels_nest():
    X = np.random.default_rng(1).standard_normal((300, DIM))
    exact = held_out_nll(log_density, X, LOG_Z)
    uncertain = held_out_nll(log_density, X, partition(LOG_Z, 0.3))
    wide = held_out_nll(log_density, X, LOG_Z, level=0.99)
    assert exact.nll == pytest.approx(0.5 * np.mean(np.sum(X**2, axis=1)) + LOG_Z)
    assert uncertain.stderr == pytest.approx(np.hypot(exact.stderr, 0.3))
    assert wide.lower < exact.lower < exact.nll < exact.upper < wide.upper
    assert (exact.upper - exact.lower) / exact.stderr == pytest.approx(2 * 1.959964, rel=1e-5)


def test_batches_do_not_change_the_result():
    X = np.random.default_rng(2).standard_normal((101, DIM))
    whole = held_out_nll(log_density, X, LOG_Z)
    batched = held_out_nll(log_density, X, LOG_Z, batch_size=10)
    assert batched == pytest.approx(whole, rel=1e-12)


def test_point_outside_the_support_costs_infinitely_much():
    result = held_out_nll(
        lambda x: jnp.where(x[0] > 0, 0.0, -jnp.inf), jnp.array([[1.0], [-1.0]]), 0.0
    )
    assert result.nll == result.upper == jnp.inf


def test_bad_input_is_refused():
    X = np.ones((5, DIM))
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"not finite at row 3 \(1 rows"):
        held_out_nll(log_density, X, LOG_Z)
    with pytest.raises(ValueError, match="NaN or -inf at row 0"):
        held_out_nll(lambda x: jnp.log(-jnp.sum(x)), np.ones((5, DIM)), LOG_Z)
    with pytest.raises(ValueError, match="at least two held-out points"):
        held_out_nll(log_density, np.ones((1, DIM)), LOG_Z)
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        held_out_nll(log_density, np.ones((5, DIM)), LOG_Z, level=95)


def test_uniform_pixels_cost_eight_bits_per_dimension():
    assert bits_per_dimension(784 * np.log(256), 784) == pytest.approx(8)
    with pytest.raises(ValueError, match="at least 1"):
        bits_per_dimension(1.0, 0)
