"""Bounded tilts: no network makes an energy that draws of its base could miss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.models import EnergyModel, MLPTilt
from flowebm.models.bases import gaussian_base
from flowebm.models.bounded import BoundedTilt, LogRatio, NoTilt, tilts
from flowebm.models.recipe import build, describe
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


@pytest.fixture
def half_way():
    """The geometric mean of N(0, 1) and N(2, 1), which is N(1, 1) but for a constant."""
    base, other = Normal(jnp.zeros(1)), EnergyModel(NoTilt(), Normal(jnp.full(1, 2.0)))
    ratio = LogRatio(other, base, jnp.array(0.3), jnp.array(0.5))
    return EnergyModel(BoundedTilt(ratio, 50.0), base)


def test_a_log_ratio_makes_the_geometric_mean(half_way):
    points = jnp.linspace(-3, 4, 29)[:, None]
    expected = Normal(jnp.ones(1)).log_prob(points)
    found = jax.vmap(half_way.unnormalized_log_prob)(points)
    # tanh takes (u / B)² / 3 of what it bounds.
    np.testing.assert_allclose(found - found[14], expected - expected[14], atol=0.02)


def test_a_log_ratio_is_bounded(half_way):
    model = eqx.tree_at(lambda m: m.tilt, half_way, BoundedTilt(half_way.tilt.tilt, 0.7))
    points = 30 * jr.normal(jr.key(0), (500, 1))
    values = tilts(model.tilt, points)
    assert 0.6 < float(jnp.abs(values).max()) <= 0.7 * (1 + 1e-6)


def test_a_log_ratio_is_built_from_its_recipe():
    def gaussian(seed):
        return gaussian_base(jr.normal(jr.key(seed), (100, 2)))

    ratio = LogRatio(EnergyModel(NoTilt(), gaussian(0)), gaussian(1), jnp.ones(()), jnp.ones(()))
    points = jr.normal(jr.key(2), (10, 2))
    np.testing.assert_array_equal(tilts(build(*describe(ratio)), points), tilts(ratio, points))
