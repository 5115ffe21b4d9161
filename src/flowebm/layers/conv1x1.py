"""A linear map of the channels of an image, the same at every pixel."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class Conv1x1(AbstractConstantJacobianLayer):
    r"""The invertible 1×1 convolution $y_{:,i,j} = W x_{:,i,j}$.

    $\log|\det J| = h w \log|\det W|$.

    Args:
        weight: $W$, shape `(c, c)`.
        shape: Shape of one image, `(c, h, w)`.

    Raises:
        ValueError: If the shapes do not agree.

    Source: Kingma, Dhariwal (2018), section 3.2.
    """

    weight: Float[Array, "c c"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, weight: Array, shape: tuple[int, ...]):
        self.weight = jnp.asarray(weight)
        self.shape = tuple(shape)
        if len(self.shape) != 3 or self.weight.shape != (self.shape[0],) * 2:
            raise Refused(
                "A Conv1x1 needs an image shape (c, h, w) and a weight of shape (c, c); got "
                f"{self.shape} and {self.weight.shape}."
            )

    def forward(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        return jnp.einsum("oc,chw->ohw", self.weight, x)

    def inverse(self, y: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        return jnp.linalg.solve(self.weight, y.reshape(self.shape[0], -1)).reshape(self.shape)

    def log_det(self) -> Scalar:
        return self.shape[1] * self.shape[2] * jnp.linalg.slogdet(self.weight)[1]
