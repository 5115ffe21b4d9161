"""The ways to compute a convolution against the direct one, with their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.layers import CircularConv2d, Conv2d
from flowebm.layers.convolution import convolution_method


def _derivatives(layer, method, kernel, x, direction):
    """The convolution, and what `ssm` takes of it, with the gradient in kernel and image."""

    def convolved(kernel, x):
        bias = jnp.arange(1.0, 1 + x.shape[0])
        return layer(kernel, bias, x.shape, method=method).forward(x)

    def slice_of_hessian(kernel, x):
        def score(x):
            return jax.grad(lambda x: jnp.sum(jnp.sin(convolved(kernel, x))))(x)

        return jnp.sum(direction * jax.jvp(score, (x,), (direction,))[1])

    return convolved(kernel, x), jax.value_and_grad(slice_of_hessian, argnums=(0, 1))(kernel, x)


@pytest.mark.parametrize("layer", [Conv2d, CircularConv2d])
@pytest.mark.parametrize("method", ["rows", "auto"])
@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 2, 5)])
def test_every_method_is_the_direct_convolution(layer, method, shape):
    k, channels = 5, shape[0]
    kernel_key, x_key, direction_key = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(kernel_key, (channels, channels, k, k))
    x, direction = (jax.random.normal(key, shape) for key in (x_key, direction_key))
    assert x.dtype == jnp.float64
    derivatives = jax.jit(_derivatives, static_argnums=(0, 1))
    ours = derivatives(layer, method, kernel, x, direction)
    expected = derivatives(layer, "direct", kernel, x, direction)
    for leaf, expected_leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-11, atol=1e-11)


def test_the_method_goes_by_shape_and_backend():
    for shape in [(1, 28, 28), (4, 14, 14), (16, 7, 7), (3, 32, 32), (48, 8, 8)]:
        assert convolution_method(shape, 7, "cpu") == "rows"
    for shape in [(12, 16, 16), (48, 8, 8), (3, 64, 64)]:
        assert convolution_method(shape, 3, "cpu") == "direct"
    assert convolution_method((128, 8, 8), 7, "cpu") == "direct"
    assert convolution_method((1, 28, 28), 7, "gpu") == "direct"


def test_forward_is_the_matrix():
    kernel = jax.random.normal(jax.random.key(0), (2, 2, 3, 3))
    x = jax.random.normal(jax.random.key(1), (2, 5, 4))
    layer = Conv2d(kernel, jnp.arange(2.0), x.shape)
    expected = layer.matrix() @ x.ravel() + jnp.repeat(layer.bias, 20)
    np.testing.assert_allclose(layer.forward(x).ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize("layer", [Conv2d, CircularConv2d])
def test_an_unknown_method_is_refused(layer):
    with pytest.raises(ValueError, match="'fft'"):
        layer(jnp.zeros((1, 1, 3, 3)), jnp.zeros(1), (1, 4, 4), method="fft")
