"""Energy models: signs, scores, and functions read as densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.models.energy import LogDensity, as_energy_model


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_density(x):
    return -jnp.sum(x**4) / 4 + jnp.prod(jnp.sin(x))


def test_score_is_the_slope_of_the_log_density():
    model = LogDensity(log_density, (3,))
    x, h = jnp.array([0.3, -1.2, 0.8]), 1e-5
    differences = [(log_density(x + h * e) - log_density(x - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(model.score(x), differences, rtol=1e-8)
    assert model.energy(x) == -model.unnormalized_log_prob(x) == -log_density(x)


def test_a_function_is_wrapped_and_a_model_is_not():
    model = as_energy_model(log_density, shape=(3,))
    assert model.shape == (3,)
    assert model.energy(jnp.ones(3)) == -log_density(jnp.ones(3))
    assert as_energy_model(model) is model


def test_what_is_no_density_is_refused():
    with pytest.raises(TypeError, match="energy model or a log-density function; got int"):
        as_energy_model(3)
    with pytest.raises(ValueError, match="pass shape="):
        as_energy_model(log_density)
