"""A spiral band."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr

from flowebm.data.targets.target import AbstractTarget

# Where t cos t and t sin t turn on [0, 3 pi]: the roots of t tan t = 1 and of tan t = -t.
_COS_TURNS = (0.8603335890193798, 3.4256184594817283, 6.437298179171947)
_SIN_TURNS = (2.028757838110434, 4.913180439434884, 7.978665712413241)
_END = 3 * jnp.pi


class Swirl(AbstractTarget):
    r"""EBFlow's swirl: a spiral blurred by a uniform square.

    With $t = 3\pi\sqrt{U}$ and $U, U', U'' \sim U(0, 1)$,

    $$x = \tfrac{2.5}{3}\, (t \cos t - U'/2 + 1,\; -t \sin t - U''/2 + 2).$$

    Given $t$ a point is uniform on a square of side 1/2 (before the scaling), so the density at
    a point is the mass of the $t$ whose square holds it,

    $$p(x) = \Big(\tfrac{3}{2.5}\Big)^2 \, 4 \int_T \frac{2t}{9\pi^2}\, dt, \quad
      T = \{t : |t \cos t - a| \le \tfrac14,\; |t \sin t - b| \le \tfrac14\}, $$

    with $(a, b) = (\tfrac{3}{2.5} x_1 - \tfrac34,\; \tfrac74 - \tfrac{3}{2.5} x_2)$. Both
    functions of $t$ are monotone between known turning points, so $T$ is a union of intervals
    whose ends are found by bisection: no quadrature, and zero off the band.

    Source: Chao et al. (2023), 2-D experiments.
    """

    shape: ClassVar[tuple[int, ...]] = (2,)
    cond_shape: ClassVar[None] = None
    mode_weights: ClassVar[None] = None

    def _log_prob(self, x, condition=None):
        z = x * 3 / 2.5
        low_1, high_1 = _near(lambda t: t * jnp.cos(t), _COS_TURNS, z[0] - 0.75)
        low_2, high_2 = _near(lambda t: t * jnp.sin(t), _SIN_TURNS, 1.75 - z[1])
        low = jnp.maximum(low_1[:, None], low_2)
        high = jnp.minimum(high_1[:, None], high_2)
        mass = jnp.sum(jnp.where(high > low, high**2 - low**2, 0)) / _END**2
        on_band = mass > 0
        log_mass = jnp.log(jnp.where(on_band, mass, 1))
        return jnp.where(on_band, log_mass + jnp.log(4 * (3 / 2.5) ** 2), -jnp.inf)

    def _sample(self, key, condition=None):
        arc_key, square_key = jr.split(key)
        t = _END * jnp.sqrt(jr.uniform(arc_key))
        spiral = jnp.stack([t * jnp.cos(t) + 1, -t * jnp.sin(t) + 2])
        return (spiral - jr.uniform(square_key, self.shape) / 2) * 2.5 / 3

    def mode(self, x):
        return jnp.zeros((), int)


def _near(function, turns, level):
    """Per monotone piece of a function on [0, 3 pi], the interval where |f(t) - level| <= 1/4."""
    edges = jnp.array([0.0, *turns, _END], level.dtype)
    start, end = edges[:-1], edges[1:]
    rising = function(end) > function(start)
    quarter = jnp.where(rising, 0.25, -0.25)
    first = _crossing(function, start, end, level - quarter)
    last = _crossing(function, start, end, level + quarter)
    return first, last


def _crossing(function, start, end, level):
    """The place where a function monotone on each [start, end] meets the level, else an end."""
    target = jax.lax.stop_gradient(level)
    rising = function(end) > function(start)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = (function(middle) > target) == rising
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, 30, halve, (start, end))
    t = (low + high) / 2
    # One Newton step squares the error that bisection left, and gives the crossing its derivative
    # in the level; where the piece does not reach the level, an end is returned without one.
    crosses = (function(start) - target) * (function(end) - target) < 0
    slope = jnp.where(crosses, jax.vmap(jax.grad(function))(t), 1)
    crossing = t + jnp.where(crosses, (level - function(t)) / slope, 0)
    # Only the value is kept to the bracket: in single precision that is one rounding wide, and
    # the derivative would be lost at its ends.
    return crossing + jax.lax.stop_gradient(jnp.clip(crossing, low, high) - crossing)
