"""Weights of rows in, checked at the door."""

from typing import Any

import numpy as np
from jaxtyping import Float

from flowebm.refusal import Refused


def check_weights(weights: Any, rows: int) -> Float[np.ndarray, " n"]:
    """How much each row counts, in double precision; refuses what cannot be a weight.

    Args:
        weights: One number a row: an array, a list or a series.
        rows: Rows of the table that they belong to.

    Returns:
        The weights, shape `(n,)`, as they were given.

    Raises:
        ValueError: With one sentence, if they are not one finite number of 0 or more a row, or
            all are 0. Rows are counted from 1.
    """
    try:
        weights = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"The weights are not numbers ({error}): give one number a row.") from None
    if weights.shape != (rows,):
        raise Refused(
            f"The weights have shape {weights.shape}, the table {rows} rows: give one number a row."
        )
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise Refused(
            f"The weight of row {row + 1} is {weights[row]:g}, the first of {bad.sum()} that are "
            "negative or not finite (rows counted from 1): weights must be 0 or more."
        )
    if not weights.any():
        raise Refused("All weights are zero: at least one row must have a weight above zero.")
    return weights


def effective_rows(weights: Float[np.ndarray, " n"]) -> float:
    r"""How many rows of even weights are worth the same, $(\sum_i w_i)^2 / \sum_i w_i^2$.

    Args:
        weights: How much each row counts, in any unit; shape `(n,)`.

    Returns:
        Between 1 and the number of rows.

    Source: Kish (1965), *Survey sampling*.
    """
    shares = weights / weights.max()
    return float(shares.sum() ** 2 / (shares**2).sum())
