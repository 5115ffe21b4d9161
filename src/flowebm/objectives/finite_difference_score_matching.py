"""Sliced score matching by finite differences."""

from math import sqrt

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.over_points import mean_over_points
from flowebm.objectives.objective import Objective, check_energy_model
from flowebm.refusal import Refused


def finite_difference_sliced_score_matching(
    model: AbstractEnergyModel,
    x: Float[Array, "*shape"],
    direction: Float[Array, "*shape"],
    step: float,
    level_penalty: float = 0.0,
) -> Scalar:
    r"""The finite-difference loss of one point along one direction; see `fdssm`.

    Args:
        model: The energy model.
        x: One point.
        direction: $r$, of $\pm 1$.
        step: $\varepsilon$, the length of $v = \varepsilon\, r / \sqrt D$.
        level_penalty: $\lambda$ of the added $\lambda E(x)$.

    Returns:
        The loss of the point.
    """
    v = step / sqrt(x.size) * direction
    here, ahead, behind = jax.vmap(model.energy)(jnp.stack([x, x + v, x - v]))
    squared_slope = (ahead - behind) ** 2 / 8
    # Pairing the differences keeps more digits than 2 E(x) - E(x + v) - E(x - v).
    curvature = (ahead - here) - (here - behind)
    return x.size / step**2 * (squared_slope - curvature) + level_penalty * here


def fdssm(step: float = 0.1, *, level_penalty: float = 0.0) -> Objective:
    r"""Finite-difference sliced score matching: three energies a point and no gradient in $x$.

    With $\|v\| = \varepsilon$, $v = \varepsilon\, r / \sqrt D$, $r$ Rademacher:

    $$\mathcal L = \overline{\frac{D}{\varepsilon^2} \left[ \tfrac18 (E_+ - E_-)^2
      + 2 E_0 - E_+ - E_- \right]} + \lambda\,\overline{E(x)}$$

    By Taylor's theorem the bracket is $\tfrac12 (v^T \nabla E)^2 - v^T (\nabla^2 E) v +
    O(\varepsilon^4)$, and $\mathbb E[v v^T] = (\varepsilon^2 / D) I$: the factor $D /
    \varepsilon^2$ makes the expectation that of `ssm`, $\tfrac12 \|s\|^2 + \mathrm{tr}\,
    \partial s / \partial x$, up to $O(\varepsilon^2)$. For any energy model with a smooth
    energy. Rounding adds an error of about $D\,\epsilon\,|E| / \varepsilon^2$, with
    $\epsilon = 10^{-7}$ in float32: do not take small steps there.

    Args:
        step: $\varepsilon$, in the units of $x$.
        level_penalty: $\lambda$.

    Returns:
        The objective `(model, x, key) -> loss`.

    Raises:
        ValueError: If the step is not positive.

    Source: Pang et al. (2020), *Efficient learning of generative models via finite-difference
    score matching*.
    """
    if not step > 0:
        raise Refused(f"fdssm needs a positive step; got {step}.")

    def mean_loss(model, x, directions):
        losses = jax.vmap(
            lambda x, r: finite_difference_sliced_score_matching(model, x, r, step, level_penalty)
        )
        return jnp.mean(losses(x, directions))

    def objective(model, x: Float[Array, "batch *shape"], key: PRNGKeyArray) -> Scalar:
        check_energy_model("fdssm", model, x)
        directions = jax.random.rademacher(key, x.shape, x.dtype)
        return mean_over_points(mean_loss, model, x, directions)

    return objective
