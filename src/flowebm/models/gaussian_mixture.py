"""Mixtures of Gaussians as densities."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.batches import on_device
from flowebm.models.expectation_maximisation import responsibilities, squared_distances
from flowebm.models.recipe import register

#: The logarithm of the weight of components that fill a mixture up: finite, as what is saved is.
NO_WEIGHT = -1e4

#: Share of each column's variance that is added where a covariance has lost its rank to rounding.
RESOLUTION = 1e-12


@register
class GaussianMixture(AbstractDistribution):
    r"""$p(x) = \sum_k w_k\, \mathcal N(x; \mu_k, L_k L_k^\top)$, fitted in closed form.

    Args:
        log_weights: $\log w_k$, adding up to one.
        means: $\mu_k$.
        factors: $L_k$, lower triangular.
        inverse_factors: $L_k^{-1}$, kept so that a density costs products only.

    Source: McLachlan and Peel (2000), *Finite mixture models*, chapter 3.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    factors: Float[Array, "k d d"]
    inverse_factors: Float[Array, "k d d"]
    cond_shape = None

    # Written out because type checkers take the abstract attributes for the first fields.
    def __init__(self, log_weights: Array, means: Array, factors: Array, inverse_factors: Array):
        self.log_weights = log_weights
        self.means = means
        self.factors = factors
        self.inverse_factors = inverse_factors

    @property
    def shape(self) -> tuple[int, ...]:
        # Wrapped where it is not trained.
        return jax.tree.leaves(self.means)[0].shape[1:]

    @property
    def n_components(self) -> int:
        """The number of components that weigh something."""
        return len(self._on_host()[0])

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        z = jnp.einsum("kij,kj->ki", self.inverse_factors, x - self.means)
        diagonals = jnp.diagonal(self.inverse_factors, axis1=1, axis2=2)
        log_norm = jnp.log(jnp.abs(diagonals)).sum(axis=1) - 0.5 * x.size * jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(self.log_weights + log_norm - 0.5 * jnp.sum(z**2, axis=1))

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        choice_key, normal_key = jr.split(key)
        k = jr.categorical(choice_key, self.log_weights)
        return self.means[k] + self.factors[k] @ jr.normal(normal_key, self.shape)

    def log_prob_rows(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """`log_prob` of many points in double precision on the host: nothing is compiled."""
        return self.responsibilities(points)[1]

    def responsibilities(
        self, points: Float[np.ndarray, "n d"]
    ) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
        """The probability of every component, given the point, and `log_prob_rows`."""
        log_weights, means, _, inverse_factors = self._on_host()
        squares = squared_distances(points, means, inverse_factors)
        diagonals = np.abs(np.diagonal(inverse_factors, axis1=1, axis2=2))
        log_norms = np.log(diagonals).sum(axis=1) - 0.5 * points.shape[1] * np.log(2 * np.pi)
        return responsibilities(log_weights + log_norms - 0.5 * squares)

    def draw_rows(self, rng: np.random.Generator, n: int) -> Float[np.ndarray, "n d"]:
        """Independent draws in double precision on the host, component by component."""
        log_weights, means, factors, _ = self._on_host()
        weights = np.exp(log_weights)
        counts = rng.multinomial(n, weights / weights.sum())
        normals = np.split(rng.standard_normal((n, means.shape[1])), np.cumsum(counts)[:-1])
        parts = zip(normals, means, factors, strict=True)
        return np.concatenate([mean + z @ factor.T for z, mean, factor in parts])

    def parameters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, means and covariances in double precision on the host."""
        log_weights, means, factors, _ = self._on_host()
        weights = np.exp(log_weights)
        return weights / weights.sum(), means, factors @ np.swapaxes(factors, 1, 2)

    def scaled(self, factor: float) -> "GaussianMixture":
        """The mixture of points times a positive factor."""
        means, factors, inverse_factors = (
            np.asarray(jax.tree.leaves(part)[0], np.float64)
            for part in (self.means, self.factors, self.inverse_factors)
        )
        parts = factor * means, factor * factors, inverse_factors / factor
        return GaussianMixture(self.log_weights, *(on_device(part) for part in parts))

    def _on_host(self) -> tuple[np.ndarray, ...]:
        """The arrays of the components that weigh something, in double precision."""
        # Wrapped where they are not trained.
        arrays = [
            np.asarray(jax.tree.leaves(part)[0], np.float64)
            for part in (self.log_weights, self.means, self.factors, self.inverse_factors)
        ]
        return tuple(array[arrays[0] > NO_WEIGHT] for array in arrays)


def gaussian_mixture_of(
    weights: Float[np.ndarray, " k"],
    means: Float[np.ndarray, "k d"],
    covariances: Float[np.ndarray, "k d d"],
) -> GaussianMixture:
    """The mixture of these weights, means and covariances, factorised in double precision.

    It is filled up by copies of the first component, of no weight to speak of, to one of few
    numbers of them, so that one program serves mixtures of many.

    Args:
        weights: Positive; they need not add up to one.
        means: One a component.
        covariances: Of full rank, but for rounding.

    Returns:
        The mixture.
    """
    weights = np.asarray(weights, np.float64)
    k = len(weights)
    filled = np.zeros(_filled_number(k), int)
    filled[:k] = np.arange(k)
    log_weights = np.full(len(filled), NO_WEIGHT)
    log_weights[:k] = np.log(weights / weights.sum())
    covariances = np.asarray(covariances, np.float64)
    try:
        factors = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        # A column that is another in other units leaves no variance that has digits.
        noise = RESOLUTION * np.einsum("kii->ki", covariances)
        factors = np.linalg.cholesky(covariances + noise[:, :, None] * np.eye(noise.shape[1]))
    parts = (np.asarray(means)[filled], factors[filled], np.linalg.inv(factors)[filled])
    return GaussianMixture(on_device(log_weights), *(on_device(part) for part in parts))


def _filled_number(components: int) -> int:
    """The least of 8, 32, 128 and so on that is not below a number of components."""
    number = 8
    while number < components:
        number *= 4
    return number
