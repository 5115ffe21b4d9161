"""Which leaves of a model the optimizers move."""

from typing import Any

import equinox as eqx
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
