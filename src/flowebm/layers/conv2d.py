"""A k×k convolution of an image that is zero outside its borders."""

from math import prod
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer

#: How a convolution is computed.
ConvolutionMethod = Literal["auto", "direct", "matrix", "rows"]


class Conv2d(AbstractConstantJacobianLayer):
    r"""A 'same' convolution with zero padding, from $c$ channels to $c$ channels.

    $y_{o,i,j} = b_o + \sum_{c,a,b} K_{o,c,a,b}\, x_{c,\,i+a-r,\,j+b-r}$, $r = (k-1)/2$.
    It is a linear map with a $chw \times chw$ matrix $M$; the inverse solves with $M$ and the
    log-determinant factorises it, exactly, once for all the points of a `jax.vmap`.

    Args:
        kernel: $K$, shape `(c, c, k, k)` with odd $k$.
        bias: $b$, shape `(c,)`.
        shape: Shape of one image, `(c, h, w)`.
        method: How `forward` computes the map, whose parameters stay the kernel: `direct`, by
            XLA's convolution; `matrix`, by a product with $M$; `rows`, by a product of every
            $k$ rows of the image with a $kcw \times cw$ band matrix, which is less arithmetic
            than with $M$ unless $k$ is near $h$; `auto`, what `convolution_method` says.

    Raises:
        ValueError: If the shapes do not agree, $k$ is even, or the method is unknown.

    Source: Chao et al. (2023), section 5.2.
    """

    kernel: Float[Array, "c c k k"]
    bias: Float[Array, " c"]
    shape: tuple[int, ...] = eqx.field(static=True)
    method: ConvolutionMethod = eqx.field(static=True)

    def __init__(
        self,
        kernel: Array,
        bias: Array,
        shape: tuple[int, ...],
        *,
        method: ConvolutionMethod = "auto",
    ):
        self.kernel = jnp.asarray(kernel)
        self.bias = jnp.asarray(bias)
        self.shape = tuple(shape)
        check_convolution_shapes(self.kernel.shape, self.bias.shape, self.shape)
        if method not in get_args(ConvolutionMethod):
            raise ValueError(
                f"Unknown method {method!r} of a convolution: choose one of "
                f"{', '.join(get_args(ConvolutionMethod))}."
            )
        self.method = method

    def matrix(self) -> Float[Array, "chw chw"]:
        """The matrix $M$ of the map, without its bias."""
        k = self.kernel.shape[-1]
        rows, columns = (_shifts(size, k) for size in self.shape[1:])
        matrix = jnp.einsum("ocab,aij,bpq->oipcjq", self.kernel, rows, columns)
        size = prod(self.shape)
        return matrix.reshape(size, size)

    def forward(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        method = self.method
        if method == "auto":
            method = convolution_method(self.shape, self.kernel.shape[-1], jax.default_backend())
        if method == "matrix":
            y = (self.matrix() @ x.ravel()).reshape(self.shape)
        elif method == "rows":
            y = _convolve_by_rows(self.kernel, x)
        else:
            y = jax.lax.conv_general_dilated(x[None], self.kernel, (1, 1), "SAME")[0]
        return y + self.bias[:, None, None]

    def inverse(self, y: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        linear = y - self.bias[:, None, None]
        return jnp.linalg.solve(self.matrix(), linear.ravel()).reshape(self.shape)

    def log_det(self) -> Scalar:
        return jnp.linalg.slogdet(self.matrix())[1]


def convolution_method(shape: tuple[int, ...], kernel_size: int, backend: str) -> ConvolutionMethod:
    """The fastest method for a score-matching step, by `benchmarks/convolutions.py`.

    Args:
        shape: Shape of one image, `(c, h, w)`.
        kernel_size: Side of the kernel.
        backend: JAX's name of the platform. Elsewhere than on CPUs, and for images of more than
            1,024 entries, nothing was measured, and convolutions are direct.

    Returns:
        One of the methods of `Conv2d`.
    """
    if backend != "cpu" or prod(shape) > 1024:
        return "direct"
    return "rows" if shape[1] >= 2 * kernel_size else "matrix"


def _convolve_by_rows(
    kernel: Float[Array, "c c k k"], x: Float[Array, "c h w"]
) -> Float[Array, "c h w"]:
    channels, height, width = x.shape
    k = kernel.shape[-1]
    row = channels * width
    band = jnp.einsum("ocab,bpq->acqop", kernel, _shifts(width, k)).reshape(k * row, row)
    rows = jnp.pad(jnp.moveaxis(x, 1, 0).reshape(height, row), ((k // 2, k // 2), (0, 0)))
    gathered = jnp.concatenate([rows[a : a + height] for a in range(k)], axis=1)
    return jnp.moveaxis((gathered @ band).reshape(height, channels, width), 0, 1)


def check_convolution_shapes(
    kernel: tuple[int, ...], bias: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """Refuse kernels that do not map images of `shape` to images of the same shape.

    Raises:
        ValueError: If the shapes do not agree or the kernel's side is even.
    """
    agree = len(shape) == 3 and len(kernel) == 4 and kernel[2] == kernel[3]
    if not agree or kernel[:2] != (shape[0],) * 2 or bias != (shape[0],):
        raise ValueError(
            "An invertible convolution needs an image shape (c, h, w), a kernel of shape "
            f"(c, c, k, k) and a bias of shape (c,); got {shape}, {kernel} and {bias}."
        )
    if kernel[-1] % 2 == 0:
        raise ValueError(f"An invertible convolution needs an odd kernel side; got {kernel[-1]}.")


def _shifts(size: int, k: int) -> np.ndarray:
    """0/1 array `(k, size, size)`: entry `[a, i, j]` says that tap `a` reads `j` for output `i`."""
    return np.stack([np.eye(size, k=a - k // 2, dtype=np.float32) for a in range(k)])
