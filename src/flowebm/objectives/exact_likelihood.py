"""Exact maximum likelihood."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.objectives.objective import Objective, check_normalized


def ml(level_penalty: float = 0.0) -> Objective:
    r"""Negative log-likelihood, $\mathcal L = -\overline{\log p(x)} + \lambda\,\overline{E(x)}$.

    For models with an exact `log_prob`, as an EBFlow. It computes the determinants of all
    linear layers, in $O(D^3)$ for full ones.

    Args:
        level_penalty: $\lambda$, weight of the mean energy of the data.

    Returns:
        The objective `(model, x, key) -> loss` in nats a point; the key is not used.

    Source: Chao et al. (2023), section 2.
    """

    def objective(model, x: Float[Array, "batch *shape"], key: PRNGKeyArray) -> Scalar:
        check_normalized("ml", model, x)
        loss = -jnp.mean(model.log_prob(x))
        if level_penalty:
            loss = loss + level_penalty * jnp.mean(jax.vmap(model.energy)(x))
        return loss

    return objective
