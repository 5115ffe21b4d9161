"""Tilts that are bounded, so that an energy cannot run away from its base."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, ArrayLike, Float, Scalar

from flowebm.models.recipe import register


@register
class BoundedTilt(eqx.Module):
    r"""$U(x) = B \tanh(u(x) / B)$, so that $|U| < B$ for any network $u$.

    Over a base that is also the proposal, importance weights $e^{-U}$ then lie between $e^{-B}$
    and $e^B$ wherever a draw falls or does not fall: no hole between draws can hold more than
    $e^{2B}$ times the base's mass of it.

    Args:
        tilt: The network $u$, of one point.
        bound: $B > 0$, nats; it is not trained.

    Source: Owen and Zhou (2000), *Safe and effective importance sampling*, for bounded weights.
    """

    tilt: Callable[[Array], Scalar]
    bound: paramax.NonTrainable

    def __init__(self, tilt: Callable[[Array], Scalar], bound: ArrayLike):
        self.tilt = tilt
        self.bound = paramax.NonTrainable(jnp.asarray(bound, float))

    def __call__(self, x: Float[Array, "..."]) -> Scalar:
        bound = paramax.unwrap(self.bound)
        return bound * jnp.tanh(self.tilt(x) / bound)


@register
class NoTilt(eqx.Module):
    """The tilt that is zero everywhere: the model is its base."""

    def __call__(self, x: Float[Array, "..."]) -> Scalar:
        return jnp.zeros(())


@eqx.filter_jit
def tilts(tilt: Callable[[Array], Scalar], points: Float[Array, "n *shape"]) -> Float[Array, " n"]:
    """The tilt at every point, nats."""
    return jax.lax.map(tilt, points, batch_size=4096)
