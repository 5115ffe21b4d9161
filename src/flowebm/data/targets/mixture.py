"""The reference mixture: four Gaussians of unequal weight, in any dimension."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from flowebm.data.targets.target import AbstractTarget
from flowebm.refusal import Refused


class GaussianMixture4(AbstractTarget):
    r"""Four isotropic Gaussians on the corners of a square.

    $$p(x) = \sum_{k=1}^4 w_k \, \mathcal{N}(x; \mu_k, \sigma^2 I), \qquad
      w = (0.5, 0.25, 0.15, 0.1),$$

    with $\mu_k = (\pm 4, \pm 4, 0, \dots, 0)$ in the order (+,+), (-,+), (+,-), (-,-). The modes
    are more than five standard deviations from the planes between them.

    Args:
        dim: Number of coordinates, at least 2.
        sd: Standard deviation $\sigma$ of a mode; 0.5 in two dimensions and 0.7 above unless
            given.

    Raises:
        ValueError: If `dim` is under 2 or `sd` is not positive.

    Source: Grenioux, Moulines, Gabrié (2023), for the setting.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    sd: float = eqx.field(static=True)
    cond_shape: ClassVar[None] = None

    def __init__(self, dim: int = 2, sd: float | None = None):
        if dim < 2:
            raise Refused(f"The four-mode mixture needs dim of at least 2; got {dim}.")
        if sd is not None and not sd > 0:
            raise Refused(f"The four-mode mixture needs a positive sd; got {sd}.")
        self.shape = (dim,)
        self.sd = (0.5 if dim == 2 else 0.7) if sd is None else float(sd)

    @property
    def mode_weights(self) -> Float[Array, " 4"]:
        return jnp.array([0.5, 0.25, 0.15, 0.1])

    @property
    def means(self) -> Float[Array, "4 d"]:
        """The centres of the modes."""
        corners = jnp.array([[4.0, 4.0], [-4.0, 4.0], [4.0, -4.0], [-4.0, -4.0]])
        return jnp.pad(corners, ((0, 0), (0, self.shape[0] - 2)))

    def _mode_log_probs(self, x):
        return jnp.log(self.mode_weights) + norm.logpdf(x, self.means, self.sd).sum(axis=1)

    def _log_prob(self, x, condition=None):
        return logsumexp(self._mode_log_probs(x))

    def _sample(self, key, condition=None):
        mode_key, noise_key = jr.split(key)
        mode = jr.choice(mode_key, 4, p=self.mode_weights)
        return self.means[mode] + self.sd * jr.normal(noise_key, self.shape)

    def mode(self, x):
        return jnp.argmax(self._mode_log_probs(x))
