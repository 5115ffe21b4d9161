"""The mean of values over points that count differently, with its error."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flowebm.evaluation.estimate import Estimate


def weighted_mean(
    values: Float[Array, " n"] | Float[np.ndarray, " n"], weights: Float[Array, " n"] | None
) -> Estimate:
    r"""$\bar v = \sum_i \omega_i v_i$, with its standard error.

    The error is $\sqrt{\sum_i \omega_i^2 (v_i - \bar v)^2}$. Without weights all points count
    alike, $\omega_i = 1/n$, and it is the usual one.

    Args:
        values: One value a point.
        weights: $\omega_i$, adding up to one, or `None`.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, section 9.2.
    """
    # On the host no program is compiled for the number of points.
    xp: Any = np if isinstance(values, np.ndarray) else jnp
    if weights is None:
        return Estimate(xp.mean(values), xp.std(values) / values.size**0.5)
    of_each: Any = np.asarray(weights, np.float64) if xp is np else weights
    mean = xp.sum(of_each * values)
    return Estimate(mean, xp.sqrt(xp.sum((of_each * (values - mean)) ** 2)))
