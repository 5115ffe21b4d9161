"""Tilts that are bounded, so that an energy cannot run away from its base."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, ArrayLike, Float, Scalar

from flowebm.models.batches import in_batches
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.recipe import register


@register
class LogRatio(eqx.Module):
    r"""$u(x) = a\,(E(x) + \log b(x) - c)$: a power of a base's density over an energy model's.

    As the tilt of $b$ it makes $b^{1-a} e^{-aE}$, the geometric mean of both.

    Args:
        model: The energy model, $e^{-E}$.
        base: $b$.
        offset: $c$, nats, which keeps $u$ near zero where points are.
        power: $a$, between 0 and 1.

    Source: Genest and Zidek (1986), *Combining probability distributions*, for logarithmic pools.
    """

    model: AbstractEnergyModel
    base: AbstractDistribution
    offset: Scalar
    power: Scalar

    def __call__(self, x: Float[Array, "..."]) -> Scalar:
        part = paramax.unwrap(self)
        return part.power * (part.model.energy(x) + part.base.log_prob(x) - part.offset)


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


def tilts(
    tilt: Callable[[Array], Scalar], points: Float[ArrayLike, "n *shape"]
) -> Float[np.ndarray, " n"]:
    """The tilt at every point, nats.

    Args:
        tilt: The tilt.
        points: One a row.
    """
    if isinstance(tilt, NoTilt):
        return np.zeros(np.shape(points)[0])
    return in_batches(partial(_tilts, tilt), points)


@eqx.filter_jit
def _tilts(tilt: Callable[[Array], Scalar], points: Float[Array, "n *shape"]) -> Float[Array, " n"]:
    return jax.vmap(tilt)(points)
