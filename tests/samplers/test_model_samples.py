"""Samples of a model: they follow it, also where its flow does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.models import EnergyModel
from flowebm.models.bounded import BoundedTilt, NoTilt
from flowebm.models.energy import LogDensity
from flowebm.samplers.model_samples import sample_model

pytestmark = pytest.mark.optimised


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


def test_a_bounded_tilt_of_the_proposal_is_sampled_without_error(p_value):
    """The tilt is deep on one side: bin counts against the model's; false-alarm rate 1e-5. Draws
    of the base fail."""
    base = Normal(jnp.zeros(1), 1.0)
    bound = 1.5
    model = EnergyModel(BoundedTilt(lambda x: 50.0 * x[0], bound), base)
    side = np.linspace(-8, 8, 20_001)
    log_density = jax.vmap(model.unnormalized_log_prob)(jnp.asarray(side)[:, None])
    cdf = np.cumsum(np.exp(np.asarray(log_density, np.float64)))

    def uniform(points):
        return np.interp(np.asarray(points)[:, 0], side, cdf / cdf[-1])

    samples = sample_model(jax.random.key(0), model, base, 20_001)
    assert samples.positions.shape == (20_001, 1)
    assert len(np.unique(samples.positions)) > 19_900
    assert p_value(uniform(samples.positions)) > 1e-5
    assert p_value(uniform(base.sample(jax.random.key(1), (20_001,)))) < 1e-6
    # Z e^{-B} of the draws is kept.
    rate = cdf[-1] * (side[1] - side[0]) * np.exp(-bound)
    assert float(samples.global_acceptance) == pytest.approx(rate, abs=0.02)


def test_a_model_without_a_tilt_is_its_base():
    base = Normal(jnp.zeros(2), 1.0)
    told = []
    samples = sample_model(
        jax.random.key(0), EnergyModel(NoTilt(), base), base, 7,
        on_progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert samples.positions.shape == (7, 2)
    assert float(samples.global_acceptance) == 1
    assert told[-1] == (7, 7)
