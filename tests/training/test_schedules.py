"""Schedules: where they start, where they end, and that the cosine only falls."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.training.schedules import constant, warmup_cosine


def test_constant_is_one():
    np.testing.assert_array_equal(constant(jnp.linspace(0, 1, 5)), np.ones(5))


def test_the_cosine_ends_at_zero_and_stays_there():
    assert float(warmup_cosine(jnp.array(1.0))) == pytest.approx(0.0, abs=1e-7)
    assert warmup_cosine(jnp.array(1.7)) == warmup_cosine(jnp.array(1.0))


def test_the_warm_up_starts_low_but_not_at_rest_and_is_over_when_it_should_be():
    start = float(warmup_cosine(jnp.array(0.0), warmup=0.1))
    assert 0 < start <= 0.02
    t = jnp.linspace(0.1, 1, 50)
    np.testing.assert_allclose(
        warmup_cosine(t, warmup=0.1), 0.5 * (1 + np.cos(np.pi * t)), atol=1e-6
    )
    assert np.all(np.diff(warmup_cosine(jnp.linspace(0, 0.099, 20), warmup=0.1)) > 0)
    assert np.all(np.diff(warmup_cosine(t)) < 0)
