"""Densities and tilts of an active subspace of the coordinates."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import paramax
from flowjax.distributions import AbstractDistribution
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.linear_change import LinearChange
from flowebm.models.random_start import Draws
from flowebm.models.recipe import register
from flowebm.models.tilts import MLPTilt, layer_of


@register
class SubspaceDensity(AbstractDistribution):
    r"""A density of the first coordinates of $z = M^{-1}(x - m)$ times a normal of the others.

    What is Gaussian is left to a Gaussian, which a hundred coordinates hardly make harder to fit.

    Args:
        active: The density of the first $k$ coordinates of $z$.
        change: The change of coordinates, $x = Mz + m$.
    """

    active: AbstractDistribution
    change: LinearChange
    cond_shape = None

    # Written out because type checkers take the abstract attributes for the first fields.
    def __init__(self, active: AbstractDistribution, change: LinearChange):
        self.active = active
        self.change = change

    @property
    def shape(self) -> tuple[int, ...]:
        return self.change.shape

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        k = self.active.shape[0]
        z = self.change.inverse(x).ravel()
        return self.active._log_prob(z[:k]) + norm.logpdf(z[k:]).sum() - self.change.log_det

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        active_key, other_key = jr.split(key)
        n_others = self.change.offset.size - self.active.shape[0]
        z = jnp.concatenate([self.active._sample(active_key), jr.normal(other_key, (n_others,))])
        return self.change.transform(z.reshape(self.shape))


@register
class SubspaceTilt(eqx.Module):
    """A tilt that sees the first coordinates of $z = M^{-1}(x - m)$ alone.

    Args:
        tilt: The tilt, over points of shape `(k,)`.
        change: The change of coordinates.
        k: Coordinates that it sees.
    """

    tilt: Callable[[Array], Scalar]
    change: LinearChange
    k: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Scalar:
        change = paramax.unwrap(self.change)
        return self.tilt(change.inverse(x).ravel()[: self.k])

    @classmethod
    def of(
        cls, tilt: MLPTilt, change: LinearChange, k: int, *, key: PRNGKeyArray
    ) -> "SubspaceTilt":
        """A network like the given one, of the first coordinates.

        Args:
            tilt: A network of all coordinates.
            change: The change of coordinates.
            k: Coordinates that it sees.
            key: Random key of its first layer's weights.
        """
        first = layer_of(Draws(key), eqx.nn.Linear, k, tilt.layers[0].out_features)
        narrowed = eqx.tree_at(lambda t: t.layers[0], tilt, first)
        return cls(narrowed, paramax.non_trainable(change), k)
