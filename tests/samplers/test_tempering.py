"""Steps of temperature: how large they are, and who survives them."""

import jax
import jax.numpy as jnp
import numpy as np

from flowebm.samplers.tempering import LOG_ZERO, SMALLEST_STEP, log_ratio, temperature_step

RATIOS = 30 * jax.random.normal(jax.random.key(0), (2_000,))


def share(increment, ratios=RATIOS):
    weights = np.exp(np.asarray(increment * (ratios - ratios.max()), float))
    return weights.sum() ** 2 / (weights**2).sum() / weights.size


def test_a_step_keeps_the_effective_share_that_it_is_told_to_keep():
    step = temperature_step(jax.random.key(1), RATIOS, jnp.array(0.3), 0.6)
    np.testing.assert_allclose(share(step.temperature - 0.3), 0.6, atol=0.01)
    # Systematic resampling: every point within one copy of what its weight says.
    weights = np.exp(np.asarray((step.temperature - 0.3) * (RATIOS - RATIOS.max()), float))
    copies = np.bincount(np.asarray(step.ancestors), minlength=2_000)
    assert np.all(np.abs(copies - 2_000 * weights / weights.sum()) < 1.01)


def test_the_last_step_ends_at_one_and_then_all_stay():
    step = temperature_step(jax.random.key(1), 1e-3 * RATIOS, jnp.array(0.3), 0.6)
    assert float(step.temperature) == 1
    stayed = temperature_step(jax.random.key(1), RATIOS, jnp.array(1.0), 0.6)
    assert float(stayed.temperature) == 1
    np.testing.assert_array_equal(stayed.ancestors, np.arange(2_000))


def test_points_without_mass_die_at_the_smallest_step():
    """A quarter survives, less than the share to keep: no step is small enough, and one is made."""
    ratios = log_ratio(jnp.where(jnp.arange(400) < 100, 0.0, -jnp.inf), jnp.zeros(400))
    assert float(ratios.min()) == np.float32(LOG_ZERO)
    step = temperature_step(jax.random.key(1), ratios, jnp.array(0.0), 0.5)
    assert SMALLEST_STEP / 2 < float(step.temperature) <= 1
    assert int(step.ancestors.max()) < 100
    assert float(log_ratio(jnp.nan, jnp.zeros(()))) == np.float32(LOG_ZERO)
