"""Online estimates: the line that they stand for, and a standard error that is the right one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.training import online


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def run(values, variances, memory=online.MEMORY):
    estimate = online.init()
    for value, variance in zip(values, variances, strict=True):
        estimate = online.update(estimate, jnp.asarray(value), variance, memory=memory)
    return estimate


def line_end(n, memory):
    """The weights of past values in the end of the line of least squares, and in the mean."""
    k = np.arange(n)[::-1]
    counts = (1 - 1 / memory) ** k
    columns = np.stack([np.ones(n), -k], axis=1)
    solved = np.linalg.solve(columns.T @ (counts[:, None] * columns), columns.T * counts)
    return solved[0], counts / counts.sum()


@pytest.mark.parametrize("n", [2, 3, 40])
def test_it_is_the_end_of_the_discounted_line_of_least_squares(n):
    rng = np.random.default_rng(0)
    values, variances = rng.normal(size=n), rng.uniform(0.5, 2, size=n)
    weights, mean = line_end(n, memory=5.0)
    estimate = run(values, variances, memory=5.0)
    assert float(estimate.value) == pytest.approx(weights @ values, rel=1e-9)
    bend = 0.3 * (weights - mean) @ values
    assert float(estimate.variance) == pytest.approx(weights**2 @ variances + bend**2, rel=1e-9)
    assert int(estimate.updates) == n


def test_it_does_not_lag_behind_what_moves_in_a_line():
    values = 3.0 - 0.7 * np.arange(60)
    assert float(run(values, np.ones(60)).value) == pytest.approx(values[-1], rel=1e-9)


def test_the_first_value_is_taken_whole():
    estimate = online.update(online.init(), jnp.array(3.5), jnp.array(0.25))
    assert float(estimate.value) == 3.5
    assert float(estimate.stderr) == 0.5


def test_single_precision_keeps_the_digits_of_large_values():
    """Values of 2,000 have steps of 0.00012 in single precision."""
    values = 2000 + np.random.default_rng(1).normal(size=300)
    with jax.enable_x64(False):
        single = float(run(np.float32(values), np.float32(np.ones(300))).value)
    assert single == pytest.approx(float(run(values, np.ones(300)).value), abs=1e-3)


def test_intervals_cover_a_truth_that_moves():
    """As log Z does in training: fast at first, then ever slower.

    700 independent runs, of which the intervals of one in twenty should fail: more than 60 have a
    probability of 2e-5 then, and under 10, which would be too wide, of 1e-7.
    """
    rng = np.random.default_rng(2)
    times = np.arange(150)
    truth = 2 * np.exp(-times / 40)
    values = truth + 0.1 * rng.normal(size=(700, times.size))

    def last(row):
        def step(estimate, value):
            return online.update(estimate, value, jnp.array(0.01)), None

        return jax.lax.scan(step, online.init(), row)[0]

    estimates = jax.jit(jax.vmap(last))(jnp.asarray(values))
    errors = np.asarray(estimates.value) - truth[-1]
    missed = int((np.abs(errors) > 1.96 * np.asarray(estimates.stderr)).sum())
    assert 10 <= missed <= 60
