"""The tilted base: exactly its base at the start, and the tilt away from it ever after."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flowjax.bijections import AdditiveCondition
from flowjax.distributions import StandardNormal, Transformed

from flowebm.models.bases import gaussian_base
from flowebm.models.tilted import EnergyModel
from flowebm.models.tilts import MLPTilt
from flowebm.models.trainable import partition_trainable


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def model():
    data = jax.random.normal(jax.random.key(0), (50, 2)) @ jnp.array([[1.0, 0.5], [0.0, 0.3]])
    tilt = MLPTilt((2,), width=8, depth=2, key=jax.random.key(1))
    return EnergyModel(tilt, paramax.non_trainable(gaussian_base(data)))


@pytest.fixture
def tilted(model):
    """The model with a tilt that is not zero."""
    return eqx.tree_at(lambda m: m.tilt.readout.weight, model, jnp.linspace(-1, 1, 8)[None])


def test_a_fresh_model_is_its_base(model):
    x = jax.random.normal(jax.random.key(2), (20, 2))
    expected = paramax.unwrap(model.base).log_prob(x)
    np.testing.assert_array_equal(jax.vmap(model.unnormalized_log_prob)(x), expected)
    assert model.shape == (2,)


def test_energy_is_tilt_minus_log_base(tilted):
    x = jnp.array([0.7, -1.1])
    assert tilted.tilt(x) != 0
    expected = tilted.tilt(x) - paramax.unwrap(tilted.base).log_prob(x)
    np.testing.assert_allclose(tilted.energy(x), expected, rtol=1e-12)


def test_score_is_the_finite_difference_of_the_log_density(tilted):
    x, h = jnp.array([0.7, -1.1]), 1e-5
    log_prob = jax.jit(jax.vmap(tilted.unnormalized_log_prob))
    differences = (log_prob(x + h * np.eye(2)) - log_prob(x - h * np.eye(2))) / (2 * h)
    np.testing.assert_allclose(tilted.score(x), differences, rtol=1e-7)


def test_a_frozen_base_is_not_trained(model):
    params, _ = partition_trainable(model)
    assert jax.tree.leaves(params.base) == []
    assert len(jax.tree.leaves(params.tilt)) == 5


def test_a_conditional_base_is_refused(model):
    shift = AdditiveCondition(lambda u: u, (2,), (2,))
    with pytest.raises(ValueError, match="must be unconditional"):
        EnergyModel(model.tilt, Transformed(StandardNormal((2,)), shift))
