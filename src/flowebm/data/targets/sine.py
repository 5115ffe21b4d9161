"""A sine wave with Gaussian noise."""

from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
from jax.scipy.stats import norm

from flowebm.data.targets.target import AbstractTarget


class Sine(AbstractTarget):
    r"""EBFlow's sine: $x = 4\,(a, \sin 3a + n/4)$ with $a \sim U(-2, 2)$, $n \sim N(0, 1)$.

    $$p(x) = \tfrac{1}{16}\, \mathcal{N}\big(x_2;\, 4 \sin \tfrac34 x_1,\, 1\big)
      \quad\text{for } |x_1| \le 8, \text{ and } 0 \text{ elsewhere.}$$

    Source: Chao et al. (2023), 2-D experiments.
    """

    shape: ClassVar[tuple[int, ...]] = (2,)
    cond_shape: ClassVar[None] = None
    mode_weights: ClassVar[None] = None

    def _log_prob(self, x, condition=None):
        log_prob = norm.logpdf(x[1], 4 * jnp.sin(0.75 * x[0])) - jnp.log(16)
        return jnp.where(jnp.abs(x[0]) <= 8, log_prob, -jnp.inf)

    def _sample(self, key, condition=None):
        wave_key, noise_key = jr.split(key)
        a = jr.uniform(wave_key, minval=-2, maxval=2)
        return 4 * jnp.stack([a, jnp.sin(3 * a) + jr.normal(noise_key) / 4])

    def mode(self, x):
        return jnp.zeros((), int)
