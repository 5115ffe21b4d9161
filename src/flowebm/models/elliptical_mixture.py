"""A mixture of normals with heavier tails: what covers several modes of any scale."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray


class EllipticalMixture(AbstractDistribution):
    r"""A mixture of normals, each of which has a heavy-tailed part.

    $$q(x) = \sum_k w_k \{(1 - \epsilon)\, \mathcal N(x; \mu_k, \Sigma_k)
      + \epsilon\, t_4(x; \mu_k, s^2 \Sigma_k)\}$$

    The parts share their squared distances, so the second is for free.

    Args:
        weights: $w_k$; they need not add up to one, and zeros are allowed.
        means: $\mu_k$, of shape `(K, d)`.
        factors: Lower triangular $L_k$ with $\Sigma_k = L_k L_k^T$, of shape `(K, d, d)`, or
            `(K, d)` of diagonal ones.
        tail_fraction: $\epsilon$, from 0 (normals alone) to below 1.
        tail_scale: $s$.

    Source: Hesterberg (1995), *Weighted average importance sampling and defensive mixture
    distributions*, for the heavy-tailed part.
    """

    log_weights: Float[Array, " K"]
    means: Float[Array, "K d"]
    factors: Array
    inverse_factors: Array
    tail_fraction: float = eqx.field(static=True)
    tail_scale: float = eqx.field(static=True)
    shape: tuple[int, ...]
    cond_shape: ClassVar[None] = None

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        factors: ArrayLike,
        *,
        tail_fraction: float = 0.0,
        tail_scale: float = 1.5,
    ):
        # On the host: each of these would be a program of its own to compile.
        with np.errstate(divide="ignore"):
            shares = np.asarray(weights, float)
            self.log_weights = jnp.asarray(np.log(shares / shares.sum()), jnp.float32)
        self.means = jnp.asarray(np.asarray(means), jnp.float32)
        on_host = np.asarray(factors, float)
        self.factors = jnp.asarray(on_host, jnp.float32)
        inverse = 1 / on_host if on_host.ndim == 2 else np.linalg.inv(on_host)
        self.inverse_factors = jnp.asarray(inverse, jnp.float32)
        self.tail_fraction = tail_fraction
        self.tail_scale = tail_scale
        self.shape = (self.means.shape[1],)

    @property
    def is_diagonal(self) -> bool:
        return self.factors.ndim == 2

    def components_log_prob(self, x: Float[Array, " d"]) -> Float[Array, " K"]:
        r"""$\log w_k + \log$ of the component's density, of each."""
        d = self.shape[0]
        centred = x - self.means
        diagonals = self.factors
        if self.is_diagonal:
            standard = centred * self.inverse_factors
        else:
            standard = jnp.einsum("kij,kj->ki", self.inverse_factors, centred)
            diagonals = jnp.diagonal(self.factors, axis1=1, axis2=2)
        squares = jnp.sum(standard**2, axis=1)
        log_prob = -0.5 * squares - 0.5 * d * jnp.log(2 * jnp.pi)
        if self.tail_fraction:
            scale = 4 * self.tail_scale**2
            tail = gammaln((4 + d) / 2) - 0.5 * d * jnp.log(scale * jnp.pi)
            tail = tail - (4 + d) / 2 * jnp.log1p(squares / scale)
            log_prob = jnp.logaddexp(
                jnp.log1p(-self.tail_fraction) + log_prob, jnp.log(self.tail_fraction) + tail
            )
        return self.log_weights + log_prob - jnp.log(jnp.abs(diagonals)).sum(axis=1)

    def _log_prob(self, x: Array, condition: Array | None = None) -> Array:
        return jax.nn.logsumexp(self.components_log_prob(x))

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        k_key, normal_key, uniform_key = jr.split(key, 3)
        k = jr.categorical(k_key, self.log_weights)
        normal = jr.normal(normal_key, self.shape)
        if self.tail_fraction:
            choice, *uniforms = jr.uniform(uniform_key, (3,), minval=1e-38)
            # Four degrees of freedom: a chi-squared number is the log of two uniform ones.
            chi_squared = -2 * (jnp.log(uniforms[0]) + jnp.log(uniforms[1]))
            radius = self.tail_scale * jnp.sqrt(4 / chi_squared)
            normal = jnp.where(choice < self.tail_fraction, radius, 1.0) * normal
        factor = self.factors[k]
        return self.means[k] + (factor * normal if self.is_diagonal else factor @ normal)
