"""Maximum likelihood of a normalised density: the forward Kullback-Leibler divergence."""

import jax.numpy as jnp
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Scalar

from flowebm.models.over_points import rows_over_points


def maximum_likelihood(
    distribution: AbstractDistribution,
    x: Float[Array, "n *shape"],
    weights: Float[Array, " n"] | None = None,
) -> Scalar:
    r"""$-\sum_i w_i \log q(x_i)$, the cross-entropy of points under a distribution.

    Args:
        distribution: A density with exact `log_prob`.
        x: Points, one a row.
        weights: Weights that add up to one; equal ones by default.

    Returns:
        The cross-entropy in nats a point.
    """
    log_prob = rows_over_points(lambda density, x: density.log_prob(x), distribution, x)
    return -(jnp.mean(log_prob) if weights is None else jnp.sum(weights * log_prob))
