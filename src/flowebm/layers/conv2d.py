"""A k×k convolution of an image that is zero outside its borders."""

from math import prod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.convolution import ConvolutionMethod, check_convolution, convolve, shifts
from flowebm.layers.layer import AbstractConstantJacobianLayer


class Conv2d(AbstractConstantJacobianLayer):
    r"""A 'same' convolution with zero padding, from $c$ channels to $c$ channels.

    $y_{o,i,j} = b_o + \sum_{c,a,b} K_{o,c,a,b}\, x_{c,\,i+a-r,\,j+b-r}$, $r = (k-1)/2$.
    It is a linear map with a $chw \times chw$ matrix $M$; the inverse solves with $M$ and the
    log-determinant factorises it, exactly, once for all the points of a `jax.vmap`.

    Args:
        kernel: $K$, shape `(c, c, k, k)` with odd $k$.
        bias: $b$, shape `(c,)`.
        shape: Shape of one image, `(c, h, w)`.
        method: How `forward` computes the map, whose parameters stay the kernel, see
            `flowebm.layers.convolution.convolve`.

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
        self.method = method
        check_convolution(self.kernel.shape, self.bias.shape, self.shape, method)

    def matrix(self) -> Float[Array, "chw chw"]:
        """The matrix $M$ of the map, without its bias."""
        k = self.kernel.shape[-1]
        rows, columns = (shifts(size, k) for size in self.shape[1:])
        matrix = jnp.einsum("ocab,aij,bpq->oipcjq", self.kernel, rows, columns)
        size = prod(self.shape)
        return matrix.reshape(size, size)

    def forward(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        y = convolve(self.kernel, x, method=self.method)
        return y + self.bias[:, None, None]

    def inverse(self, y: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        linear = y - self.bias[:, None, None]
        return jnp.linalg.solve(self.matrix(), linear.ravel()).reshape(self.shape)

    def log_det(self) -> Scalar:
        return jnp.linalg.slogdet(self.matrix())[1]
