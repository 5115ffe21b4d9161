"""A fixed reordering of channels or features."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class Permutation(AbstractConstantJacobianLayer):
    r"""The permutation $y_i = x_{\pi(i)}$ along the first axis; $\log|\det J| = 0$.

    Args:
        order: $\pi$, a permutation of `0, ..., c - 1`.
        shape: Shape of one point, `(c, ...)`; `(c,)` if not given.

    Raises:
        ValueError: If `order` is not a permutation of the first axis.

    Source: Kingma, Dhariwal (2018), section 3.2, whose 1×1 convolution generalises it.
    """

    order: Int[Array, " c"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, order: Array | np.ndarray, shape: tuple[int, ...] | None = None):
        self.order = jnp.asarray(order)
        self.shape = self.order.shape if shape is None else tuple(shape)
        if not np.array_equal(np.sort(order), np.arange(self.shape[0])):
            raise Refused(
                f"A Permutation of shape {self.shape} needs each of 0 to {self.shape[0] - 1} "
                f"exactly once in its order; got {self.order.tolist()}."
            )

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x[self.order]

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return y[jnp.argsort(self.order)]

    def log_det(self) -> Scalar:
        return jnp.zeros(())
