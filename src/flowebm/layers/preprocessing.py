"""From whole-number pixels to the real line."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer


def dequantize(
    key: PRNGKeyArray, x: Real[Array, "..."], n_levels: int = 256
) -> Float[Array, "..."]:
    r"""Uniform dequantization to $[0, 1)$, $(x + u) / n$ with $u \sim U[0, 1)$.

    The expected log-density of the result, minus $D \ln n$, is a lower bound of the
    log-probability of the discrete pixels.

    Args:
        key: PRNG key.
        x: Whole numbers from 0 to `n_levels - 1`.
        n_levels: Number of levels $n$.

    Returns:
        Points of $[0, 1)$, of the shape of `x`.

    Source: Uria, Murray, Larochelle (2013); Theis, van den Oord, Bethge (2016).
    """
    noise = jax.random.uniform(key, x.shape)
    scaled = (x + noise) / n_levels
    # Rounding may carry the highest level up to 1.
    return jnp.minimum(scaled, 1 - jnp.finfo(scaled.dtype).epsneg)


class Logit(AbstractDataDependentLayer):
    r"""$y = \mathrm{logit}(m + (1 - 2m) x) / \tau$, from the unit interval to the line.

    Args:
        shape: Shape of one point.
        smoothness: $\tau > 0$.
        margin: $m$, by which points are kept from 0 and 1.

    Raises:
        ValueError: If the smoothness is not positive or the margin not in [0, 1/2).

    Source: Dinh, Sohl-Dickstein, Bengio (2017), section 4.1; Chao et al. (2023), appendix.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    smoothness: float = eqx.field(static=True, default=1.0)
    margin: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        if not self.smoothness > 0:
            raise ValueError(f"Logit needs a positive smoothness; got {self.smoothness}.")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"Logit needs a margin in [0, 1/2); got {self.margin}.")

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        p = self.margin + (1 - 2 * self.margin) * x
        log_p, log_q = jnp.log(p), jnp.log1p(-p)
        log_slope = jnp.log((1 - 2 * self.margin) / self.smoothness) - log_p - log_q
        return (log_p - log_q) / self.smoothness, log_slope.sum()

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return (jax.nn.sigmoid(self.smoothness * y) - self.margin) / (1 - 2 * self.margin)
