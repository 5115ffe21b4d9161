"""The likelihood of an energy model with its normaliser by importance sampling."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.over_points import values_of_both


def importance_weighted_likelihood(
    model: AbstractEnergyModel,
    data: Float[Array, "n *shape"],
    draws: Float[Array, "m *shape"],
    log_proposal: Float[Array, " m"],
) -> tuple[Scalar, Float[Array, " m"]]:
    r"""The negative log-likelihood of data, as draws of a fixed proposal tell it.

    $$\hat{\mathcal L}(\theta) = \tfrac1n \sum_i E_\theta(x_i) + \log \hat Z_\theta, \qquad
      \hat Z_\theta = \tfrac1m \sum_j e^{-E_\theta(y_j)} / q(y_j), \quad y_j \sim q$$

    Its gradient holds the model's expectation by self-normalised importance sampling, without a
    chain. It is good where $q$ covers the model: the weights' effective sample size tells.

    Args:
        model: The energy model.
        data: Data points, one a row.
        draws: Draws $y_j$ of the proposal, one a row.
        log_proposal: $\log q(y_j)$, nats.

    Returns:
        The value (nats), and as auxiliary output the log-weights of the draws.

    Source: Bengio and Senécal (2003), *Quick training of probabilistic neural nets by importance
    sampling*.
    """
    on_data, on_draws = values_of_both(model.energy, data, draws)
    log_weights = -on_draws - log_proposal
    log_z = jax.nn.logsumexp(log_weights) - jnp.log(log_weights.size)
    return jnp.mean(on_data) + log_z, log_weights
