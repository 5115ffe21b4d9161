"""Space to channels."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class Squeeze(AbstractConstantJacobianLayer):
    r"""Turns each $f \times f$ patch of pixels into channels: `(c, h, w)` to `(cf², h/f, w/f)`.

    $\log|\det J| = 0$.

    Args:
        shape: Shape of one image, `(c, h, w)`.
        factor: The patch's side $f$.

    Raises:
        ValueError: If the factor does not divide height and width.

    Source: Dinh, Sohl-Dickstein, Bengio (2017), section 3.6.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    factor: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if len(self.shape) != 3 or any(side % self.factor for side in self.shape[1:]):
            raise Refused(
                f"A Squeeze by {self.factor} needs an image shape (c, h, w) with height and width "
                f"divisible by {self.factor}; got {self.shape}."
            )

    @property
    def out_shape(self) -> tuple[int, ...]:
        c, h, w = self.shape
        return (c * self.factor**2, h // self.factor, w // self.factor)

    def forward(self, x: Float[Array, "c h w"]) -> Float[Array, "c*f*f h/f w/f"]:
        c, h, w = self.shape
        f = self.factor
        patches = x.reshape(c, h // f, f, w // f, f)
        return patches.transpose(0, 2, 4, 1, 3).reshape(self.out_shape)

    def inverse(self, y: Float[Array, "c*f*f h/f w/f"]) -> Float[Array, "c h w"]:
        c, h, w = self.shape
        f = self.factor
        patches = y.reshape(c, f, f, h // f, w // f)
        return patches.transpose(0, 3, 1, 4, 2).reshape(self.shape)

    def log_det(self) -> Scalar:
        return jnp.zeros(())
