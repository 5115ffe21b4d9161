"""A k×k convolution of an image on a torus."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Scalar

from flowebm.layers.convolution import ConvolutionMethod, check_convolution, convolve
from flowebm.layers.layer import AbstractConstantJacobianLayer


class CircularConv2d(AbstractConstantJacobianLayer):
    r"""A 'same' convolution with circular padding, from $c$ channels to $c$ channels.

    $y_{o,i,j} = b_o + \sum_{c,a,b} K_{o,c,a,b}\, x_{c,\,(i+a-r) \bmod h,\,(j+b-r) \bmod w}$.
    The Fourier transform makes it one $c \times c$ matrix $\hat K(f)$ per frequency, so that
    $\log|\det J| = \sum_f \log|\det \hat K(f)|$ and the inverse is a small solve per frequency:
    $O(hw(c^3 + c^2 \log hw))$ at any image size.

    Args:
        kernel: $K$, shape `(c, c, k, k)` with odd $k$.
        bias: $b$, shape `(c,)`.
        shape: Shape of one image, `(c, h, w)`.
        method: How `forward` computes the map, see `flowebm.layers.convolution.convolve`.

    Raises:
        ValueError: If the shapes do not agree, $k$ is even, or the method is unknown.

    Source: Karami et al. (2019), *Invertible Convolutional Flow*, section 3.
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

    def spectrum(self) -> Complex[Array, "h w c c"]:
        r"""The matrices $\hat K(f)$, by frequency."""
        k = self.kernel.shape[-1]
        _, h, w = self.shape
        offsets = k // 2 - np.arange(k)
        rows, columns = offsets % h, offsets % w
        # Taps that fall on the same pixel of a small torus add up.
        wrapped = jnp.zeros((*self.kernel.shape[:2], h, w), self.kernel.dtype)
        wrapped = wrapped.at[:, :, rows[:, None], columns[None, :]].add(self.kernel)
        return jnp.moveaxis(jnp.fft.fft2(wrapped), (2, 3), (0, 1))

    def forward(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        y = convolve(self.kernel, x, method=self.method, circular=True)
        return y + self.bias[:, None, None]

    def inverse(self, y: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        target = jnp.moveaxis(jnp.fft.fft2(y - self.bias[:, None, None]), 0, -1)
        solution = jnp.linalg.solve(self.spectrum(), target[..., None])[..., 0]
        return jnp.fft.ifft2(jnp.moveaxis(solution, -1, 0)).real

    def log_det(self) -> Scalar:
        return jnp.linalg.slogdet(self.spectrum())[1].sum()
