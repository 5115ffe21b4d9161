"""A user's log-density of parameters of any structure, as a density over all of space."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, PyTree, Scalar

from flowebm.models.energy import AbstractEnergyModel


class UnconstrainedDensity(AbstractEnergyModel):
    r"""The density of unconstrained coordinates $z$ of parameters $\theta = T(z)$.

    $$\log p_z(z) = \log p_\theta(T(z)) + \log |\det J_T(z)|$$

    Where that is not a number, or infinite, there is no mass.

    Args:
        log_density: Maps parameters to their log-density up to a constant (nats).
        unravel: Maps a vector of $d$ numbers to parameters of the user's structure.
        bijection: $T$, from all of space to the parameters' vector; points of shape `(d,)`.
    """

    log_density: Callable[[Any], Scalar]
    unravel: Callable[[Array], Any]
    bijection: AbstractBijection
    shape: tuple[int, ...] = eqx.field(static=True)

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(
        self,
        log_density: Callable[[Any], Scalar],
        unravel: Callable[[Array], Any],
        bijection: AbstractBijection,
    ):
        self.log_density = log_density
        self.unravel = unravel
        self.bijection = bijection
        self.shape = bijection.shape

    def energy(self, x: Float[Array, " d"]) -> Scalar:
        value = self.unguarded(x)
        return -jnp.where(value < jnp.inf, value, -jnp.inf)

    def unguarded(self, x: Float[Array, " d"]) -> Scalar:
        r"""$\log p_z$ of one point as it comes, not a number perhaps."""
        point, log_det = self.bijection.transform_and_log_det(x)
        value = self.log_density(self.unravel(point)) + log_det
        # Coordinates so far out that the point overflows say nothing of the user's function.
        return jnp.where(jnp.all(jnp.isfinite(point)), value, -jnp.inf)

    def parameters(self, z: Float[Array, "*batch d"]) -> tuple[Float[Array, "*batch d"], PyTree]:
        """The parameters of many points, as vectors and in the user's structure."""
        flat = jnp.vectorize(self.bijection.transform, signature="(d)->(d)")(z)
        unravel = self.unravel
        for _ in z.shape[:-1]:
            unravel = jax.vmap(unravel)
        return flat, unravel(flat)
