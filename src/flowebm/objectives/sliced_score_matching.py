"""Sliced score matching."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.over_points import mean_over_points
from flowebm.objectives.common_subexpressions import eliminate_common_subexpressions
from flowebm.objectives.objective import Objective, check_energy_model
from flowebm.refusal import Refused


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


@eqx.filter_custom_vjp
def one_slice_each(
    differentiated: tuple[AbstractEnergyModel, Float[Array, "batch *shape"]],
    directions: Float[Array, "batch *shape"],
    level_penalty: float = 0.0,
) -> Scalar:
    r"""The mean of `sliced_score_matching` over points with one slice each.

    Its gradient in the parameters comes from the second derivative of the *energy's* gradient
    along a curve through each point:

    $$\nabla_\theta \left[\tfrac12 \|s\|^2 + v^T \tfrac{\partial s}{\partial x} v\right]
      = -\frac{d^2}{dt^2} \nabla_\theta E\!\left(x + t v + \tfrac12 t^2 s\right) \Big|_{t=0},$$

    where the $s$ that bends the curve is held constant: the second derivative of $E$ along it is
    $v^T \nabla^2 E\, v + s^T \nabla E$. A gradient takes three products with each matrix of a
    network, its two derivatives three each: nine, where automatic differentiation of the value,
    itself a derivative of a gradient, takes twelve. Of a first layer's nine, the two that carry
    derivatives back to the point are for parameters in front of it alone.

    Args:
        differentiated: The model and the points. It can be differentiated in the model only.
        directions: The slices $v$, one for each point.
        level_penalty: $\lambda$ of the added $\lambda\,\overline{E(x)}$.

    Returns:
        The mean loss.

    Raises:
        TypeError: If it is differentiated in the points.

    Source: Song et al. (2019), eq. (8), for the loss; `docs/ebflow.md` for its gradient.
    """
    model, x = differentiated
    losses = jax.vmap(lambda x, v: sliced_score_matching(model, x, v[None], level_penalty))
    return jnp.mean(losses(x, directions))


@one_slice_each.def_fwd
def _(perturbed, differentiated, directions, level_penalty=0.0):
    (model_perturbed, x_perturbed), (model, x) = perturbed, differentiated
    if x_perturbed:
        raise TypeError("Sliced score matching is differentiated in the model's parameters only.")
    params, static = eqx.partition(model, model_perturbed)

    def value_and_gradient(x, v):
        def at(x):
            def energy(params, x):
                return jnp.sum(jax.vmap(eqx.combine(params, static).energy)(x))

            value, gradients = jax.value_and_grad(energy, argnums=(0, 1))(params, x)
            return value, *gradients

        def first_derivative(x, velocity):
            return jax.jvp(lambda x: at(x)[:2], (x,), (velocity,))[1]

        energy, level_gradient, gradient = at(x)
        # The energy's second derivative is v'Hv - s's, and asks for none of the score.
        curvature, second_derivative = jax.jvp(first_derivative, (x, v), (v, -gradient))[1]
        value = -curvature - 0.5 * jnp.sum(gradient**2)
        slope = jax.tree.map(jnp.negative, second_derivative)
        # Zero times the energy's own gradient would be computed.
        if level_penalty:
            value += level_penalty * energy
            slope = jax.tree.map(lambda s, level: s + level_penalty * level, slope, level_gradient)
        return jax.tree.map(lambda total: total / x.shape[0], (value, slope))

    return eliminate_common_subexpressions(value_and_gradient)(x, directions)


@one_slice_each.def_bwd
def _(gradient, cotangent, perturbed, differentiated, directions, level_penalty=0.0):
    return jax.tree.map(lambda g: cotangent * g, gradient), None


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
        raise Refused(f"ssm needs at least one slice; got n_slices={n_slices}.")

    def objective(model, x: Float[Array, "batch *shape"], key: PRNGKeyArray) -> Scalar:
        check_energy_model("ssm", model, x)
        shape = (x.shape[0], n_slices, *x.shape[1:])
        directions = jax.random.rademacher(key, shape, x.dtype)

        def mean_loss(model, x, directions):
            if n_slices == 1:
                return one_slice_each((model, x), directions[:, 0], level_penalty)
            losses = jax.vmap(lambda x, v: sliced_score_matching(model, x, v, level_penalty))
            return jnp.mean(losses(x, directions))

        return mean_over_points(mean_loss, model, x, directions)

    return objective
