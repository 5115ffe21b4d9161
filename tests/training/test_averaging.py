"""The parameter average: its formula, and that it forgets the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.training.averaging import update_average


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_average_is_the_recursion_with_a_growing_memory(decay):
    with jax.enable_x64(True):
        values = np.random.default_rng(0).normal(size=(60, 3))
        average = {"a": jnp.asarray(values[0]), "none": None}
        expected = values[0]
        for t, value in enumerate(values):
            average = update_average(average, {"a": value, "none": None}, jnp.array(t), decay)
            gamma = min(decay, (1 + t) / (10 + t))
            expected = gamma * expected + (1 - gamma) * value
        np.testing.assert_allclose(average["a"], expected, rtol=1e-13)


def test_a_constant_is_its_own_average():
    with jax.enable_x64(True):
        constant = jnp.array([0.1, -3.0])
        average = update_average(constant, constant, jnp.array(7), 0.995)
        np.testing.assert_array_equal(average, constant)


def test_the_first_update_takes_nine_tenths():
    average = update_average(jnp.array(0.0), jnp.array(1.0), jnp.array(0), 0.995)
    assert float(average) == pytest.approx(0.9)
