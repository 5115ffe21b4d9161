r"""Four densities that are no Gaussians among idle directions, with exact values and exact draws.

- `bananas` (5-d): populations of 0.7 and 0.3 of Student's t with 6 degrees of freedom, of which
  one coordinate bends another, $x_2 = y_2 \pm 0.3\,(y_1^2 - 1)$.
- `unequal` (6-d): twelve Gaussians with weights from a Dirichlet distribution and covariances of
  axes between 0.15 and 1.2 in random directions.
- `helix` (3-d): two turns of a helix with noise of 0.08; the density is an integral along the curve
  by quadrature.
- `copula` (8-d): Student's t copula of 4 degrees of freedom under skewed and bounded margins: two
  lognormal, an exponential, a Weibull, two Kumaraswamy and two Gumbel distributions.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import gammaln, logsumexp, ndtr, ndtri
from jax.scipy.stats import norm

from flowebm.data.targets import AbstractTarget


class _Unlabelled(AbstractTarget):
    """A density whose modes nobody counts."""

    cond_shape: ClassVar[None] = None

    @property
    def mode_weights(self):
        return None

    def mode(self, x):
        return jnp.zeros((), jnp.int32)


def _t_log_prob(y, degrees: float):
    """A spherical Student's t."""
    d = y.size
    constant = gammaln((degrees + d) / 2) - gammaln(degrees / 2)
    constant -= 0.5 * d * jnp.log(degrees * jnp.pi)
    return constant - (degrees + d) / 2 * jnp.log1p(jnp.sum(y**2) / degrees)


def _t_draw(key, d: int, degrees: float):
    normal_key, gamma_key = jr.split(key)
    scale = jnp.sqrt(0.5 * degrees / jr.gamma(gamma_key, 0.5 * degrees))
    return scale * jr.normal(normal_key, (d,))


class Bananas(_Unlabelled):
    """Two bent populations with heavy tails."""

    shape: ClassVar[tuple[int, ...]] = (5,)

    @property
    def _populations(self):
        centers = jnp.array([[0.0, 0.0, 0.0, 0.0, 0.0], [3.0, 2.0, -2.0, 1.0, 0.0]])
        return (
            jnp.log(jnp.array([0.7, 0.3])),
            centers,
            jnp.array([0.3, -0.3]),
            jnp.array([1.0, 0.6]),
        )

    def _log_prob(self, x, condition=None):
        def of_one(log_weight, center, bend, scale):
            y = (x - center) / scale
            y = y.at[1].add(-bend * (y[0] ** 2 - 1))
            return log_weight + _t_log_prob(y, 6.0) - 5 * jnp.log(scale)

        return logsumexp(jax.vmap(of_one)(*self._populations))

    def _sample(self, key, condition=None):
        which_key, t_key = jr.split(key)
        log_weights, centers, bends, scales = self._populations
        k = jr.categorical(which_key, log_weights)
        y = _t_draw(t_key, 5, 6.0)
        return scales[k] * y.at[1].add(bends[k] * (y[0] ** 2 - 1)) + centers[k]


class Unequal(_Unlabelled):
    """Twelve unequal Gaussians."""

    log_weights: jax.Array
    means: jax.Array
    factors: jax.Array
    shape: ClassVar[tuple[int, ...]] = (6,)

    def __init__(self):
        rng = np.random.default_rng(12)
        turns = np.linalg.qr(rng.normal(size=(12, 6, 6)))[0]
        axes = np.exp(rng.uniform(np.log(0.15), np.log(1.2), (12, 1, 6)))
        covariances = (turns * axes**2) @ turns.swapaxes(1, 2)
        self.log_weights = jnp.log(jnp.asarray(rng.dirichlet(np.full(12, 2.0)), float))
        self.means = jnp.asarray(rng.normal(size=(12, 6)) * 2.0, float)
        self.factors = jnp.asarray(np.linalg.cholesky(covariances), float)

    def _log_prob(self, x, condition=None):
        def of_one(log_weight, mean, factor):
            z = jax.scipy.linalg.solve_triangular(factor, x - mean, lower=True)
            return log_weight + norm.logpdf(z).sum() - jnp.log(jnp.diagonal(factor)).sum()

        return logsumexp(jax.vmap(of_one)(self.log_weights, self.means, self.factors))

    def _sample(self, key, condition=None):
        which_key, key = jr.split(key)
        k = jr.categorical(which_key, self.log_weights)
        return self.means[k] + self.factors[k] @ jr.normal(key, (6,))


