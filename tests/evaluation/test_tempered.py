"""The bracket of log Z holds the truth, and says when its samples cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.evaluation import EstimateWarning, log_partition_bracket

LOG_Z = 1.25
WEIGHTS = (0.7, 0.3)
CENTER = 3.0
SCALE = 0.6
SETTINGS = {"n_particles": 256, "n_runs": 8, "n_moves": 2, "max_steps": 60}


def two_modes(x):
    """Log-density of two separated Gaussians, plus LOG_Z."""
    modes = jnp.stack([jnp.full(2, CENTER), jnp.full(2, -CENTER)])
    squares = jnp.sum((x - modes) ** 2, axis=1)
    parts = jnp.log(jnp.array(WEIGHTS)) - 0.5 * squares / SCALE**2
    return LOG_Z + jax.nn.logsumexp(parts) - jnp.log(2 * jnp.pi * SCALE**2)


def draw_two_modes(key, n):
    mode_key, noise_key = jax.random.split(key)
    sign = jnp.where(jax.random.bernoulli(mode_key, WEIGHTS[0], (n, 1)), 1.0, -1.0)
    return CENTER * sign + SCALE * jax.random.normal(noise_key, (n, 2))


@pytest.fixture
def base():
    return Normal(jnp.zeros(2), 3.0)


def test_bounds_hold_the_truth_of_two_modes(base):
    """Each bound crosses the truth with probability under 5e-5 (t with 7 degrees, 8.5)."""
    bracket = log_partition_bracket(
        jax.random.key(0), two_modes, base, draw_two_modes(jax.random.key(1), 2_048), **SETTINGS
    )
    assert bracket.lower < LOG_Z + 8.5 * bracket.lower_stderr
    assert bracket.upper > LOG_Z - 8.5 * bracket.upper_stderr
    assert bracket.lower_stderr < 0.1
    assert bracket.upper_stderr < 0.1
    assert abs(bracket.upper - bracket.lower) < 0.5
    assert 1 < bracket.n_temperatures <= 60


def test_samples_of_the_lesser_mode_alone_empty_the_bracket(base):
    one_mode = -CENTER + SCALE * jax.random.normal(jax.random.key(2), (2_048, 2))
    with pytest.warns(EstimateWarning, match="bracket of log Z is empty"):
        bracket = log_partition_bracket(jax.random.key(0), two_modes, base, one_mode, **SETTINGS)
    assert bracket.upper < bracket.lower


def test_without_samples_there_is_no_upper_bound(base):
    bracket = log_partition_bracket(jax.random.key(0), two_modes, base, **SETTINGS)
    assert bracket.upper == np.inf
    assert np.isnan(bracket.upper_stderr)


def test_model_with_bounded_support_keeps_its_lower_bound(base):
    """A quarter plane has a quarter of the base's mass. False alarm 5e-5 (t, 7 degrees, 8.5)."""
    bracket = log_partition_bracket(
        jax.random.key(4),
        lambda x: jnp.where(jnp.all(x > 0), base.log_prob(x), -jnp.inf),
        base,
        **SETTINGS,
    )
    assert abs(bracket.lower - np.log(0.25)) < 8.5 * bracket.lower_stderr
    assert bracket.lower_stderr < 0.1


def test_bad_input_is_refused(base):
    key = jax.random.key(5)
    with pytest.raises(ValueError, match="at least 16 samples of shape"):
        log_partition_bracket(key, two_modes, base, jnp.zeros((10, 2)))
    with pytest.raises(ValueError, match="not all finite"):
        log_partition_bracket(key, two_modes, base, jnp.full((64, 2), jnp.nan))
    with pytest.raises(ValueError, match="target_ess between 0 and 1"):
        log_partition_bracket(key, two_modes, base, target_ess=1.0)
    with pytest.raises(RuntimeError, match="reached only temperature"):
        log_partition_bracket(key, two_modes, base, target_ess=0.99999, **SETTINGS)
