"""Denoising score matching."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.over_points import mean_over_points
from flowebm.objectives.objective import Objective, check_energy_model
from flowebm.refusal import Refused


def dsm(sigma: float | Sequence[float] = 0.1, *, level_penalty: float = 0.0) -> Objective:
    r"""Denoising score matching.

    $$\mathcal L = \overline{\tfrac12 \left\| s(x + \sigma\xi) + \xi / \sigma \right\|^2}
      + \lambda\,\overline{E(x + \sigma\xi)}, \qquad \xi \sim N(0, I)$$

    Its minimiser is the score of the *noised* data: of the data convolved with
    $N(0, \sigma^2 I)$. With several $\sigma$, each point draws one of them with equal
    probability, and the minimiser is the score of the data convolved with that mixture of
    normals. One reverse-mode gradient a point. For any energy model.

    Args:
        sigma: Standard deviation $\sigma$ of the noise, in the units of $x$; or several.
        level_penalty: $\lambda$.

    Returns:
        The objective `(model, x, key) -> loss`.

    Raises:
        ValueError: If a `sigma` is not positive and finite, or there is none.

    Source: Vincent (2011), section 4.2.
    """
    sigmas = np.atleast_1d(np.asarray(sigma, float))
    if sigmas.ndim != 1 or not sigmas.size or not np.all((sigmas > 0) & np.isfinite(sigmas)):
        raise Refused(f"dsm needs positive, finite noise levels sigma; got {sigma}.")

    def mean_loss(model, x, noise, sigmas):
        def point_loss(x, noise, sigma):
            energy, gradient = jax.value_and_grad(model.energy)(x + sigma * noise)
            return 0.5 * jnp.sum((noise / sigma - gradient) ** 2) + level_penalty * energy

        return jnp.mean(jax.vmap(point_loss)(x, noise, sigmas))

    def objective(model, x: Float[Array, "batch *shape"], key: PRNGKeyArray) -> Scalar:
        check_energy_model("dsm", model, x)
        level_key, noise_key = jax.random.split(key)
        levels = jax.random.choice(level_key, jnp.asarray(sigmas, x.dtype), (x.shape[0],))
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        return mean_over_points(mean_loss, model, x, noise, levels)

    return objective
