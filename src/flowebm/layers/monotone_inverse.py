"""Roots of increasing scalar functions, to float precision and differentiable."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_STEPS = 100


def invert_increasing(
    function: Callable[[Array], Array],
    y: Float[Array, "..."],
    lower: Float[Array, "..."],
    upper: Float[Array, "..."],
) -> Float[Array, "..."]:
    r"""Solve $f(x) = y$ for each element by Newton's method inside a bracket.

    A Newton step that would leave the bracket is replaced by bisection, and every evaluation
    narrows the bracket. Derivatives, of any order, follow from the implicit function theorem,
    $\partial x / \partial y = 1 / f'(x)$, also with respect to what `function` closes over.

    Args:
        function: An increasing, differentiable function, applied to each element.
        y: Right-hand sides.
        lower: Points with $f \le y$, same shape.
        upper: Points with $f \ge y$, same shape; Newton starts there.

    Returns:
        $x$, of the shape of `y`.

    Source: Press et al. (2007), *Numerical recipes*, section 9.4, for the safeguarded steps.
    """

    def residual(x):
        return function(x) - y

    def solve(residual, start):
        lower_start, upper_start = jax.lax.stop_gradient((lower, upper))
        # Newton's error squares from step to step: once a step is this small, the next one
        # is at rounding level.
        close = jnp.sqrt(jnp.finfo(start.dtype).eps)

        def newton(x):
            value, slope = jax.jvp(residual, (x,), (jnp.ones_like(x),))
            return value, x - value / slope

        def unfinished(state):
            _, _, _, moving, step = state
            return jnp.any(moving) & (step < MAX_STEPS)

        def narrow(state):
            x, low, high, _, step = state
            value, proposal = newton(x)
            low, high = jnp.where(value < 0, x, low), jnp.where(value > 0, x, high)
            inside = (proposal >= low) & (proposal <= high)
            moved = jnp.where(inside, proposal, (low + high) / 2)
            moving = jnp.abs(moved - x) > close * jnp.maximum(1, jnp.abs(moved))
            return moved, low, high, moving, step + 1

        state = (start, lower_start, upper_start, jnp.ones(start.shape, bool), 0)
        x, low, high, _, _ = jax.lax.while_loop(unfinished, narrow, state)
        return jnp.clip(newton(x)[1], low, high)

    def tangent_solve(linear, target):
        return target / linear(jnp.ones_like(target))

    return jax.lax.custom_root(residual, jax.lax.stop_gradient(upper), solve, tangent_solve)
