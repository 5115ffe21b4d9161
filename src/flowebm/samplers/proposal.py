"""Independent proposals, and chain states that know their importance weight."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar


class Proposal(Protocol):
    """A normalised density $q$ that is exact to sample and to evaluate, one point at a time.

    Every unconditional flowjax distribution is one; `FunctionProposal` makes one of two
    functions. A density of which `log_prob` is only known up to a constant leaves the
    kernels right and makes their estimates of $\\log Z$ wrong by that constant.
    """

    def log_prob(self, x: Any, /) -> Any:
        """$\\log q(x)$ of one point, in nats."""
        ...

    def sample_and_log_prob(self, key: PRNGKeyArray, /) -> Any:
        """One draw $y \\sim q$ and its $\\log q(y)$, in nats."""
        ...


class FunctionProposal(NamedTuple):
    """A proposal made of two functions, for positions that are pytrees.

    Attributes:
        log_prob: Maps one position to $\\log q$, in nats.
        sample_and_log_prob: Maps a key to one position and its $\\log q$, in nats.
    """

    log_prob: Callable[[Any], Any]
    sample_and_log_prob: Callable[[PRNGKeyArray], Any]


class WeightedState(NamedTuple):
    """A point with what its importance weight is made of.

    A kernel that keeps both terms evaluates the density and the proposal at new points only.
    When the density or the proposal changes, the term that belongs to it is out of date:
    make the state anew with `init`, or put the new term in its place with `_replace`. Terms are
    scalars, and of several points have their leading axes.

    Attributes:
        position: The point, a pytree of arrays.
        logdensity: $-E(x)$, the log-density up to a constant (nats).
        proposal_log_prob: $\\log q(x)$ (nats), kept because a flow's density at a point it
            did not itself draw costs an inversion.
    """

    position: PyTree
    logdensity: Any
    proposal_log_prob: Any

    @property
    def log_weight(self) -> Float[Array, "..."]:
        """$\\log w(x) = -E(x) - \\log q(x)$ (nats); minus infinity where that is not a number.

        Not a number means that the energy broke down or that neither density has mass
        there; with weight zero such a point is never moved to, and always left.
        """
        log_weight = jnp.asarray(self.logdensity - self.proposal_log_prob)
        return jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)


def init(
    position: PyTree, logdensity_fn: Callable[[Any], Scalar], proposal: Proposal
) -> WeightedState:
    """The state at a position: one evaluation of the density and one of the proposal.

    Args:
        position: One point, a pytree of arrays.
        logdensity_fn: Maps one point to its log-density up to a constant (nats).
        proposal: The density $q$.

    Returns:
        The position with both log-densities.
    """
    return WeightedState(position, logdensity_fn(position), proposal.log_prob(position))  # pyright: ignore[reportArgumentType]


def draw(
    rng_key: PRNGKeyArray, logdensity_fn: Callable[[Any], Scalar], proposal: Proposal
) -> WeightedState:
    """A fresh candidate $y \\sim q$, evaluated: one draw and one evaluation of the density.

    Args:
        rng_key: PRNG key.
        logdensity_fn: Maps one point to its log-density up to a constant (nats).
        proposal: The density $q$.

    Returns:
        The candidate with its log-densities under both.
    """
    position, proposal_log_prob = proposal.sample_and_log_prob(rng_key)
    return WeightedState(position, logdensity_fn(position), proposal_log_prob)
