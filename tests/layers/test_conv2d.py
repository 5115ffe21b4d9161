"""The ways to compute a convolution against the direct one, with their derivatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flowebm.layers import CircularConv2d, Conv2d
from flowebm.layers.convolution import convolution_method
from flowebm.layers.fourier_correlation import fourier_correlation
from flowebm.layers.leading_product import leading_product


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
@pytest.mark.parametrize("method", ["rows", "fourier", "auto"])
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
    for shape in [(1, 28, 28), (4, 14, 14), (16, 7, 7), (3, 32, 32), (48, 8, 8), (128, 8, 8)]:
        assert convolution_method(shape, 7) == "fourier"
    for shape in [(1, 28, 28), (4, 14, 14), (3, 32, 32)]:
        assert convolution_method(shape, 3) == "rows"
    for shape in [(12, 16, 16), (48, 8, 8), (3, 64, 64)]:
        assert convolution_method(shape, 3) == "direct"
    assert convolution_method((128, 16, 16), 7) == "direct"


def test_fourier_correlations_are_correlations_in_few_products():
    """Of zeros outside and of a circle, also where the taps are more than the entries."""
    rng = np.random.default_rng(0)
    for length, taps, circular in itertools.product((1, 4, 7, 28), (1, 3, 7), (False, True)):
        backward, forward, to_kernels = fourier_correlation(length, taps, circular=circular)
        x, kernel = rng.standard_normal(length), rng.standard_normal(taps)
        offsets = np.arange(taps) - taps // 2
        places = np.arange(length)[:, None] + offsets
        read = x[places % length]
        if not circular:
            read = np.where((places >= 0) & (places < length), read, 0.0)
        ours = backward @ ((to_kernels @ kernel) * (forward @ x))
        np.testing.assert_allclose(ours, read @ kernel, rtol=1e-12, atol=1e-12)
        period = length if circular else length + taps // 2
        assert len(forward) <= 1.5 * period


def test_a_leading_product_is_differentiated_to_products_from_the_left():
    matrix = np.random.default_rng(0).standard_normal((3, 4))
    x = jax.random.normal(jax.random.key(0), (5, 4, 2))

    def loss(product, x):
        return jnp.sum(jnp.sin(jax.vmap(lambda x: product(matrix, x))(x)))

    expected = jax.grad(lambda x: loss(lambda m, x: jnp.tensordot(m, x, 1), x))(x)
    np.testing.assert_allclose(jax.grad(lambda x: loss(leading_product, x))(x), expected, 1e-13)
    check_grads(lambda x: loss(leading_product, x), (x,), order=2, modes=["fwd", "rev"])
    check_grads(lambda m: leading_product(m, x[0]) ** 2, (matrix,), order=2, modes=["fwd", "rev"])
    matrices = jnp.stack([matrix, 2 * matrix], axis=-1)
    batched = jax.vmap(leading_product, in_axes=(-1, None))(matrices, x[0])
    np.testing.assert_allclose(batched[1], 2 * matrix @ x[0], 1e-13)
    program = str(jax.make_jaxpr(jax.grad(lambda x: loss(leading_product, x)))(x))
    assert program.count("leading_product") == 2
    assert "dot_general" not in program


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
