"""The affine map that makes a population of points standard, and how it follows them."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Scalar

from flowebm.models.energy import AbstractEnergyModel


class Moments(NamedTuple):
    """Mean and covariance of a population, remembered over iterations.

    Attributes:
        mean: Their mean.
        covariance: Their covariance.
        n: How many independent points they are worth.
    """

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]
    n: Scalar


class Preconditioner(NamedTuple):
    r"""Coordinates $y = L^{-1}(x - \mu)$ in which the population is standard.

    Attributes:
        mean: $\mu$.
        factor: $L$, lower triangular, with $L L^T$ the covariance.
        inverse_factor: $L^{-1}$: maps of many points are then products of matrices.
    """

    mean: Float[Array, " d"]
    factor: Float[Array, "d d"]
    inverse_factor: Float[Array, "d d"]

    @property
    def log_det(self) -> Scalar:
        r"""$\log |\det L|$, nats: what the density of $y$ has over that of $x$."""
        return jnp.log(jnp.diagonal(self.factor)).sum()

    def standardise(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """$y$ of one point or of many."""
        return (x - self.mean) @ self.inverse_factor.T

    def restore(self, y: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """$x$ of one point or of many."""
        return y @ self.factor.T + self.mean


def moments(points: Float[Array, "n d"], n: ArrayLike) -> Moments:
    """The moments of a population.

    Args:
        points: The population.
        n: How many independent points it is worth.
    """
    mean = points.mean(axis=0)
    centred = points - mean
    return Moments(mean, centred.T @ centred / points.shape[0], jnp.asarray(n, points.dtype))


def update(old: Moments, new: Moments, gain: float | Array) -> Moments:
    r"""Moments of the mixture of what is remembered and what is new.

    Args:
        old: The remembered moments.
        new: Moments of the population now.
        gain: Share $g$ of the new; one forgets the old.
    """
    shift = new.mean - old.mean
    covariance = (
        (1 - gain) * old.covariance
        + gain * new.covariance
        + gain * (1 - gain) * jnp.outer(shift, shift)
    )
    n = 1 / ((1 - gain) ** 2 / old.n + gain**2 / new.n)
    return Moments(old.mean + gain * shift, covariance, n)


def preconditioner(moments: Moments) -> Preconditioner:
    r"""The map that standardises a population of these moments.

    Correlations are shrunk to $(1 - \lambda) r_{ij}$ with
    $\lambda = \sum_{i \neq j} \widehat{\mathrm{var}}(r_{ij}) / \sum_{i \neq j} r_{ij}^2$: where
    there are many coordinates and few points, those that are mere noise would do harm.

    Source: Schäfer and Strimmer (2005), *A shrinkage approach to large-scale covariance matrix
    estimation*, section 2.3; the variance of a correlation is that of normal points.
    """
    dimension = moments.mean.size
    variance = jnp.maximum(jnp.diagonal(moments.covariance), jnp.finfo(moments.mean.dtype).tiny)
    sd = jnp.sqrt(variance)
    correlation = moments.covariance / sd / sd[:, None]
    off_diagonal = 1 - jnp.eye(dimension)
    squares = jnp.sum(off_diagonal * correlation**2)
    noise = jnp.sum(off_diagonal * (1 - correlation**2) ** 2) / moments.n
    # Squares are zero for one coordinate; a little shrinkage keeps the matrix definite.
    shrinkage = jnp.clip(noise / jnp.maximum(squares, noise + 1e-30), 1e-4, 1.0)
    correlation = jnp.where(off_diagonal == 1, (1 - shrinkage) * correlation, 1.0)
    factor = sd[:, None] * jnp.linalg.cholesky(correlation)
    inverse = jnp.tril(jnp.linalg.inv(factor))
    return Preconditioner(moments.mean, factor, inverse)


class StandardisedDensity(AbstractEnergyModel):
    """A density of points $x$ as one of their standardised coordinates $y$.

    Attributes:
        model: The density of $x$.
        coordinates: The map between the two.
    """

    model: AbstractEnergyModel
    coordinates: Preconditioner
    shape: tuple[int, ...] = eqx.field(static=True)

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(self, model: AbstractEnergyModel, coordinates: Preconditioner):
        self.model = model
        self.coordinates = coordinates
        self.shape = model.shape

    def energy(self, x: Float[Array, " d"]) -> Scalar:
        return self.model.energy(self.coordinates.restore(x)) - self.coordinates.log_det
