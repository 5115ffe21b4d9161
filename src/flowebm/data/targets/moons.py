"""Two interleaved half circles."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from flowebm.data.targets.target import AbstractTarget
from flowebm.refusal import Refused


class Moons(AbstractTarget):
    r"""Points uniform on one of two half circles, with isotropic Gaussian noise.

    $$p(x) = \frac{1}{2\pi} \sum_{k} \int_0^\pi \mathcal{N}(x; c_k(t), \sigma^2 I)\, dt, \quad
      c_1(t) = (\cos t, \sin t), \quad c_2(t) = (1 - \cos t, \tfrac12 - \sin t).$$

    The integral is a Gauss-Legendre sum, dense enough for double precision within ten units of
    the origin. The half turn $x \mapsto (1, \tfrac12) - x$ swaps the moons, so the mass that lies
    nearer to each is exactly one half, overlap included.

    Args:
        noise: Standard deviation $\sigma$ of the noise, in units of the circles' radius; at least
            0.05.

    Raises:
        ValueError: If `noise` is under 0.05.

    Source: scikit-learn's `make_moons`.
    """

    noise: float = eqx.field(static=True)
    shape: ClassVar[tuple[int, ...]] = (2,)
    cond_shape: ClassVar[None] = None

    def __init__(self, noise: float = 0.1):
        if not noise >= 0.05:
            raise Refused(f"The moons need noise of at least 0.05; got {noise}.")
        self.noise = float(noise)

    @property
    def mode_weights(self) -> Float[Array, " 2"]:
        return jnp.array([0.5, 0.5])

    def _arc(self, t):
        upper = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        lower = jnp.stack([1 - jnp.cos(t), 0.5 - jnp.sin(t)], axis=-1)
        return jnp.stack([upper, lower])

    def _mode_log_probs(self, x):
        # In t the integrand at radius r is a bell of width noise / sqrt(r); with this many
        # nodes their spacing stays under that width out to r = 10.
        nodes, weights = np.polynomial.legendre.leggauss(max(64, int(np.ceil(24 / self.noise))))
        squares = jnp.sum((x - self._arc(jnp.asarray(np.pi * (nodes + 1) / 2))) ** 2, axis=-1)
        log_kernels = -squares / (2 * self.noise**2) - jnp.log(2 * jnp.pi * self.noise**2)
        # The weights of the nodes add up to 2: a quarter of them is a moon's half.
        return logsumexp(log_kernels, b=jnp.asarray(weights) / 4, axis=1)

    def _log_prob(self, x, condition=None):
        return logsumexp(self._mode_log_probs(x))

    def _sample(self, key, condition=None):
        mode_key, arc_key, noise_key = jr.split(key, 3)
        arc = self._arc(jr.uniform(arc_key, maxval=jnp.pi))
        return arc[jr.choice(mode_key, 2)] + self.noise * jr.normal(noise_key, self.shape)

    def mode(self, x):
        return jnp.argmax(self._mode_log_probs(x))
