"""Maximum likelihood by samples instead of determinants."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.over_points import values_of_both
from flowebm.objectives.objective import Objective, check_normalized


def sml(level_penalty: float = 0.0) -> Objective:
    r"""Sampled maximum likelihood, $\mathcal L = \overline{E(x)} - \overline{E(x')}$.

    $x'$ are as many exact samples of the model, held constant. The gradient is unbiased for
    that of the negative log-likelihood, since $\nabla \log Z = -\mathbb E_p[\nabla E]$; the
    value is the energy gap and measures nothing. For models that sample exactly, as an
    EBFlow: sampling solves with its linear layers, no determinant is computed.

    Args:
        level_penalty: $\lambda$ of the added $\lambda\,\overline{E(x)}$.

    Returns:
        The objective `(model, x, key) -> loss`, in nats.

    Source: Chao et al. (2023), section 4 and appendix.
    """

    def objective(model, x: Float[Array, "batch *shape"], key: PRNGKeyArray) -> Scalar:
        check_normalized("sml", model, x)
        arrays, static = eqx.partition(model, eqx.is_array)
        # Stopped before sampling, so that the inverse is not differentiated for nothing.
        held = eqx.combine(jax.lax.stop_gradient(arrays), static)
        samples = held.sample(key, (x.shape[0],))
        on_data, on_samples = values_of_both(model.energy, x, samples)
        return (1 + level_penalty) * jnp.mean(on_data) - jnp.mean(on_samples)

    return objective
