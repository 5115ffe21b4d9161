"""What is built alike shares its functions: a second fit then compiles nothing anew."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from flowebm.models.architecture import Architecture, build
from flowebm.models.bases import gaussian_base
from flowebm.models.flows import FLOW_KINDS, make_flow
from flowebm.training.optimizers import clipped_adam, clipped_muon


@eqx.filter_jit
def log_prob(flow, x):
    return flow.log_prob(x)


def static_part(tree):
    return eqx.partition(tree, eqx.is_array)[1]


@pytest.mark.parametrize("kind", FLOW_KINDS)
def test_flows_built_alike_differ_in_their_arrays_alone(kind):
    first, second = (
        make_flow(kind, (3,), layers=2, width=8, depth=1, key=jax.random.key(k)) for k in (0, 1)
    )
    assert static_part(first) == static_part(second)
    x = jnp.array([0.3, -0.2, 1.0])
    assert log_prob(first, x) != log_prob(second, x)


def test_choices_that_functions_depend_on_are_not_shared():
    key, x = jax.random.key(0), jnp.array([1.5, 2.5])
    wide, narrow = (
        make_flow("spline-coupling", (2,), layers=2, width=8, interval=i, key=key)
        for i in (5.0, 2.0)
    )
    again = make_flow("spline-coupling", (2,), layers=2, width=8, interval=5.0, key=key)
    assert log_prob(wide, x) != log_prob(narrow, x)
    assert log_prob(wide, x) == log_prob(again, x)


def test_models_built_alike_differ_in_their_arrays_alone():
    def built(seed):
        data = jax.random.normal(jax.random.key(seed), (50, 2))
        return build(
            Architecture(width=8, flow_layers=2), (2,), data=data, key=jax.random.key(seed)
        )

    assert static_part(built(0)) == static_part(built(1))


def test_gaussians_keep_their_own_moments():
    near = jax.random.normal(jax.random.key(0), (500, 2))
    first, second = gaussian_base(near), gaussian_base(near + 5.0)
    assert log_prob(first, jnp.zeros(2)) > log_prob(second, jnp.zeros(2)) + 5
    assert static_part(first) == static_part(second)


def test_optimizers_of_the_same_numbers_are_the_same_object():
    assert clipped_adam(1.0, 1e-3) is clipped_adam(1.0, 1e-3)
    assert clipped_muon(1.0, 1e-3, 0.1) is clipped_muon(1.0, 1e-3, 0.1)
    assert clipped_adam(1.0, 1e-3) is not clipped_adam(1.0, 2e-3)


@pytest.mark.parametrize("kind", FLOW_KINDS)
def test_what_was_built_for_its_shapes_alone_is_not_shared(kind):
    """As loading does, first of all in a process: its functions hold tracers."""

    def built(key):
        return make_flow(kind, (2,), layers=1, width=5, depth=1, key=key)

    eqx.filter_eval_shape(built, jax.random.key(0))
    flow = built(jax.random.key(0))
    assert jnp.isfinite(log_prob(flow, jnp.ones(2)))
