"""Points as the plots need them: finite rows, ranges that outliers do not stretch."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from flowebm.refusal import Refused


def finite_rows(points: ArrayLike, what: str) -> Float[np.ndarray, "n d"]:
    """The rows of a table of points that are finite throughout.

    Args:
        points: Points, one a row; a vector is a table of one column.
        what: What they are, for the error message.

    Raises:
        ValueError: If they are not a table or no row is finite.
    """
    table = np.asarray(points, float)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise Refused(f"The {what} must be a table of points, one a row; got {table.shape}.")
    rows = table[np.isfinite(table).all(axis=1)]
    if rows.size == 0:
        raise Refused(f"The {what} (shape {table.shape}) hold no finite point to plot.")
    return rows


def pairs(points: ArrayLike, what: str) -> Float[np.ndarray, "n 2"]:
    """The finite points among points of two coordinates."""
    table = finite_rows(points, f"points of {what!r}")
    if table.shape[1] != 2:
        raise Refused(f"The points of {what!r} have {table.shape[1]} coordinates; give two.")
    return table


def column_range(*columns: Float[np.ndarray, " n"], tail: float = 1e-3) -> tuple[float, float]:
    """An interval that shows the bulk of all columns together, with a margin.

    Args:
        columns: Finite values, each column with a say of its own.
        tail: Fraction of a column that may fall outside on either side.

    Returns:
        The ends; never equal, also for constant columns.
    """
    low = min(float(np.quantile(column, tail)) for column in columns)
    high = max(float(np.quantile(column, 1 - tail)) for column in columns)
    # Below a spread of a part in a million, floating point has too few steps for ticks.
    least = max(abs(low), abs(high), 1e-300) * 1e-6
    margin = 0.08 * (high - low) if high - low > least else max(0.5, abs(low) * 0.05)
    return low - margin, high + margin


def axis_name(name: str, longest: int = 24) -> str:
    """A column's name, cut to a length that a label has room for.

    It is cut in front of its last bracket if it ends in one, so that the unit stays.
    """
    if len(name) <= longest or "$" in name:
        return name
    unit = re.search(r"\s*[(\[][^()\[\]]*[)\]]$", name)
    tail = unit.group() if unit and len(unit.group()) < longest - 4 else ""
    return name[: longest - 1 - len(tail)].rstrip() + "…" + tail


def check_names(names: Sequence[str], n_columns: int) -> list[str]:
    """The names as strings.

    Raises:
        ValueError: If there is not one for each column.
    """
    if len(names) != n_columns:
        raise Refused(f"{len(names)} names were given for {n_columns} columns; give one each.")
    return [str(name) for name in names]
