"""Neal's funnel."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.stats import norm

from flowebm.data.targets.target import AbstractTarget
from flowebm.refusal import Refused


class Funnel(AbstractTarget):
    r"""Neal's funnel: one coordinate is the log-variance of all the others.

    $$p(x) = \mathcal{N}(x_1; 0, s^2) \prod_{i=2}^d \mathcal{N}(x_i; 0, e^{x_1}).$$

    Args:
        dim: Number $d$ of coordinates, at least 2.
        scale: Standard deviation $s$ of the first coordinate.

    Raises:
        ValueError: If `dim` is under 2 or `scale` is not positive.

    Source: Neal (2003), *Slice sampling*, section 8.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    cond_shape: ClassVar[None] = None
    mode_weights: ClassVar[None] = None

    def __init__(self, dim: int = 2, scale: float = 3.0):
        if dim < 2:
            raise Refused(f"The funnel needs dim of at least 2; got {dim}.")
        if not scale > 0:
            raise Refused(f"The funnel needs a positive scale; got {scale}.")
        self.shape = (dim,)
        self.scale = float(scale)

    def _log_prob(self, x, condition=None):
        mouth = norm.logpdf(x[0], 0, self.scale)
        return mouth + norm.logpdf(x[1:] * jnp.exp(-x[0] / 2)).sum() - x[1:].size * x[0] / 2

    def _sample(self, key, condition=None):
        z = jr.normal(key, self.shape)
        v = self.scale * z[0]
        return jnp.concatenate([v[None], jnp.exp(v / 2) * z[1:]])

    def mode(self, x):
        return jnp.zeros((), int)
