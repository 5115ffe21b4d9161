"""A function of many points, whose parts several devices compute on their own."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree, Scalar

#: The axis of a mesh of devices along which points are shared out.
DATA = "data"

#: Numbers of an array whose gradient travels together with those of others. An exchange between
#: devices of one processor takes some 80 µs however little it is; to copy so many numbers into a
#: common vector and out of it takes about as long.
SHORT = 2**16


def rows_over_points(
    rows: Callable[..., PyTree[Float[Array, "batch *_"]]],
    model: Any,
    *points: Float[Array, "batch *shape"],
) -> PyTree[Float[Array, "batch *_"]]:
    """`rows(model, *points)`, with one sum over devices for the gradient in the model.

    Left to itself the compiler adds up every product of a gradient over the devices where it
    arises: of a convolution by transforms forty times as many numbers as it has parameters. The
    gradients of short arrays travel as one.

    Args:
        rows: A function that maps a model and points to arrays with one row a point.
        model: The model, whole on every device of the axis `data`.
        points: What each point needs, drawn for the whole batch; the numbers of points may differ
            from one array to the next. Where the devices do not divide one of them, the compiler
            shares them out.

    Returns:
        The rows, to be differentiated in the model.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = mesh.shape.get(DATA, 1)
    if parts == 1 or any(array.shape[0] % parts for array in points):
        return rows(model, *points)
    arrays, static = eqx.partition(model, eqx.is_array)
    short, long = eqx.partition(arrays, _is_short)
    vector, unravel = ravel_pytree(short)

    def rows_of_part(vector, long, *points):
        return rows(eqx.combine(unravel(vector), long, static), *points)

    whole, shared_out = PartitionSpec(), PartitionSpec(DATA)
    return jax.shard_map(
        rows_of_part,
        in_specs=(whole, whole, *[shared_out] * len(points)),
        out_specs=shared_out,
        axis_names={DATA},
        check_vma=False,
    )(vector, long, *points)


def values_of_both(
    function: Callable[[Float[Array, "*shape"]], Scalar],
    first: Float[Array, "n *shape"],
    second: Float[Array, "m *shape"],
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """A function's values at the points of two sets, to be differentiated in its parameters.

    In one batch the products are larger and the program is half as long. Of several devices each
    has a part of either set, which need not change places.

    Args:
        function: Maps one point to a number; a pytree of its parameters, as a model's method is.
        first: Points, one a row.
        second: Others.

    Returns:
        The values of either.
    """

    def rows(function, first, second):
        values = jax.vmap(function)(jnp.concatenate([first, second]))
        return values[: first.shape[0]], values[first.shape[0] :]

    return rows_over_points(rows, function, first, second)


def mean_over_points(
    mean_loss: Callable[..., Scalar], model: Any, *points: Float[Array, "batch *shape"]
) -> Scalar:
    r"""$\tfrac1n \sum_i \mathcal L(\theta, x_i)$, as `rows_over_points` computes it.

    Args:
        mean_loss: `(model, *points) -> loss`, the mean over the points that it gets.
        model: The model.
        points: What each point needs.

    Returns:
        The mean loss, to be differentiated in the model.
    """
    means = rows_over_points(lambda *arguments: mean_loss(*arguments)[None], model, *points)
    return jnp.mean(means)


def _is_short(array: Any) -> bool:
    return eqx.is_inexact_array(array) and array.size <= SHORT
