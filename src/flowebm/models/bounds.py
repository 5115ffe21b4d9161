"""From all of space to parameters between bounds."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import (
    AbstractBijection,
    Chain,
    Identity,
    Indexed,
    Loc,
    Scale,
    Sigmoid,
    SoftPlus,
)
from jaxtyping import ArrayLike

from flowebm.refusal import Refused


def bounds_bijection(lower: ArrayLike, upper: ArrayLike, dimension: int) -> AbstractBijection:
    r"""The bijection from $\mathbb R^d$ to a box, coordinate by coordinate.

    $$x = l + (u - l)\,\sigma(z), \qquad x = l + \log(1 + e^z), \qquad x = u - \log(1 + e^{-z}),$$

    with two bounds, a lower one and an upper one; a coordinate without bounds stays as it is.

    Args:
        lower: Lower bounds, one for all coordinates or one each; `-inf` for none.
        upper: Upper bounds; `inf` for none.
        dimension: Number $d$ of coordinates.

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
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    parts: list[AbstractBijection] = []
    for where, inside in (
        (has_low & has_high, _between),
        (has_low & ~has_high, _above),
        (~has_low & has_high, _below),
    ):
        if where.any():
            rows = np.flatnonzero(where)
            parts.append(Indexed(inside(low[rows], high[rows]), jnp.asarray(rows), (dimension,)))
    return Chain(parts) if parts else Identity((dimension,))


def _between(low, high):
    return Chain([Sigmoid(low.shape), _scale(high - low), Loc(low)])


def _above(low, high):
    return Chain([SoftPlus(low.shape), Loc(low)])


def _below(low, high):
    mirror = _scale(-np.ones(low.shape))
    return Chain([mirror, SoftPlus(low.shape), mirror, Loc(high)])


def _scale(factors):
    """flowjax's scaling with these factors as they are: its own are trainable and positive."""
    factors = jnp.asarray(factors, float)
    return eqx.tree_at(lambda scaling: scaling.scale, Scale(jnp.ones_like(factors)), factors)