class Helix(_Unlabelled):
    """A thin curve: two turns of a helix."""

    noise: float = eqx.field(static=True, default=0.08)
    shape: ClassVar[tuple[int, ...]] = (3,)

    @staticmethod
    def _curve(t):
        angle = 4 * jnp.pi * t
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), 3 * (t - 0.5)], axis=-1)

    def _log_prob(self, x, condition=None):
        # Midpoints 0.013 apart along the curve, a sixth of the noise: exact in single precision.
        curve = self._curve((jnp.arange(1024) + 0.5) / 1024)
        return logsumexp(norm.logpdf(x, curve, self.noise).sum(axis=-1)) - jnp.log(1024.0)

    def _sample(self, key, condition=None):
        t_key, noise_key = jr.split(key)
        return self._curve(jr.uniform(t_key)) + self.noise * jr.normal(noise_key, (3,))


class Copula(_Unlabelled):
    """Skewed and bounded margins under a Student's t copula of 4 degrees of freedom."""

    factor: jax.Array
    shape: ClassVar[tuple[int, ...]] = (8,)

    def __init__(self):
        loadings = np.random.default_rng(8).normal(size=(8, 3))
        covariance = loadings @ loadings.T + 0.5 * np.eye(8)
        sd = np.sqrt(np.diag(covariance))
        self.factor = jnp.asarray(np.linalg.cholesky(covariance / np.outer(sd, sd)), float)

    @staticmethod
    def _values(u):
        """Quantiles of the margins."""
        return jnp.stack(
            [
                jnp.exp(0.6 * ndtri(u[0])),
                jnp.exp(0.9 * ndtri(u[1])),
                -jnp.log1p(-u[2]),
                (-jnp.log1p(-u[3])) ** (1 / 1.5),
                (1 - (1 - u[4]) ** (1 / 5)) ** (1 / 2),
                (1 - (1 - u[5]) ** (1 / 1.5)) ** (1 / 1.5),
                -jnp.log(-jnp.log(u[6])),
                -2 * jnp.log(-jnp.log(u[7])),
            ]
        )

    @staticmethod
    def _levels(x):
        """Distribution functions of the margins."""
        return jnp.stack(
            [
                ndtr(jnp.log(x[0]) / 0.6),
                ndtr(jnp.log(x[1]) / 0.9),
                -jnp.expm1(-x[2]),
                -jnp.expm1(-(x[3] ** 1.5)),
                1 - (1 - x[4] ** 2) ** 5,
                1 - (1 - x[5] ** 1.5) ** 1.5,
                jnp.exp(-jnp.exp(-x[6])),
                jnp.exp(-jnp.exp(-x[7] / 2)),
            ]
        )

    @staticmethod
    def _t_quantile(u):
        """Shaw (2006), *Sampling Student's t distribution*, equation 36, of 4 degrees."""
        a = jnp.sqrt(4 * u * (1 - u))
        q = jnp.cos(jnp.arccos(a) / 3) / a
        return jnp.sign(u - 0.5) * 2 * jnp.sqrt(jnp.maximum(q - 1, 1e-12))

    @staticmethod
    def _t_level(t):
        r = t / jnp.sqrt(1 + t**2 / 4)
        return 0.5 + 0.375 * r * (1 - r**2 / 12)

    def _log_prob(self, x, condition=None):
        u = jnp.clip(self._levels(x), 1e-7, 1 - 1e-7)
        slopes = jnp.diagonal(jax.jacfwd(self._levels)(x))
        z = self._t_quantile(u)
        y = jax.scipy.linalg.solve_triangular(self.factor, z, lower=True)
        joint = _t_log_prob(y, 4.0) - jnp.log(jnp.diagonal(self.factor)).sum()
        alone = jax.vmap(lambda t: _t_log_prob(t[None], 4.0))(z).sum()
        return joint - alone + jnp.log(slopes).sum()

    def _sample(self, key, condition=None):
        z = self.factor @ _t_draw(key, 8, 4.0)
        return self._values(jnp.clip(self._t_level(z), 1e-7, 1 - 1e-7))


TARGETS = {"bananas": Bananas, "unequal": Unequal, "helix": Helix, "copula": Copula}
