"""The mean of a loss over a batch, whose parts several devices compute on their own."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Scalar

#: The axis of a mesh of devices along which points are shared out.
DATA = "data"


def mean_over_points(
    mean_loss: Callable[..., Scalar], model: Any, *points: Float[Array, "batch *shape"]
) -> Scalar:
    r"""$\tfrac1n \sum_i \mathcal L(\theta, x_i)$, with one sum over devices for value and gradient.

    Left to itself the compiler adds up every product of a gradient over the devices where it
    arises: of a convolution by transforms forty times as many numbers as it has parameters.

    Args:
        mean_loss: `(model, *points) -> loss`, the mean over the points that it gets.
        model: The model, whole on every device of the axis `data`.
        points: What each point needs, drawn for the whole batch. Where the devices do not divide
            its number, the compiler shares it out.

    Returns:
        The mean loss, to be differentiated in the model.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = mesh.shape.get(DATA, 1)
    if parts == 1 or points[0].shape[0] % parts:
        return mean_loss(model, *points)
    arrays, static = eqx.partition(model, eqx.is_array)

    def mean_of_parts(arrays, *points):
        return jax.lax.pmean(mean_loss(eqx.combine(arrays, static), *points), DATA)

    whole, shared_out = PartitionSpec(), PartitionSpec(DATA)
    return jax.shard_map(
        mean_of_parts,
        in_specs=(whole, *[shared_out] * len(points)),
        out_specs=whole,
        axis_names={DATA},
        check_vma=False,
    )(arrays, *points)
