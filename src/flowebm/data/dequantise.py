"""Whole numbers to continuous values, so that they have a density."""

import numpy as np
from jaxtyping import Float

from flowebm.refusal import Refused


def dequantise(seed: int, X: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    r"""Add uniform noise, $x + u$ with $u \sim U[0, 1)$, to data of whole numbers.

    Whole numbers have no density: a continuous model's likelihood of them is unbounded. With the
    noise, the expected log-density is a lower bound of the log-probability of the numbers.

    Args:
        seed: Seed of the noise.
        X: Whole numbers, shape `(n, *shape)`.

    Returns:
        The noisy values, of the same shape; their floor is `X`.

    Raises:
        ValueError: If a value is not a whole number.

    Source: Theis, van den Oord, Bethge (2016), *A note on the evaluation of generative models*,
        section 3.1.
    """
    X = np.asarray(X, np.float64)
    if not (np.floor(X) == X).all():
        raise Refused("dequantise adds noise to whole numbers: the data has other values.")
    return X + np.random.default_rng(seed).random(X.shape)
