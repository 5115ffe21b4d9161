"""The rational-quadratic spline of one number that couplings are made of."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections.bijection import AbstractBijection
from jaxtyping import Array, Float, Scalar
from paramax import RealToIncreasingOnInterval
from paramax.utils import inv_softplus

#: Least width and height of a bin, and least slope at a knot.
MIN_WIDTH, MIN_SLOPE = 1e-3, 1e-3


class ScalarSpline(AbstractBijection):
    r"""A monotone rational-quadratic spline on $[-B, B]$, the identity outside.

    The same function of the same parameters, in the same order, as flowjax's
    `RationalQuadraticSpline`. It finds the bin by comparing with every knot, takes both of a bin's
    ends at once, and computes slopes for these ends alone: its gradient costs about half.

    Args:
        knots: Number of inner knots; the spline has one bin more.
        interval: The half-width $B > 0$.

    Attributes:
        x_pos: $x$ of the bins' ends, rising from $-B$ to $B$; shape `(knots + 2,)`.
        y_pos: $y$ of the same.
        slopes: Free parameters of the slopes there, of the same shape: a slope is their softplus,
            and a little more.

    Source: Durkan et al. (2019), *Neural Spline Flows*, equations 4 and 5.
    """

    # Wrapped around free parameters until flowjax unwraps them, before every use.
    x_pos: Float[Array, " ends"]
    y_pos: Float[Array, " ends"]
    slopes: Float[Array, " ends"]
    interval: float = eqx.field(static=True)
    shape = ()
    cond_shape = None

    def __init__(self, *, knots: int, interval: float):
        self.x_pos = _increasing(knots + 1, interval)
        self.y_pos = _increasing(knots + 1, interval)
        self.slopes = jnp.full(knots + 2, inv_softplus(1 - MIN_SLOPE))
        self.interval = interval

    def transform_and_log_det(self, x: Scalar, condition: Array | None = None):
        inside, clipped = self._clip(x)
        (xk, xk1), (yk, yk1), (dk, dk1) = self._ends(jnp.sum(clipped > self.x_pos[1:-1]))
        sk = (yk1 - yk) / (xk1 - xk)
        xi = (clipped - xk) / (xk1 - xk)
        between = xi * (1 - xi)
        y = yk + (yk1 - yk) * (sk * xi**2 + dk * between) / (sk + (dk1 + dk - 2 * sk) * between)
        # Rounding is not to carry it over the edge.
        y = jnp.where(inside, jnp.clip(y, -self.interval, self.interval), x)
        return y, jnp.where(inside, _log_slope(sk, dk, dk1, xi), 0.0)

    def inverse_and_log_det(self, y: Scalar, condition: Array | None = None):
        inside, clipped = self._clip(y)
        (xk, xk1), (yk, yk1), (dk, dk1) = self._ends(jnp.sum(clipped > self.y_pos[1:-1]))
        height = yk1 - yk
        sk = height / (xk1 - xk)
        term = (clipped - yk) * (dk1 + dk - 2 * sk)
        a = height * (sk - dk) + term
        b = height * dk - term
        c = -sk * (clipped - yk)
        xi = 2 * c / (-b - jnp.sqrt(b**2 - 4 * a * c))
        x = xi * (xk1 - xk) + xk
        x = jnp.where(inside, jnp.clip(x, -self.interval, self.interval), y)
        return x, -jnp.where(inside, _log_slope(sk, dk, dk1, xi), 0.0)

    def _clip(self, x: Scalar) -> tuple[Array, Scalar]:
        """Whether the spline bends the point, and the nearest point that it does bend."""
        inside = (x >= -self.interval) & (x <= self.interval)
        return inside, jnp.clip(x, -self.interval, self.interval)

    def _ends(self, k: Scalar) -> tuple[Array, Array, Array]:
        """x, y and slope at both ends of bin `k`."""
        x, y, free = (
            jax.lax.dynamic_slice(values, (k,), (2,))
            for values in (self.x_pos, self.y_pos, self.slopes)
        )
        return x, y, jax.nn.softplus(free) + MIN_SLOPE


def _increasing(n: int, interval: float) -> Any:
    """The bins' ends along one axis, of `n` free parameters."""
    return RealToIncreasingOnInterval(
        jnp.zeros(n), interval=(-interval, interval), min_width=MIN_WIDTH, include_endpoints="both"
    )


def _log_slope(sk: Scalar, dk: Scalar, dk1: Scalar, xi: Scalar) -> Scalar:
    """Logarithm of the spline's slope at the share `xi` of a bin of mean slope `sk`."""
    between = xi * (1 - xi)
    numerator = sk**2 * (dk1 * xi**2 + 2 * sk * between + dk * (1 - xi) ** 2)
    return jnp.log(numerator / (sk + (dk1 + dk - 2 * sk) * between) ** 2)
