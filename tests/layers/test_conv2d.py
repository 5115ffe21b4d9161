"""The ways to compute a convolution against the direct one, with their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.layers import Conv2d
from flowebm.layers.conv2d import convolution_method


def _derivatives(method, kernel, x, direction):
    """The convolution, and what `ssm` takes of it, with the gradient in kernel and image."""

    def convolved(kernel, x):
        bias = jnp.arange(1.0, 1 + x.shape[0])
        return Conv2d(kernel, bias, x.shape, method=method).forward(x)

    def slice_of_hessian(kernel, x):
        def score(x):
            return jax.grad(lambda x: jnp.sum(jnp.sin(convolved(kernel, x))))(x)

        return jnp.sum(direction * jax.jvp(score, (x,), (direction,))[1])

    return convolved(kernel, x), jax.value_and_grad(slice_of_hessian, argnums=(0, 1))(kernel, x)


@pytest.mark.parametrize("method", ["matrix", "rows", "auto"])
@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 2, 5)])
def test_every_method_is_the_direct_convolution(method, shape):
    k, channels = 5, shape[0]
    kernel_key, x_key, direction_key = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(kernel_key, (channels, channels, k, k))
    x, direction = (jax.random.normal(key, shape) for key in (x_key, direction_key))
    assert x.dtype == jnp.float64
    derivatives = jax.jit(_derivatives, static_argnums=0)
    ours = derivatives(method, kernel, x, direction)
    expected = derivatives("direct", kernel, x, direction)
    for leaf, expected_leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-11, atol=1e-11)


def test_the_method_goes_by_shape_and_backend():
    assert convolution_method((1, 28, 28), 7, "cpu") == "rows"
    assert convolution_method((4, 14, 14), 7, "cpu") == "rows"
    assert convolution_method((16, 7, 7), 7, "cpu") == "matrix"
    assert convolution_method((3, 32, 32), 7, "cpu") == "direct"
    assert convolution_method((1, 28, 28), 7, "gpu") == "direct"


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'fft'"):
        Conv2d(jnp.zeros((1, 1, 3, 3)), jnp.zeros(1), (1, 4, 4), method="fft")
