"""The leaky ReLU."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer
from flowebm.refusal import Refused


class LeakyReLU(AbstractDataDependentLayer):
    r"""$y = x$ for $x \ge 0$ and $\alpha x$ below.

    The density of a flow with it jumps where the slope does. Maximum likelihood does not mind;
    score matching never sees the jump and learns the wrong weights on its two sides: use
    `SmoothLeakyReLU` for it.

    Args:
        shape: Shape of one point.
        alpha: Slope $\alpha > 0$ for negative inputs.

    Raises:
        ValueError: If `alpha` is not positive.

    Source: Maas, Hannun, Ng (2013), *Rectifier nonlinearities improve neural network acoustic
    models*.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    alpha: float = eqx.field(static=True, default=0.3)

    def __check_init__(self):
        if not self.alpha > 0:
            raise Refused(f"LeakyReLU needs a positive alpha; got {self.alpha}.")

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        slope = jnp.where(x < 0, self.alpha, 1.0).astype(x.dtype)
        return slope * x, jnp.log(slope).sum()

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return y / jnp.where(y < 0, self.alpha, 1.0).astype(y.dtype)
