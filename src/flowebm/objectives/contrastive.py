"""The likelihood of an energy model through its gradient: data against model samples."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.over_points import values_of_both


def contrastive_likelihood(
    model: AbstractEnergyModel,
    data: Float[Array, "n *shape"],
    samples: Float[Array, "m *shape"],
    weights: Float[Array, " m"] | None = None,
    *,
    penalty: float = 0.0,
) -> tuple[Scalar, tuple[Scalar, Float[Array, " n"]]]:
    r"""A function whose gradient is that of the negative log-likelihood.

    $$\mathcal L(\theta) = \tfrac1n \sum_i E_\theta(x_i) - \sum_j w_j E_\theta(y_j), \qquad
      \nabla \mathcal L = \mathbb E_\text{data}[\nabla E_\theta]
      - \widehat{\mathbb E}_{p_\theta}[\nabla E_\theta]$$

    Its value is the energy gap, which is no measure of fit. Samples and weights are held
    constant.

    Args:
        model: The energy model.
        data: Data points, one a row.
        samples: Points of the model: chain states, or a whole pool of proposals.
        weights: Weights of the samples, adding up to one (waste-recycled estimate); equal
            ones by default.
        penalty: Factor $\lambda$ of $\lambda\, (\overline{E(x)^2} + \overline{E(y)^2})$,
            which keeps the energies small; the samples' mean is the weighted one.

    Returns:
        The value, and as auxiliary output the energy gap (nats) and the energies of the data.

    Source: Grenioux, Moulines, Gabrié (2023), section 2.
    """
    samples = jax.lax.stop_gradient(samples)
    on_data, on_samples = values_of_both(model.energy, data, samples)

    def model_mean(values):
        if weights is None:
            return jnp.mean(values)
        return jnp.sum(jax.lax.stop_gradient(weights) * values)

    gap = jnp.mean(on_data) - model_mean(on_samples)
    loss = gap
    if penalty:
        loss = loss + penalty * (jnp.mean(on_data**2) + model_mean(on_samples**2))
    return loss, (gap, on_data)
