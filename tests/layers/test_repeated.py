"""A loop over layers of one form is the chain of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.layers import ActNorm, Chain, FullLinear, Repeated, SmoothLeakyReLU, Squeeze


def _step(key):
    return (
        FullLinear(jax.random.normal(key, (4, 4)), jnp.ones(4)),
        SmoothLeakyReLU((4,)),
        ActNorm((4,)),
    )


def test_a_loop_starts_and_maps_as_a_chain_does():
    """Act-norms start from what the steps before make of the batch; then forwards, backwards and
    both log-determinants are those of the steps one after the other."""
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.random.normal(jax.random.key(1), (50, 4))
    loop = Repeated(_step, keys).initialized(batch)
    chain = Chain([layer for key in keys for layer in _step(key)]).initialized(batch)
    y, log_det = jax.vmap(chain.forward_and_data_dependent_log_det)(batch)
    y_loop, log_det_loop = jax.vmap(loop.forward_and_data_dependent_log_det)(batch)
    np.testing.assert_allclose(y_loop, y, rtol=1e-9)
    np.testing.assert_allclose(log_det_loop, log_det, rtol=1e-9)
    np.testing.assert_allclose(loop.constant_log_det(), chain.constant_log_det(), rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(loop.inverse)(y), batch, rtol=1e-6, atol=1e-9)
    assert np.std(y_loop, axis=0) == pytest.approx(np.ones(4))


def test_a_step_is_compiled_once_however_many_there_are():
    """The program of a gradient of a gradient is as long for ten steps as for two."""

    def length(n):
        layer = Repeated(_step, jax.random.split(jax.random.key(0), n))
        arrays, static = eqx.partition(layer, eqx.is_array)

        def slope(arrays, x):
            return jax.grad(lambda x: jnp.sum(eqx.combine(arrays, static).forward(x) ** 2))(x)

        text = jax.jit(jax.grad(lambda a, x: jnp.sum(slope(a, x) ** 2))).lower(arrays, jnp.ones(4))
        return len(text.as_text().splitlines())

    assert length(10) == length(2)


def test_steps_that_change_the_shape_are_refused():
    with pytest.raises(ValueError, match="return points of the shape that they take"):
        Repeated(lambda key: [Squeeze((1, 4, 4))], jax.random.split(jax.random.key(0), 2))
