"""An activation with trainable skewness and tail weight."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer
from flowebm.refusal import Refused


class SinhArcsinh(AbstractDataDependentLayer):
    r"""$y = \sinh(e^{t}\,\mathrm{arcsinh}(x) + s)$ for each entry, with closed-form inverse.

    The identity at $s = t = 0$, smooth, and onto the whole line: $t$ sets how fast tails
    decay, $s$ the skewness.

    Args:
        skewness: $s$, any shape; it is the shape of one point.
        log_tail: $t$, the same shape.

    Raises:
        ValueError: If the shapes differ.

    Source: Jones, Pewsey (2009), *Sinh-arcsinh distributions*.
    """

    skewness: Float[Array, "..."]
    log_tail: Float[Array, "..."]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, skewness: Array, log_tail: Array):
        self.skewness = jnp.asarray(skewness)
        self.log_tail = jnp.asarray(log_tail)
        self.shape = self.skewness.shape
        if self.log_tail.shape != self.shape:
            raise Refused(
                "SinhArcsinh needs a skewness and a log_tail of the same shape; got "
                f"{self.shape} and {self.log_tail.shape}."
            )

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        z = jnp.exp(self.log_tail) * jnp.arcsinh(x) + self.skewness
        log_cosh = z + jax.nn.softplus(-2 * z) - jnp.log(2.0)
        log_slope = self.log_tail + log_cosh - 0.5 * jnp.log1p(x**2)
        return jnp.sinh(z), log_slope.sum()

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.sinh(jnp.exp(-self.log_tail) * (jnp.arcsinh(y) - self.skewness))
