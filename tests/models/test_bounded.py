"""Bounded tilts: no network makes an energy that draws of its base could miss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.models import EnergyModel, MLPTilt
from flowebm.models.bounded import BoundedTilt, NoTilt, tilts
from flowebm.models.trainable import partition_trainable


class Hole(eqx.Module):
    """Zero everywhere but for a deep hole of some width."""

    centre: jax.Array
    width: float
    depth: float

    def __call__(self, x):
        return jnp.where(jnp.abs(x[0] - self.centre) < self.width, -self.depth, 0.0)


@pytest.mark.parametrize("bound", [0.1, 1.0, 3.0])
def test_no_network_exceeds_the_bound(bound):
    tilt = MLPTilt((2,), width=8, depth=2, key=jr.key(0))
    wild = eqx.tree_at(lambda t: t.readout.weight, tilt, 1e4 * jnp.ones((1, 8)))
    points = 10 * jr.normal(jr.key(1), (1000, 2))
    values = tilts(BoundedTilt(wild, bound), points)
    assert float(jnp.abs(values).max()) <= bound * (1 + 1e-6)
    assert float(jnp.abs(values).max()) > 0.9 * bound


def test_small_tilts_are_left_as_they_are_and_the_bound_is_not_trained():
    tilt = BoundedTilt(lambda x: 0.01 * x[0], 2.0)
    assert float(tilt(jnp.array([1.5]))) == pytest.approx(0.015, rel=1e-4)
    network = MLPTilt((2,), width=8, depth=2, key=jr.key(0))
    trained = jax.tree.leaves(partition_trainable(BoundedTilt(network, 1.0))[0])
    assert len(trained) == len(jax.tree.leaves(partition_trainable(network)[0]))
    assert float(NoTilt()(jnp.ones(3))) == 0


@pytest.mark.parametrize("bound", [1.0, 3.0])
def test_a_hole_between_the_draws_holds_no_more_than_is_stated(bound):
    """The hole is where no draw fell, and 100 nats deep before it is bounded."""
    base = Normal(jnp.zeros(1), 1.0)
    draws = np.sort(np.asarray(base.sample(jr.key(0), (2000,)))[:, 0])
    # Chosen before the draws: whatever gap there is around one half.
    place = np.searchsorted(draws, 0.5)
    left, right = draws[place - 1], draws[place]
    centre, width = (left + right) / 2, 0.49 * (right - left)
    hole = Hole(jnp.asarray(centre), float(width), 100.0)
    model = EnergyModel(BoundedTilt(hole, bound), base)
    points = jnp.asarray(draws)[:, None]
    assert float(jnp.abs(tilts(model.tilt, points)).max()) == 0
    # By quadrature, fine around the hole.
    fine = np.linspace(centre - width, centre + width, 201)
    side = np.unique(np.concatenate([np.linspace(-8, 8, 20_001), fine]))
    middle = jnp.asarray((side[1:] + side[:-1]) / 2)[:, None]
    mass = np.exp(np.asarray(jax.vmap(model.unnormalized_log_prob)(middle))) * np.diff(side)
    in_hole = np.abs(np.asarray(middle)[:, 0] - centre) < width
    # Draws say that log Z is zero.
    assert 0 < np.log(mass.sum()) < bound
    hidden_mass = np.exp(2 * bound) * np.log(20) / len(draws)
    assert 0 < mass[in_hole].sum() / mass.sum() < hidden_mass
    # Without its bound the model would be nothing but the hole.
    free = EnergyModel(hole, base)
    mass = np.asarray(jax.vmap(free.unnormalized_log_prob)(middle), np.float64)
    mass = np.exp(mass - mass.max()) * np.diff(side)
    assert mass[in_hole].sum() / mass.sum() > 0.999
