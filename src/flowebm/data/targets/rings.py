"""Two concentric rings of unequal mass."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import i0e, logsumexp
from jaxtyping import Array, Float

from flowebm.data.targets.target import AbstractTarget
from flowebm.refusal import Refused


class Rings(AbstractTarget):
    r"""Points uniform on one of two circles, with isotropic Gaussian noise.

    A circle of radius $R$ convolved with $\mathcal{N}(0, \sigma^2 I)$ has a closed form, smooth at
    the origin: with $r = \|x\|$ and $I_0$ the modified Bessel function,

    $$p(x) = \sum_k \frac{w_k}{2\pi\sigma^2}
      \exp\Big(-\frac{r^2 + R_k^2}{2\sigma^2}\Big) I_0\Big(\frac{r R_k}{\sigma^2}\Big),
      \qquad R = (1, 3), \quad w = (0.7, 0.3).$$

    The modes are the rings, the inner one first.

    Args:
        noise: Standard deviation $\sigma$ of the noise, in the units of the radii; at most 0.25,
            so that the rings stay apart and their masses are $w$.

    Raises:
        ValueError: If `noise` is not in (0, 0.25].

    Source: Rice (1945), *Mathematical analysis of random noise*, whose law a ring's radius has.
    """

    noise: float = eqx.field(static=True)
    shape: ClassVar[tuple[int, ...]] = (2,)
    cond_shape: ClassVar[None] = None

    def __init__(self, noise: float = 0.2):
        if not 0 < noise <= 0.25:
            raise Refused(f"The rings need noise above 0 and at most 0.25; got {noise}.")
        self.noise = float(noise)

    @property
    def mode_weights(self) -> Float[Array, " 2"]:
        return jnp.array([0.7, 0.3])

    @property
    def radii(self) -> Float[Array, " 2"]:
        """The radii of the rings."""
        return jnp.array([1.0, 3.0])

    def _mode_log_probs(self, x):
        # The floor keeps the gradient at the origin zero instead of 0/0.
        r = jnp.sqrt(jnp.maximum(jnp.sum(x**2), jnp.finfo(x.dtype).tiny))
        variance = self.noise**2
        # i0e(z) = exp(-z) I0(z): the exponents combine to a square and nothing overflows.
        return (
            jnp.log(self.mode_weights / (2 * jnp.pi * variance))
            - (r - self.radii) ** 2 / (2 * variance)
            + jnp.log(i0e(r * self.radii / variance))
        )

    def _log_prob(self, x, condition=None):
        return logsumexp(self._mode_log_probs(x))

    def _sample(self, key, condition=None):
        mode_key, angle_key, noise_key = jr.split(key, 3)
        radius = self.radii[jr.choice(mode_key, 2, p=self.mode_weights)]
        angle = jr.uniform(angle_key, maxval=2 * jnp.pi)
        circle = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return circle + self.noise * jr.normal(noise_key, self.shape)

    def mode(self, x):
        return jnp.argmax(self._mode_log_probs(x))
