"""A convolution with channels last, as its derivatives are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flowebm.layers.canonical_convolution import canonical_convolution

#: Shape of the images, of the kernel, padding, strides.
CASES = {
    "rows": ((2, 5, 3), (3, 3, 4), [(1, 1)], [1]),
    "rows, uneven": ((2, 6, 2), (4, 2, 3), [(2, 1)], [1]),
    "images": ((2, 4, 5, 2), (3, 3, 2, 3), [(1, 1), (1, 1)], [1, 1]),
    "images, uneven": ((2, 4, 5, 2), (2, 3, 2, 1), [(0, 2), (1, 0)], [1, 1]),
    "every second pixel": ((2, 6, 5, 2), (3, 3, 2, 3), [(1, 1), (1, 1)], [2, 2]),
    "every second pixel, the last unread": ((1, 7, 8, 1), (3, 2, 1, 2), [(0, 0), (1, 0)], [3, 2]),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=CASES)
def case(request):
    shape, kernel_shape, padding, strides = CASES[request.param]
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(s)) for s in (shape, kernel_shape))
    return x, kernel, {"padding": padding, "strides": strides}


def with_channels_first(x, kernel, padding, strides):
    """The same by JAX's own convolution, channels first."""
    y = jax.lax.conv_general_dilated(
        jnp.moveaxis(x, -1, 1), jnp.moveaxis(kernel, (-1, -2), (0, 1)), strides, padding
    )
    return jnp.moveaxis(y, 1, -1)


def test_it_is_a_convolution(case):
    x, kernel, options = case
    ours = canonical_convolution(x, kernel, **options)
    assert jnp.abs(ours).max() > 0.1
    np.testing.assert_allclose(ours, with_channels_first(x, kernel, **options), rtol=1e-12)


def test_derivatives_of_every_kind_are_right(case):
    """Against finite differences, to the third order, forwards and backwards."""
    x, kernel, options = case
    cubed = lambda x, kernel: jnp.sum(canonical_convolution(x, kernel, **options) ** 3)  # noqa: E731
    # Compiled: operation by operation there are hundreds of programs.
    check_grads(jax.jit(cubed), (x, kernel), order=3, modes=["fwd", "rev"])

    def gradients(convolve):
        waves = lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, **options)))  # noqa: E731
        return jax.jit(jax.grad(waves, argnums=(0, 1)))(x, kernel)

    ours, theirs = gradients(canonical_convolution), gradients(with_channels_first)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("axes", [(0, None), (1, None), (None, 0), (None, 2), (1, 0)])
def test_batches_of_images_of_kernels_and_of_both(case, axes):
    x, kernel, options = case
    scales = jnp.array([1.0, -0.5, 2.0])
    arguments = [
        a if axis is None else jnp.stack([s * a for s in scales], axis)
        for a, axis in zip((x, kernel), axes, strict=True)
    ]
    single = lambda x, kernel: canonical_convolution(x, kernel, **options)  # noqa: E731
    batched = jax.vmap(single, in_axes=axes)(*arguments)
    power = 2 if None not in axes else 1
    expected = jnp.stack([s**power * single(x, kernel) for s in scales])
    np.testing.assert_allclose(batched, expected, rtol=1e-12, atol=1e-12)


def second_derivative_in_a_loop(convolve):
    """A descent of a squared gradient, as a training's block of iterations compiles it."""

    def iteration(_, kernel):
        def loss(kernel):
            energy = lambda x: jnp.sum(jnp.tanh(convolve(x[None], kernel)[0]))  # noqa: E731
            return jnp.sum(jax.vmap(jax.grad(energy))(x) ** 2)

        return kernel - 0.1 * jax.grad(loss)(kernel)

    x, kernel = jnp.ones((3, 6, 6, 2)), jnp.ones((3, 3, 2, 2))
    loop = jax.jit(lambda kernel: jax.lax.fori_loop(0, 3, iteration, kernel))
    return set(re.findall(r"dim_labels=(\S+?)[,\s]", loop.lower(kernel).compile().as_text()))


def test_all_derivatives_in_a_loop_have_channels_last():
    """In a loop XLA's CPU compiler takes its slow way for any other order."""
    options = {"padding": [(1, 1)] * 2}
    canonical = {"b01f_01io->b01f"}
    labels = second_derivative_in_a_loop(lambda *a: canonical_convolution(*a, **options))
    assert labels == canonical
    last = ("NHWC", "HWIO", "NHWC")
    labels = second_derivative_in_a_loop(
        lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=last)
    )
    assert labels - canonical, "JAX's own is as good now"
