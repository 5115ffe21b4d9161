"""A linear map with a full matrix."""

from math import prod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class FullLinear(AbstractConstantJacobianLayer):
    r"""The linear map $y = W x + b$ of the flattened point, with any invertible matrix.

    `forward` costs $O(D^2)$; `log_det` and `inverse` factorise $W$ in $O(D^3)$, once for all
    the points of a `jax.vmap`.

    Args:
        weight: $W$, shape `(D, D)`.
        bias: $b$, shape `(D,)`.
        shape: Shape of one point, with $D$ entries; `(D,)` if not given.

    Raises:
        ValueError: If the shapes do not agree.

    Source: Chao et al. (2023), section 4.
    """

    weight: Float[Array, "d d"]
    bias: Float[Array, " d"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, weight: Array, bias: Array, shape: tuple[int, ...] | None = None):
        self.weight = jnp.asarray(weight)
        self.bias = jnp.asarray(bias)
        self.shape = self.bias.shape if shape is None else tuple(shape)
        size = prod(self.shape)
        if self.weight.shape != (size, size) or self.bias.shape != (size,):
            raise Refused(
                f"A FullLinear of shape {self.shape} needs a weight of shape {(size, size)} and a "
                f"bias of shape {(size,)}; got {self.weight.shape} and {self.bias.shape}."
            )

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (self.weight @ x.ravel() + self.bias).reshape(self.shape)

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.linalg.solve(self.weight, y.ravel() - self.bias).reshape(self.shape)

    def log_det(self) -> Scalar:
        return jnp.linalg.slogdet(self.weight)[1]
