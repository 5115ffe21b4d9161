"""Exact score matching."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.over_points import mean_over_points
from flowebm.objectives.objective import Objective, check_energy_model
from flowebm.objectives.sliced_score_matching import energy_score_and_slices


def exact(level_penalty: float = 0.0) -> Objective:
    r"""Score matching with the whole trace, for points of few entries.

    $$\mathcal L = \overline{\tfrac12 \|s(x)\|^2 + \mathrm{tr}\tfrac{\partial s}{\partial x}}
      + \lambda\,\overline{E(x)}$$

    Up to a constant of the data this is the Fisher divergence to the data's density. It costs
    $D$ times what `ssm` costs. For any energy model with a smooth energy.

    Args:
        level_penalty: $\lambda$.

    Returns:
        The objective `(model, x, key) -> loss`; the key is not used.

    Source: Hyvärinen (2005), theorem 1.
    """

    def point_loss(model, x):
        basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
        energy, score, products = energy_score_and_slices(model, x, basis)
        return 0.5 * jnp.sum(score**2) + jnp.sum(basis * products) + level_penalty * energy

    def mean_loss(model, x):
        return jnp.mean(jax.vmap(lambda x: point_loss(model, x))(x))

    def objective(model, x: Float[Array, "batch *shape"], key: PRNGKeyArray) -> Scalar:
        check_energy_model("exact", model, x)
        return mean_over_points(mean_loss, model, x)

    return objective
