"""Where exploration starts that knows a point and no scale."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jax.scipy.stats import norm
from jax.scipy.stats import t as student_t
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from scipy.special import logsumexp

#: Scales of the normals, in units of the start's, and their weights.
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
WEIGHTS = (0.15, 0.2, 0.35, 0.2, 0.1)

#: Share of the density of independent coordinates, and its degrees of freedom.
INDEPENDENT, DF = 0.5, 1


class WideStart(AbstractDistribution):
    r"""A density of many scales around a point.

    $$b(z) = (1 - \epsilon) \sum_k w_k \prod_i \mathcal N(z_i; c_i, f_k^2 s_i^2)
      + \epsilon \prod_i \mathrm{Cauchy}(z_i; c_i, s_i)$$

    The first part finds what is of one scale in all coordinates, however many these are; the
    second what is far away or of another scale in some. Coordinates whose scale is known, such as
    those between two bounds, are normal in both.

    Args:
        centre: $c$.
        scale: $s$.
        known: Where the scale is known.
    """

    centre: Float[Array, " d"]
    scale: Float[Array, " d"]
    known: Bool[Array, " d"]
    shape: tuple[int, ...]
    cond_shape: ClassVar[None] = None

    def __init__(self, centre: Array, scale: Array, known: Array):
        self.centre = jnp.asarray(np.asarray(centre), jnp.float32)
        self.scale = jnp.asarray(np.asarray(scale), jnp.float32)
        self.known = jnp.asarray(np.asarray(known))
        self.shape = self.centre.shape

    def _scales(self) -> Float[Array, "k d"]:
        return self.scale * jnp.where(self.known, 1.0, jnp.asarray(FACTORS)[:, None])

    def _log_prob(self, x: Array, condition: Array | None = None) -> Array:
        normals = norm.logpdf(x, self.centre, self._scales()).sum(axis=1)
        together = jax.nn.logsumexp(normals + jnp.log(jnp.asarray(WEIGHTS)))
        standard = (x - self.centre) / self.scale
        apart = jnp.where(self.known, norm.logpdf(standard), student_t.logpdf(standard, DF))
        apart = jnp.sum(apart - jnp.log(self.scale))
        return jnp.logaddexp(jnp.log(1 - INDEPENDENT) + together, jnp.log(INDEPENDENT) + apart)

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        choice_key, k_key, key = jr.split(key, 3)
        k = jr.categorical(k_key, jnp.log(jnp.asarray(WEIGHTS)))
        normal, tail = jr.normal(key, (2, *self.shape))
        apart = jnp.where(self.known, self.scale, self.scale / jnp.abs(tail))
        is_apart = jr.bernoulli(choice_key, INDEPENDENT)
        return self.centre + jnp.where(is_apart, apart, self._scales()[k]) * normal

    def on_host(
        self, rng: np.random.Generator, n: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws and their log-densities without a program to compile."""
        centre, scale, known = map(np.asarray, (self.centre, self.scale, self.known))
        d = centre.size
        factors = np.where(known, 1.0, np.asarray(FACTORS)[:, None])
        normal = rng.standard_normal((n, d))
        tail = np.where(known, 1.0, 1 / np.abs(rng.standard_normal((n, d))))
        k = rng.choice(len(FACTORS), n, p=WEIGHTS)
        is_apart = rng.random(n) < INDEPENDENT
        x = centre + scale * np.where(is_apart[:, None], tail, factors[k]) * normal
        x = x.astype(np.float32)
        standard = (x - centre) / scale
        constant = -0.5 * np.log(2 * np.pi)
        together = [
            np.log(weight)
            + np.sum(constant - 0.5 * (standard / factor) ** 2 - np.log(factor), axis=1)
            for weight, factor in zip(WEIGHTS, factors, strict=True)
        ]
        cauchy = -np.log(np.pi) - np.log1p(standard**2)
        apart = np.sum(np.where(known, constant - 0.5 * standard**2, cauchy), axis=1)
        log_prob = np.logaddexp(
            np.log(1 - INDEPENDENT) + logsumexp(together, axis=0), np.log(INDEPENDENT) + apart
        )
        return x, log_prob - np.log(scale).sum()
