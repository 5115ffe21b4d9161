"""What is computed of points in parts: the numbers, and how often devices add them up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from flowebm.models import over_points
from flowebm.models.over_points import mean_over_points, values_of_both

FOUR_DEVICES = AbstractMesh((4, 1), ("data", "model"))


def mean_loss(model, x):
    return jnp.mean((x @ model["weight"] + model["bias"]) ** 2) + model["scale"][0]


def exchanges(model, n):
    """The shapes that a gradient adds up over four devices."""
    with jax.sharding.use_abstract_mesh(FOUR_DEVICES):
        gradient = jax.make_jaxpr(jax.grad(lambda m, x: mean_over_points(mean_loss, m, x)))
        found = gradient(model, jnp.ones((n, 3)))
    return [eqn.invars[0].aval.shape for eqn in equations(found.jaxpr) if "psum" in str(eqn)]


def equations(jaxpr):
    """All innermost equations."""
    for eqn in jaxpr.eqns:
        inner = [p for p in eqn.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        if inner:
            yield from equations(getattr(inner[0], "jaxpr", inner[0]))
        else:
            yield eqn


@pytest.fixture
def model():
    return {"weight": jnp.ones((3, 2)), "bias": jnp.zeros(2), "scale": jnp.ones(1)}


def test_gradients_of_short_arrays_are_added_up_as_one(model, monkeypatch):
    assert exchanges(model, 8) == [(9,)]
    monkeypatch.setattr(over_points, "SHORT", 5)
    assert sorted(exchanges(model, 8)) == [(3,), (3, 2)]


def test_points_that_the_devices_do_not_divide_are_left_to_the_compiler(model):
    assert exchanges(model, 6) == []


def test_values_of_both_are_those_of_either():
    def value(x):
        return jnp.sum(x**3)

    points = jax.random.normal(jax.random.key(0), (5, 2))
    sets = points[:3], points[3:]
    for found, expected in zip(values_of_both(value, *sets), sets, strict=True):
        np.testing.assert_array_equal(found, jax.vmap(value)(expected))
