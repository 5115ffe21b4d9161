"""Act-norm's start from a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.layers import ActNorm, Chain, SmoothLeakyReLU, Squeeze


@pytest.mark.parametrize("shape", [(3,), (3, 2, 4)])
def test_outputs_start_at_mean_zero_and_variance_one(shape):
    rng = np.random.default_rng(0)
    scale = np.array([0.01, 1.0, 50.0]).reshape(-1, *(1,) * (len(shape) - 1))
    batch = jnp.asarray(scale * (5 + rng.standard_normal((20, *shape))))
    y = jax.vmap(ActNorm(shape).initialized(batch).forward)(batch)
    axes = (0, *range(2, y.ndim))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-10)
    np.testing.assert_allclose(y.var(axes), 1, rtol=1e-10)


def test_a_constant_channel_keeps_a_finite_scale():
    layer = ActNorm((2,)).initialized(jnp.array([[1.0, 7.0], [3.0, 7.0]]))
    np.testing.assert_allclose(layer.forward(jnp.array([1.0, 7.5])), [-1.0, 0.5])


def test_every_act_norm_of_a_chain_starts_from_its_own_inputs():
    chain = Chain([ActNorm((1, 2, 2)), SmoothLeakyReLU((1, 2, 2)), Squeeze((1, 2, 2))])
    chain = Chain([chain, ActNorm((4, 1, 1))])
    batch = jnp.asarray(np.random.default_rng(0).gamma(2.0, size=(50, 1, 2, 2)))
    y = jax.vmap(chain.initialized(batch).forward)(batch)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1, rtol=1e-12)


def test_mismatched_parameters_are_refused():
    with pytest.raises(ValueError, match="needs a loc and a log_scale of shape"):
        ActNorm((3,), jnp.zeros(2))
