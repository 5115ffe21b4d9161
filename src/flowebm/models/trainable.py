"""Which leaves of a model the optimizers move."""

from typing import Any

import equinox as eqx
import jax
import paramax
from jaxtyping import PyTree


def partition_trainable(model: PyTree) -> tuple[Any, Any]:
    """Split a model in its trainable arrays and the rest; `equinox.combine` joins them.

    Leaves wrapped by `paramax.NonTrainable` are part of the rest, so that neither gradients
    nor weight decay nor parameter averages touch them.

    Args:
        model: Any pytree.

    Returns:
        Two trees of the model's form, each with `None` in the place of the other's leaves.
    """
    return eqx.partition(
        model,
        eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )


def count_parameters(model: PyTree) -> int:
    """The number of trainable parameters.

    Args:
        model: Any pytree.

    Returns:
        The entries of its trainable arrays, counted.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(partition_trainable(model)[0]))
