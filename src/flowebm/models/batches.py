"""Functions of many points, compiled for a few fixed numbers of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

#: Points at once, many or few. Rows are filled up to one of these numbers: two programs serve
#: tables of any length, and what is computed of a row does not depend on the rows beside it.
SIZES = 4096, 256


def in_batches(function: Callable[..., Any], *rows: Float[ArrayLike, "n ..."]) -> Any:
    """A function of points, one a row of each array, at fixed numbers of points.

    Small batches serve what would fill less than half of a large one.

    Args:
        function: Maps as many rows of each array as there are in a batch to arrays with one row
            each.
        rows: Arrays of equal length, of any number of rows.

    Returns:
        What the function returns for all rows, as NumPy's arrays.
    """
    host = [np.asarray(part) for part in rows]
    n, start, parts = len(host[0]), 0, []
    large, small = SIZES
    # An empty table has values of a shape too.
    while start < n or not parts:
        size = large if n - start > large // 2 else small
        some = [part[start : start + size] for part in host]
        parts.append((len(some[0]), function(*(filled_up(part, size) for part in some))))
        start += size
    # Looked at only now, so that a batch is under way while the next is made ready.
    on_host = [jax.tree.map(lambda a, k=k: np.asarray(a)[:k], values) for k, values in parts]
    return jax.tree.map(lambda *some: np.concatenate(some), *on_host)


def filled_up(rows: Float[np.ndarray, "m *shape"], n: int) -> Float[Array, "n *shape"]:
    """The rows and as many copies of the last as make `n`.

    Args:
        rows: At most `n`.
        n: How many there shall be.
    """
    last = rows[-1:] if len(rows) else np.zeros((1, *rows.shape[1:]))
    return on_device(np.concatenate([rows, np.repeat(last, n - len(rows), axis=0)]))


def on_device(values: ArrayLike) -> Array:
    """Numbers in JAX's precision, rounded on the host: no program is compiled for their shape."""
    values = np.asarray(values)
    if np.issubdtype(values.dtype, np.floating):
        values = values.astype(jnp.result_type(float))
    # `jnp.asarray` compiles a program for each shape.
    return jax.device_put(values)
