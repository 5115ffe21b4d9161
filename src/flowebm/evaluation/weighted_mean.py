"""The mean of values over points that count differently, with its error."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flowebm.evaluation.estimate import Estimate


def weighted_mean(values: Float[Array, " n"], weights: Float[Array, " n"] | None) -> Estimate:
    r"""$\bar v = \sum_i \omega_i v_i$, with its standard error.

    The error is $\sqrt{\sum_i \omega_i^2 (v_i - \bar v)^2}$. Without weights all points count
    alike, $\omega_i = 1/n$, and it is the usual one.

    Args:
        values: One value a point.
        weights: $\omega_i$, adding up to one, or `None`.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, section 9.2.
    """
    if weights is None:
        return Estimate(jnp.mean(values), jnp.std(values) / jnp.sqrt(values.size))
    mean = jnp.sum(weights * values)
    return Estimate(mean, jnp.sqrt(jnp.sum((weights * (values - mean)) ** 2)))
