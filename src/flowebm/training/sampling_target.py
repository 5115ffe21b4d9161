"""What a user asks `flowebm.sample` for, checked at the door."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, Identity
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, PyTree, Scalar

from flowebm.models.bounds import bounds_bijection
from flowebm.models.unconstrained import UnconstrainedDensity
from flowebm.refusal import Refused


def sampling_target(
    log_density: Callable[[Any], Scalar],
    initial: int | PyTree[ArrayLike],
    bounds: tuple[PyTree[ArrayLike], PyTree[ArrayLike]] | None,
    bijection: AbstractBijection | None,
) -> tuple[UnconstrainedDensity, Array]:
    """The density over all of space, and the unconstrained initial point.

    Args:
        log_density: Maps one point to its log-density up to a constant.
        initial: One point, or the number of coordinates.
        bounds: Lower and upper bounds, or `None`.
        bijection: A bijection from all of space to points as vectors, or `None`.

    Returns:
        The density and the point, of shape `(d,)`.

    Raises:
        TypeError: If `log_density` is no function or returns no real number.
        ValueError: If the inputs do not fit each other, or the density is not a number at the
            initial point.
    """
    if not callable(log_density):
        raise TypeError(
            f"log_density must be a function of one point; got {type(log_density).__name__}."
        )
    if bounds is not None and bijection is not None:
        raise Refused("Give bounds or a bijection, not both.")
    dimension = _dimension(initial)
    point = jnp.zeros(dimension) if dimension is not None else _floating(initial)
    flat, unravel = ravel_pytree(point)
    if not flat.size:
        raise Refused("The initial point has no coordinates.")
    if not bool(jnp.all(jnp.isfinite(flat))):
        raise Refused("The initial point is not finite: give finite numbers.")
    transform = _bijection(point, flat.size, bounds, bijection)
    if dimension is not None:
        start = jnp.zeros(flat.size)
    else:
        start = transform.inverse(flat)
        if not bool(jnp.all(jnp.isfinite(start))):
            raise Refused(
                "The initial point is not strictly inside the bounds (or outside of what the "
                "bijection reaches): move it inside."
            )
    target = UnconstrainedDensity(log_density, unravel, transform)
    _check_value(log_density, unravel(transform.transform(start)))
    return target, start


def _dimension(initial: Any) -> int | None:
    """The number of coordinates where that is what was given."""
    if isinstance(initial, bool):
        raise TypeError("The initial point must be an array, a pytree of arrays or a number.")
    if not isinstance(initial, int | np.integer):
        return None
    if initial < 1:
        raise Refused(f"The number of coordinates must be 1 or more; got {initial}.")
    return int(initial)


def _floating(initial: PyTree[ArrayLike]) -> PyTree[Array]:
    try:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), initial)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "The initial point must be an array or a pytree of arrays of numbers, or the number "
            f"of coordinates; got {type(initial).__name__}."
        ) from error


def _bijection(
    point: PyTree[Array],
    dimension: int,
    bounds: tuple[PyTree[ArrayLike], PyTree[ArrayLike]] | None,
    bijection: AbstractBijection | None,
) -> AbstractBijection:
    if bijection is not None:
        if tuple(bijection.shape) != (dimension,) or bijection.cond_shape is not None:
            raise Refused(
                f"The bijection must be unconditional and of shape ({dimension},), the shape of "
                f"the point as a vector; its shape is {tuple(bijection.shape)}."
            )
        return bijection
    if bounds is None:
        return Identity((dimension,))
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise Refused("bounds must be a pair (lower, upper).")
    lower, upper = (_flat_bound(bound, point) for bound in bounds)
    return bounds_bijection(lower, upper, dimension)


def _flat_bound(bound: PyTree[ArrayLike], point: PyTree[Array]) -> ArrayLike:
    """A bound for the point's vector: from one a leaf, or from one array."""
    structure = jax.tree.structure(point)
    if structure.num_leaves > 1 and jax.tree.structure(bound) == structure:
        bound = jax.tree.map(lambda b, p: jnp.broadcast_to(b, p.shape), bound, point)
        return ravel_pytree(bound)[0]
    try:
        return np.ravel(np.asarray(bound, float)) if np.ndim(bound) else float(bound)
    except (TypeError, ValueError) as error:
        raise Refused(
            "A bound must be one number, an array, or a pytree of the initial point's "
            f"structure; got {bound!r}."
        ) from error


def _check_value(log_density: Callable[[Any], Scalar], point: PyTree[Array]) -> None:
    shapes = jax.tree.map(lambda leaf: leaf.shape, point)
    try:
        value = jax.eval_shape(log_density, point)
    except Exception as error:
        raise Refused(
            f"log_density cannot be traced by JAX at a point of shape {shapes}: "
            f"{type(error).__name__}: {error}. It must take one point and use jax.numpy."
        ) from error
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            f"log_density must return one real number; it returns a {type(value).__name__}."
        )
    if value.shape != ():
        raise Refused(
            f"log_density must return one number for one point; it returns an array of shape "
            f"{value.shape} for a point of shape {shapes}: sum over it, or vmap outside."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"log_density must return a real number; it returns {value.dtype}.")
    number = float(jax.jit(log_density)(point))
    if np.isnan(number) or number == np.inf:
        raise Refused(
            f"log_density is {number} at the initial point: give a point where it is a number, or "
            "the bounds of the parameters."
        )
