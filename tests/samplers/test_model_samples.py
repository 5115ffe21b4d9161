"""Samples of a model: they follow it, also where its flow does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.models.energy import LogDensity
from flowebm.samplers.model_samples import sample_model


@pytest.fixture
def model(mixture):
    """The two-mode mixture with a normaliser that nobody is told."""
    return LogDensity(lambda x: mixture.log_prob(x[0]) + 0.7, (1,))


@pytest.fixture
def flow():
    """One wide mode: its own draws are far from the model's."""
    return Normal(jnp.array([0.5]), 2.5)


def test_samples_follow_the_model(model, flow, mixture, p_value):
    """Bin counts of independent samples against the model's; false-alarm rate 1e-5.

    Importance weights are at most 3, so that after 20 moves a start outside the law remains
    with probability under (2/3)^20 = 3e-4, and 20,001 samples cannot tell. One move shows.
    """
    samples = sample_model(jax.random.key(0), model, flow, 20_001, batch_size=4096)
    assert samples.positions.shape == (20_001, 1)
    assert len(np.unique(samples.positions)) == 20_001  # no batch twice
    assert p_value(mixture.cdf(samples.positions[:, 0])) > 1e-5
    assert 0.3 < samples.global_acceptance < 0.7
    assert 0.3 < samples.local_acceptance <= 1
    early = sample_model(jax.random.key(0), model, flow, 20_001, batch_size=4096, n_moves=1)
    assert p_value(mixture.cdf(early.positions[:, 0])) < 1e-6


def test_samples_are_a_function_of_the_key(model, flow):
    one, same, other = (
        sample_model(jax.random.key(k), model, flow, 50, n_moves=2).positions for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.any(one == other)


def test_no_samples_are_refused(model, flow):
    with pytest.raises(ValueError, match=r"must be 1 or more; got 0\."):
        sample_model(jax.random.key(0), model, flow, 0)
