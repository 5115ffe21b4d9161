"""Online estimates: the weights they stand for, and a standard error that is the right one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.training import online


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def run(values, variances, memory):
    estimate = online.init()
    for value, variance in zip(values, variances, strict=True):
        estimate = online.update(estimate, jnp.asarray(value), variance, memory=memory)
    return estimate


def test_within_the_memory_it_is_the_mean_with_the_standard_error_of_the_mean():
    rng = np.random.default_rng(0)
    values, variances = rng.normal(size=20), rng.uniform(0.5, 2, size=20)
    estimate = run(values, variances, memory=20)
    assert float(estimate.value) == pytest.approx(values.mean(), rel=1e-12)
    assert float(estimate.stderr) == pytest.approx(np.sqrt(variances.sum()) / 20, rel=1e-12)
    assert int(estimate.updates) == 20


def test_beyond_the_memory_its_weights_fall_geometrically_and_add_up_to_one():
    """The weights are read off by impulses: the estimate is linear in the values."""
    n, memory = 30, 5.0
    weights = np.array([float(run(row, np.zeros(n), memory).value) for row in np.eye(n)])
    assert weights.sum() == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(weights[6:] / weights[5:-1], 1 / (1 - 1 / memory), rtol=1e-12)
    assert weights[-1] == pytest.approx(1 / memory, rel=1e-12)
    variances = np.random.default_rng(1).uniform(0.5, 2, size=n)
    estimate = run(np.zeros(n), variances, memory)
    assert float(estimate.variance) == pytest.approx((weights**2) @ variances, rel=1e-12)


def test_the_first_value_is_taken_whole():
    estimate = online.update(online.init(), jnp.array(3.5), jnp.array(0.25))
    assert float(estimate.value) == 3.5
    assert float(estimate.stderr) == 0.5
