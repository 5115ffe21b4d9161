"""From all of space to parameters between bounds."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, Chain, Identity, Indexed
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Float

from flowebm.refusal import Refused

#: How near to a bound a parameter may come, in units of its range or scale.
SMALLEST = 1e-30


def bounds_bijection(
    lower: ArrayLike, upper: ArrayLike, dimension: int, scale: ArrayLike = 1.0
) -> AbstractBijection:
    r"""The bijection from $\mathbb R^d$ to a box, coordinate by coordinate.

    $$x = l + (u - l)\,\Phi(z), \qquad x = l + s \tan\big(\tfrac\pi2 \Phi(z)\big), \qquad
      x = u - s \tan\big(\tfrac\pi2 \Phi(-z)\big),$$

    with two bounds, a lower one and an upper one; a coordinate without bounds stays as it is.
    Where $z$ is standard normal, $x$ is uniform between two bounds and half-Cauchy of scale $s$
    beyond one. A density that does not vanish at a bound, or that falls like a power far from
    it, has normal tails in $z$, and normal proposals cover it.

    Args:
        lower: Lower bounds, one for all coordinates or one each; `-inf` for none.
        upper: Upper bounds; `inf` for none.
        dimension: Number $d$ of coordinates.
        scale: $s$, positive, one for all or one each.

    Returns:
        A flowjax bijection of points of shape `(d,)`; its `transform` goes into the box.

    Raises:
        ValueError: If the bounds do not fit the number of coordinates, or are not in order.
    """
    try:
        low = np.broadcast_to(np.asarray(lower, float), (dimension,))
        high = np.broadcast_to(np.asarray(upper, float), (dimension,))
    except ValueError as error:
        raise Refused(
            f"Bounds of shapes {np.shape(lower)} and {np.shape(upper)} do not fit {dimension} "
            "coordinates: give one number each, or one for every coordinate."
        ) from error
    if not np.all(low < high):
        wrong = int(np.argmin(low < high))
        raise Refused(
            f"The lower bound {low[wrong]:g} of coordinate {wrong} is not below its upper bound "
            f"{high[wrong]:g}."
        )
    scales = np.broadcast_to(np.asarray(scale, float), (dimension,))
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    parts: list[AbstractBijection] = []
    for where, inside in (
        (has_low & has_high, lambda rows: Between(low[rows], high[rows])),
        (has_low & ~has_high, lambda rows: Beyond(low[rows], scales[rows])),
        (~has_low & has_high, lambda rows: Beyond(high[rows], -scales[rows])),
    ):
        if where.any():
            rows = np.flatnonzero(where)
            parts.append(Indexed(inside(rows), jnp.asarray(rows), (dimension,)))
    return Chain(parts) if parts else Identity((dimension,))


class Between(AbstractBijection):
    r"""$x = l + (u - l)\,\Phi(z)$, and never on a bound itself.

    Args:
        low: $l$, of shape `(m,)`.
        high: $u$.
    """

    low: Float[Array, " m"]
    high: Float[Array, " m"]
    shape: tuple[int, ...]
    cond_shape: ClassVar[None] = None

    def __init__(self, low: ArrayLike, high: ArrayLike):
        self.low, self.high = jnp.asarray(low, float), jnp.asarray(high, float)
        self.shape = self.low.shape

    def transform_and_log_det(self, x, condition=None):
        x = jnp.asarray(x)
        # From the nearer bound: beside the upper one 1 - Φ(z) would round to zero.
        width = self.high - self.low
        y = jnp.where(x < 0, self.low + width * ndtr(x), self.high - width * ndtr(-x))
        y = jnp.clip(y, self._inside(self.low, width), -self._inside(-self.high, width))
        return y, self._log_det(x)

    @staticmethod
    def _inside(bound, width):
        """The first number above a bound that is no denormal one, which count as zero."""
        return jnp.maximum(jnp.nextafter(bound, jnp.inf), bound + SMALLEST * width)

    def inverse_and_log_det(self, y, condition=None):
        width = self.high - self.low
        below, above = (y - self.low) / width, (self.high - y) / width
        x = jnp.where(below < above, ndtri(below), -ndtri(above))
        return x, -self._log_det(x)

    def _log_det(self, x):
        return jnp.sum(norm.logpdf(x) + jnp.log(self.high - self.low))


class Beyond(AbstractBijection):
    r"""$x = l + s \tan(\frac\pi2 \Phi(z))$, with $-z$ below an upper bound.

    Args:
        bound: $l$, of shape `(m,)`.
        scale: $s$, negative below an upper bound.
    """

    bound: Float[Array, " m"]
    scale: Float[Array, " m"]
    shape: tuple[int, ...]
    cond_shape: ClassVar[None] = None

    def __init__(self, bound: ArrayLike, scale: ArrayLike):
        self.bound, self.scale = jnp.asarray(bound, float), jnp.asarray(scale, float)
        self.shape = self.bound.shape

    def transform_and_log_det(self, x, condition=None):
        z = jnp.sign(self.scale) * x
        y = self.bound + self.scale * jnp.exp(_log_sine(z) - _log_sine(-z))
        sign = jnp.sign(self.scale)
        nearest = sign * jnp.nextafter(sign * self.bound, jnp.inf)
        nearest = sign * jnp.maximum(sign * nearest, sign * (self.bound + SMALLEST * self.scale))
        y = sign * jnp.maximum(sign * y, sign * nearest)
        return y, self._log_det(z)

    def inverse_and_log_det(self, y, condition=None):
        ratio = (y - self.bound) / self.scale
        z = jnp.where(
            ratio < 1,
            ndtri(2 / jnp.pi * jnp.arctan(ratio)),
            -ndtri(2 / jnp.pi * jnp.arctan(1 / ratio)),
        )
        return jnp.sign(self.scale) * z, -self._log_det(z)

    def _log_det(self, z):
        log_slope = norm.logpdf(z) - 2 * _log_sine(-z)
        return jnp.sum(log_slope + jnp.log(jnp.abs(self.scale) * jnp.pi / 2))


def _log_sine(z):
    r"""$\log \sin(\frac\pi2 \Phi(z))$, where $\Phi(z)$ is too small a number as well."""
    inside = jnp.log(jnp.sin(jnp.pi / 2 * ndtr(jnp.maximum(z, -5.0))))
    return jnp.where(z < -5, jnp.log(jnp.pi / 2) + log_ndtr(jnp.minimum(z, -4.0)), inside)


class Rotation(AbstractBijection):
    r"""$x \mapsto l + (x - l + a) \bmod P$: another seam of circular coordinates.

    Args:
        low: $l$, of shape `(d,)`.
        width: The period $P$; infinite where a coordinate is not circular.
    """

    low: Float[Array, " d"]
    width: Float[Array, " d"]
    shift: Float[Array, " d"]
    shape: tuple[int, ...]
    cond_shape: ClassVar[None] = None

    def __init__(self, low: ArrayLike, width: ArrayLike):
        self.low, self.width = jnp.asarray(low, float), jnp.asarray(width, float)
        self.shift = jnp.zeros_like(self.low)
        self.shape = self.low.shape

    def transform_and_log_det(self, x, condition=None):
        return self._turn(x, self.shift), jnp.zeros(())

    def inverse_and_log_det(self, y, condition=None):
        return self._turn(y, -self.shift), jnp.zeros(())

    def _turn(self, x, shift):
        is_circular = jnp.isfinite(self.width)
        width = jnp.where(is_circular, self.width, 1.0)
        turns = jnp.floor((x - self.low + shift) / width)
        return jnp.where(is_circular, x + shift - turns * width, x)
