"""A convolution with channels last, whose derivatives are convolutions with channels last."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

#: Names of the axes of images, kernels and results, by the number of spatial dimensions.
_AXES = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def canonical_convolution(
    x: Float[Array, "batch *space in_channels"],
    kernel: Float[Array, "*taps in_channels out_channels"],
    *,
    padding: Sequence[tuple[int, int]],
    strides: Sequence[int] | None = None,
) -> Float[Array, "batch *out_space out_channels"]:
    r"""$y_{n,i,o} = \sum_{a,c} K_{a,c,o}\, x_{n,\,s i + a - p,\,c}$ in one or two dimensions.

    XLA's fast convolution for CPUs wants channels last. It brings others to this form, but not
    within loops, where it falls back to one that is several times as slow; and the derivatives that
    JAX derives from a convolution are never in this form. Those of this one are: each is written as
    such a convolution again, to any order, forwards and backwards (`docs/ebflow.md`).

    Args:
        x: Images, or rows, channels last.
        kernel: $K$.
        padding: Zeros before and after each spatial dimension; $p$ is the first of them.
        strides: $s$ in each spatial dimension; one by default.

    Returns:
        The convolved images.
    """
    ones = (1,) * len(padding)
    return _convolution.bind(
        x,
        kernel,
        strides=ones if strides is None else tuple(strides),
        padding=tuple(map(tuple, padding)),
        lhs_dilation=ones,
        rhs_dilation=ones,
    )


def _convolve(x, kernel, *, strides, padding, lhs_dilation, rhs_dilation):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation, _AXES[len(strides)]
    )


def _shape(x, kernel, **parameters):
    given = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel))
    result = jax.eval_shape(partial(_convolve, **parameters), *given)
    return ShapedArray(result.shape, result.dtype)


def _to_images(y, x, kernel, *, strides, padding, lhs_dilation, rhs_dilation):
    """The transpose in the images: with the kernel turned around and its channels exchanged."""
    lengths = _lengths(x.aval, kernel, y, strides, lhs_dilation, rhs_dilation)
    pads = [
        (taps - 1 - before, image - result + before)
        for (image, taps, result), (before, _) in zip(lengths, padding, strict=True)
    ]
    turned = jnp.swapaxes(jnp.flip(kernel, range(kernel.ndim - 2)), -1, -2)
    return _convolution.bind(
        y,
        turned,
        strides=lhs_dilation,
        padding=tuple(pads),
        lhs_dilation=strides,
        rhs_dilation=rhs_dilation,
    )


def _to_kernel(y, x, kernel, *, strides, padding, lhs_dilation, rhs_dilation):
    """The transpose in the kernel: of images as channels, with results for a kernel."""
    lengths = _lengths(x, kernel.aval, y, strides, lhs_dilation, rhs_dilation)
    pads = [
        (before, result - image + taps - 1 - before)
        for (image, taps, result), (before, _) in zip(lengths, padding, strict=True)
    ]
    out = _convolution.bind(
        jnp.swapaxes(x, 0, -1),
        jnp.moveaxis(y, 0, -2),
        strides=rhs_dilation,
        padding=tuple(pads),
        lhs_dilation=lhs_dilation,
        rhs_dilation=strides,
    )
    return jnp.moveaxis(out, 0, -2)


def _lengths(x, kernel, y, strides, lhs_dilation, rhs_dilation):
    """What images, kernel and results span in each dimension, with the gaps between entries."""
    spans = (
        [(size - 1) * step + 1 for size, step in zip(sizes, steps, strict=True)]
        for sizes, steps in (
            (x.shape[1:-1], lhs_dilation),
            (kernel.shape[:-2], rhs_dilation),
            (y.shape[1:-1], strides),
        )
    )
    return zip(*spans, strict=True)


def _batched(arguments, axes, **parameters):
    """Further images go with the images, further kernels with the channels that leave."""
    (x, kernel), (x_axis, kernel_axis) = arguments, axes
    if kernel_axis is None:
        x = jnp.moveaxis(x, x_axis, 0)
        y = _convolution.bind(x.reshape(-1, *x.shape[2:]), kernel, **parameters)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    if x_axis is None:
        kernel = jnp.moveaxis(kernel, kernel_axis, -2)
        y = _convolution.bind(x, kernel.reshape(*kernel.shape[:-2], -1), **parameters)
        return y.reshape(*y.shape[:-1], *kernel.shape[-2:]), y.ndim - 1
    return jax.vmap(partial(_convolve, **parameters), axes)(x, kernel), 0


_convolution = Primitive("canonical_convolution")
_convolution.def_impl(_convolve)
_convolution.def_abstract_eval(_shape)
ad.defbilinear(_convolution, _to_images, _to_kernel)
batching.primitive_batchers[_convolution] = _batched
mlir.register_lowering(_convolution, mlir.lower_fun(_convolve, multiple_results=False))
