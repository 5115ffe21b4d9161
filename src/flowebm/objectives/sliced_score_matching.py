"""Sliced score matching."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.objectives.objective import Objective, check_energy_model


def energy_score_and_slices(
    model: AbstractEnergyModel, x: Float[Array, "*shape"], directions: Float[Array, "n *shape"]
) -> tuple[Scalar, Float[Array, "*shape"], Float[Array, "n *shape"]]:
    r"""The energy, the score and the products $(\partial s / \partial x)\, v$ at one point.

    One forward-mode product over the reverse-mode gradient for each direction; energy and
    score come with it and are computed once.

    Args:
        model: The energy model.
        x: One point.
        directions: The directions $v$.

    Returns:
        $E(x)$, $s(x)$ and the products, one a row.
    """

    def product(v):
        (energy, gradient), (_, curvature) = jax.jvp(jax.value_and_grad(model.energy), (x,), (v,))
        return energy, -gradient, -curvature

    # The primal outputs do not depend on the direction, so vmap leaves them unbatched.
    return jax.vmap(product, out_axes=(None, None, 0))(directions)


def sliced_score_matching(
    model: AbstractEnergyModel,
    x: Float[Array, "*shape"],
    directions: Float[Array, "n *shape"],
    level_penalty: float = 0.0,
) -> Scalar:
    r"""$\tfrac12 \|s(x)\|^2 + \tfrac1n \sum_i v_i^T (\partial s / \partial x)\, v_i$ at one point.

    Args:
        model: The energy model.
        x: One point.
        directions: The slices $v_i$.
        level_penalty: $\lambda$ of the added $\lambda E(x)$.

    Returns:
        The loss of the point.
    """
    energy, score, products = energy_score_and_slices(model, x, directions)
    trace = jnp.sum(directions * products) / directions.shape[0]
    return 0.5 * jnp.sum(score**2) + trace + level_penalty * energy


def ssm(n_slices: int = 1, *, level_penalty: float = 0.0) -> Objective:
    r"""Sliced score matching with Rademacher slices (its variance-reduced form).

    $$\mathcal L = \overline{\tfrac12 \|s(x)\|^2
      + \tfrac1n \textstyle\sum_i v_i^T \tfrac{\partial s}{\partial x} v_i}
      + \lambda\,\overline{E(x)}$$

    Its expectation over the slices is `exact`. For any energy model with a smooth energy.

    Args:
        n_slices: Directions drawn for each point.
        level_penalty: $\lambda$.

    Returns:
        The objective `(model, x, key) -> loss`.

    Raises:
        ValueError: If there is no slice.

    Source: Song et al. (2019), eq. (8).
    """
    if n_slices < 1:
        raise ValueError(f"ssm needs at least one slice; got n_slices={n_slices}.")

    def objective(model, x: Float[Array, "batch *shape"], key: PRNGKeyArray) -> Scalar:
        check_energy_model("ssm", model, x)
        shape = (x.shape[0], n_slices, *x.shape[1:])
        directions = jax.random.rademacher(key, shape, x.dtype)
        losses = jax.vmap(lambda x, v: sliced_score_matching(model, x, v, level_penalty))
        return jnp.mean(losses(x, directions))

    return objective
