"""Flow independence Metropolis-Hastings: global moves proposed by a flow."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray, Scalar

from flowebm.samplers import proposal as proposals
from flowebm.samplers.proposal import Proposal, WeightedState

if TYPE_CHECKING:
    from blackjax.base import SamplingAlgorithm

init = proposals.init


class FlowIMHInfo(NamedTuple):
    """What one flow independence Metropolis-Hastings transition tells besides the new state.

    Its numbers are scalars, of one chain.

    Attributes:
        acceptance_rate: $\\min(1, w(y)/w(x))$, the probability with which the candidate was
            accepted; its mean over chains measures how well the flow covers the density.
        is_accepted: Whether the chain moved to the candidate.
        log_weight: $\\log w(y)$ of the candidate (nats), accepted or not: the mean of
            $w(y)$ over fresh candidates is an unbiased estimate of $Z$.
        proposal: The candidate $y$ itself, for estimates that use rejected points too.
    """

    acceptance_rate: Any
    is_accepted: Any
    log_weight: Any
    proposal: WeightedState


def transition(
    rng_key: PRNGKeyArray, state: WeightedState, candidate: WeightedState
) -> tuple[WeightedState, FlowIMHInfo]:
    r"""Accept or reject a candidate that is already drawn and evaluated.

    $$\alpha = \min\left(1, \frac{w(y)}{w(x)}\right), \qquad w = e^{-E} / q$$

    It evaluates nothing, so a training loop can draw and evaluate the candidates of all
    chains in one batch and `vmap` this over chains.

    Args:
        rng_key: PRNG key.
        state: The current point $x$, its terms up to date with the density and the flow.
        candidate: A point $y \sim q$ that no other chain uses.

    Returns:
        The next state and what the transition tells.

    Source: Tierney (1994), *Markov chains for exploring posterior distributions*, for independence
    chains; Gabrié, Rotskoff, Vanden-Eijnden (2022), section 2, for flows in them.
    """
    from blackjax.mcmc.proposal import safe_energy_diff, static_binomial_sampling

    log_weight = candidate.log_weight
    # Two infinite weights have no ratio; the chain then stays where it is.
    log_ratio = safe_energy_diff(log_weight, state.log_weight)  # pyright: ignore[reportArgumentType]
    new_state, (is_accepted, acceptance_rate, _) = static_binomial_sampling(
        rng_key, log_ratio, state, candidate
    )
    return new_state, FlowIMHInfo(acceptance_rate, is_accepted, log_weight, candidate)


def build_kernel() -> Callable[..., tuple[WeightedState, FlowIMHInfo]]:
    """Build the kernel `(rng_key, state, logdensity_fn, proposal) -> (state, info)`.

    A step costs one draw from the proposal and one evaluation of the density.

    Returns:
        The kernel, of one point.

    Source: Gabrié, Rotskoff, Vanden-Eijnden (2022), section 2.
    """

    def kernel(rng_key, state, logdensity_fn, proposal):
        """Draw a candidate from the proposal, evaluate it, and accept or reject it."""
        key_draw, key_accept = jax.random.split(rng_key)
        candidate = proposals.draw(key_draw, logdensity_fn, proposal)
        return transition(key_accept, state, candidate)

    return kernel


def as_top_level_api(
    logdensity_fn: Callable[[Any], Scalar], proposal: Proposal
) -> "SamplingAlgorithm":
    """Flow independence Metropolis-Hastings as a blackjax algorithm.

    Args:
        logdensity_fn: Maps one point to its log-density up to a constant (nats).
        proposal: The density $q$, e.g. a flowjax distribution.

    Returns:
        `init(position)` and `step(rng_key, state)`, each for one chain.

    Source: Gabrié, Rotskoff, Vanden-Eijnden (2022), section 2.
    """
    from blackjax.base import build_sampling_algorithm

    return build_sampling_algorithm(
        build_kernel(), init, logdensity_fn, init_args=(proposal,), kernel_args=(proposal,)
    )
