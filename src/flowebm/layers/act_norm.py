"""Standardisation of each channel, with trainable location and scale."""

from math import prod
from typing import Self

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class ActNorm(AbstractConstantJacobianLayer):
    r"""Act-norm, $y_c = (x_c - m_c)\, e^{-s_c}$ for each channel (or feature) $c$.

    `initialized(batch)` sets $m_c$ and $s_c$ to the mean and the log standard deviation of
    the batch, so that the outputs start at mean 0 and variance 1; afterwards they are
    ordinary parameters.

    Args:
        shape: Shape of one point, `(c, ...)`; the channel is the first axis.
        loc: $m$, shape `(c,)`, in the units of $x$; zeros if not given.
        log_scale: $s$, shape `(c,)`; zeros if not given.

    Raises:
        ValueError: If the shapes do not agree.

    Source: Kingma, Dhariwal (2018), section 3.1.
    """

    loc: Float[Array, " c"]
    log_scale: Float[Array, " c"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        loc: Array | None = None,
        log_scale: Array | None = None,
    ):
        self.shape = tuple(shape)
        n = self.shape[0]
        self.loc = jnp.zeros(n) if loc is None else jnp.asarray(loc)
        self.log_scale = jnp.zeros(n) if log_scale is None else jnp.asarray(log_scale)
        if self.loc.shape != (n,) or self.log_scale.shape != (n,):
            raise Refused(
                f"An ActNorm of shape {self.shape} needs a loc and a log_scale of shape {(n,)}; "
                f"got {self.loc.shape} and {self.log_scale.shape}."
            )

    def _per_channel(self, values: Array) -> Array:
        return values.reshape(-1, *(1,) * (len(self.shape) - 1))

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (x - self._per_channel(self.loc)) * jnp.exp(-self._per_channel(self.log_scale))

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return y * jnp.exp(self._per_channel(self.log_scale)) + self._per_channel(self.loc)

    def log_det(self) -> Scalar:
        pixels = prod(self.shape[1:])
        return -pixels * self.log_scale.sum()

    def initialized(self, batch: Float[Array, "batch ..."]) -> Self:
        axes = (0, *range(2, batch.ndim))
        std = jnp.std(batch, axis=axes)
        # A channel that is constant in the batch has no scale to learn from it.
        log_scale = jnp.log(jnp.where(std > 0, std, 1.0))
        return type(self)(self.shape, jnp.mean(batch, axis=axes), log_scale)
