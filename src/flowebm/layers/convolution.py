"""Ways to compute a convolution of an image, and which is faster."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flowebm.layers.canonical_convolution import canonical_convolution
from flowebm.layers.fourier_correlation import fourier_correlation
from flowebm.layers.leading_product import leading_product
from flowebm.refusal import Refused

#: How a convolution is computed.
ConvolutionMethod = Literal["auto", "direct", "rows", "fourier"]

#: From this side of the kernel on, transforms save more products than they cost.
_FOURIER_FROM = 5

#: How many kernels' widths an image may have, over its channels, or however many up to the most:
#: up to here the methods were measured to be faster than the direct one, by rows and by transforms.
_ROWS_OVER_CHANNELS, _ROWS_AT_ANY, _MOST_FOR_ROWS = 36.0, 1.2, 64
_FOURIER_OVER_CHANNELS, _FOURIER_AT_ANY, _MOST_FOR_FOURIER = 55.0, 1.6, 128


def convolution_method(
    shape: tuple[int, ...], kernel_size: int
) -> Literal["direct", "rows", "fourier"]:
    """The faster method on a CPU for value and gradients, by `benchmarks/convolutions.py`.

    Args:
        shape: Shape of one image, `(c, h, w)`.
        kernel_size: Side of the kernel.

    Returns:
        What `auto` stands for there.
    """
    channels, _, width = shape
    if kernel_size >= _FOURIER_FROM:
        method, over_channels = "fourier", _FOURIER_OVER_CHANNELS
        at_any, most = _FOURIER_AT_ANY, _MOST_FOR_FOURIER
    else:
        method, over_channels = "rows", _ROWS_OVER_CHANNELS
        at_any, most = _ROWS_AT_ANY, _MOST_FOR_ROWS
    widths = width / kernel_size
    is_faster = widths <= over_channels / channels or (widths <= at_any and channels <= most)
    return method if is_faster else "direct"


def convolve(
    kernel: Float[Array, "c c k k"],
    x: Float[Array, "c h w"],
    *,
    method: ConvolutionMethod = "auto",
    circular: bool = False,
) -> Float[Array, "c h w"]:
    r"""A 'same' convolution of one image.

    Args:
        kernel: $K$, shape `(c, c, k, k)` with odd $k$.
        x: The image, shape `(c, h, w)`.
        method: `direct`, by XLA's convolution; `rows`, by a convolution in one dimension along the
            image's height, whose channels are the $cw$ entries of a row and whose taps are $k$
            matrices, bands of the kernel's rows: more arithmetic, in products large enough for a
            CPU to make at a good rate; `fourier`, those products between Fourier transforms along
            the height, a third of them or less, see `fourier_correlation`; `auto`, what
            `convolution_method` says where the program is compiled for a CPU, and `direct`
            elsewhere, where nothing was measured.
        circular: Whether the image is periodic. Outside of it there are zeros otherwise.

    Returns:
        The convolved image, shape `(c, h, w)`.
    """
    if method == "auto":
        method = convolution_method(x.shape, kernel.shape[-1])
        if method != "direct":
            return jax.lax.platform_dependent(
                kernel,
                x,
                cpu=partial(convolve, method=method, circular=circular),
                default=partial(convolve, method="direct", circular=circular),
            )
    k = kernel.shape[-1]
    channels, height, width = x.shape
    ends = (k // 2, k // 2)
    along, across = [ends], [ends, ends]
    if method == "fourier":
        return _convolve_between_transforms(kernel, x, circular=circular)
    if circular:
        x = jnp.pad(x, ((0, 0), ends, (0, 0)), mode="wrap")
        along = [(0, 0)]
    if method == "direct":
        if circular:
            x = jnp.pad(x, ((0, 0), (0, 0), ends), mode="wrap")
            across = [(0, 0), (0, 0)]
        taps = jnp.transpose(kernel, (2, 3, 1, 0))
        y = canonical_convolution(jnp.moveaxis(x, 0, -1)[None], taps, padding=across)
        return jnp.moveaxis(y[0], -1, 0)
    rows = jnp.moveaxis(x, 1, 0).reshape(1, -1, channels * width)
    y = canonical_convolution(rows, _bands(kernel, width, circular=circular), padding=along)
    return jnp.moveaxis(y.reshape(height, channels, width), 0, 1)


def _convolve_between_transforms(kernel, x, *, circular):
    """The convolution by rows, which are transformed along the height."""
    channels, height, width = x.shape
    matrices = fourier_correlation(height, kernel.shape[-1], circular=circular)
    backward, forward, to_kernels = (jnp.asarray(matrix, x.dtype) for matrix in matrices)
    kernels = leading_product(to_kernels, _bands(kernel, width, circular=circular))
    rows = leading_product(forward, jnp.moveaxis(x, 1, 0).reshape(height, -1))
    y = leading_product(backward, jnp.einsum("mp,mpq->mq", rows, kernels))
    return jnp.moveaxis(y.reshape(height, channels, width), 0, 1)


def _bands(kernel, width, *, circular):
    """The matrices of a kernel's rows, which a row of an image multiplies from the left."""
    channels, _, k, _ = kernel.shape
    # Such a matrix is constant along its diagonals: its rows are pieces of one vector. Of products
    # with the taps' places, which would do too, every number had to be moved again.
    apart = (k // 2 - np.arange(k))[:, None] - np.arange(1 - width, width)
    reads = ((apart % width if circular else apart) == 0).astype(np.float32)
    diagonals = jnp.einsum("ocab,bi->acoi", kernel, reads)
    rows = [diagonals[..., width - 1 - i : 2 * width - 1 - i] for i in range(width)]
    return jnp.stack(rows, axis=2).reshape(k, channels * width, channels * width)


def check_convolution(
    kernel: tuple[int, ...], bias: tuple[int, ...], shape: tuple[int, ...], method: str
) -> None:
    """Refuse what maps no images of `shape` to images of the same shape, and unknown methods.

    Raises:
        ValueError: If the shapes do not agree, the kernel's side is even or the method unknown.
    """
    agree = len(shape) == 3 and len(kernel) == 4 and kernel[2] == kernel[3]
    if not agree or kernel[:2] != (shape[0],) * 2 or bias != (shape[0],):
        raise Refused(
            "An invertible convolution needs an image shape (c, h, w), a kernel of shape "
            f"(c, c, k, k) and a bias of shape (c,); got {shape}, {kernel} and {bias}."
        )
    if kernel[-1] % 2 == 0:
        raise Refused(f"An invertible convolution needs an odd kernel side; got {kernel[-1]}.")
    if method not in get_args(ConvolutionMethod):
        raise Refused(
            f"Unknown method {method!r} of a convolution: choose one of "
            f"{', '.join(get_args(ConvolutionMethod))}."
        )


def shifts(size: int, k: int) -> np.ndarray:
    """What each of `k` taps reads of a row that ends in zeros.

    Args:
        size: Entries of a row.
        k: Number of taps, odd.

    Returns:
        Array `(k, size, size)` whose entry `[a, i, j]` says whether tap `a` reads `j` for output
        `i`.
    """
    offsets = range(-(k // 2), k - k // 2)
    return np.stack([np.eye(size, k=n, dtype=np.float32) for n in offsets])
