"""Flow i-SIR: iterated sampling-importance resampling with a flow's proposals."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.refusal import Refused
from flowebm.samplers import proposal as proposals
from flowebm.samplers.proposal import Proposal, WeightedState

if TYPE_CHECKING:
    from blackjax.base import SamplingAlgorithm

init = proposals.init


class FlowISIRInfo(NamedTuple):
    """What one i-SIR transition tells besides the new state.

    Attributes:
        pool: The current state (index 0) and the $N$ fresh candidates, every field with a
            leading axis $N+1$: the points of the waste-recycled estimate.
        weights: Their normalised weights $\\omega_j$, of shape `(N + 1,)`, summing to 1.
        log_weights: Their $\\log w$ (nats), of shape `(N + 1,)`; the mean of $w$ over the
            fresh ones, `log_weights[1:]`, is an unbiased estimate of $Z$.
        index: Which point of the pool is the next state, a scalar.
        is_accepted: Whether the chain moved, `index != 0`; a scalar.
        acceptance_rate: $1 - \\omega_0$, the probability of moving; a scalar.
        ess: The pool's effective size $(\\sum\\omega)^2 / \\sum\\omega^2$, between 1 and $N+1$; a
            scalar.
    """

    pool: WeightedState
    weights: Any
    log_weights: Any
    index: Any
    is_accepted: Any
    acceptance_rate: Any
    ess: Any


def _normalized_weights(log_weights: Float[Array, " n"]) -> Float[Array, " n"]:
    largest = jnp.max(log_weights)
    # Infinite weights share all the mass, where their difference would be no number.
    weights = jnp.where(log_weights == largest, 1.0, jnp.exp(log_weights - largest))
    # With no mass anywhere in the pool the chain stays where it is.
    stay = jnp.zeros_like(weights).at[0].set(1.0)
    weights = jnp.where(jnp.isneginf(largest), stay, weights)
    return weights / jnp.sum(weights)


def transition(
    rng_key: PRNGKeyArray, state: WeightedState, candidates: WeightedState
) -> tuple[WeightedState, FlowISIRInfo]:
    r"""Draw the next state from the current one and candidates already drawn and evaluated.

    $$\Pr(x' = y_j) = \omega_j \propto w(y_j) = e^{-E(y_j)} / q(y_j), \qquad
      y_0 = x, \quad y_1, \dots, y_N \sim q$$

    It evaluates nothing, so a training loop can draw and evaluate the candidates of all
    chains in one batch and `vmap` this over chains.

    Args:
        rng_key: PRNG key.
        state: The current point $x$, its terms up to date with the density and the flow.
        candidates: $N \ge 1$ independent draws of $q$, every field with a leading axis $N$;
            no other chain uses them.

    Returns:
        The next state and what the transition tells.

    Source: Samsonov et al. (2022), algorithm 1.
    """
    pool: WeightedState = jax.tree.map(
        lambda x, ys: jnp.concatenate([jnp.expand_dims(x, 0), ys]), state, candidates
    )
    log_weights = pool.log_weight
    weights = _normalized_weights(log_weights)
    index = jax.random.categorical(rng_key, jnp.log(weights))
    new_state: WeightedState = jax.tree.map(lambda leaf: leaf[index], pool)
    info = FlowISIRInfo(
        pool=pool,
        weights=weights,
        log_weights=log_weights,
        index=index,
        is_accepted=index != 0,
        acceptance_rate=jnp.sum(weights[1:]),
        ess=1 / jnp.sum(weights**2),
    )
    return new_state, info


def build_kernel(n_proposals: int) -> Callable[..., tuple[WeightedState, FlowISIRInfo]]:
    """Build the kernel `(rng_key, state, logdensity_fn, proposal) -> (state, info)`.

    A step costs $N$ draws from the proposal and $N$ evaluations of the density.

    Args:
        n_proposals: The number $N$ of fresh candidates in each pool.

    Returns:
        The kernel, of one point.

    Raises:
        ValueError: If `n_proposals` is less than 1.

    Source: Samsonov et al. (2022), algorithm 1.
    """
    if n_proposals < 1:
        raise Refused(
            f"i-SIR with n_proposals={n_proposals} never moves: pass n_proposals of 1 or more."
        )

    def kernel(rng_key, state, logdensity_fn, proposal):
        """Draw candidates from the proposal, evaluate them, and resample from the pool."""
        key_draw, key_resample = jax.random.split(rng_key)
        candidates = jax.vmap(lambda key: proposals.draw(key, logdensity_fn, proposal))(
            jax.random.split(key_draw, n_proposals)
        )
        return transition(key_resample, state, candidates)

    return kernel


def as_top_level_api(
    logdensity_fn: Callable[[Any], Scalar], proposal: Proposal, n_proposals: int
) -> "SamplingAlgorithm":
    """Flow i-SIR as a blackjax algorithm.

    Args:
        logdensity_fn: Maps one point to its log-density up to a constant (nats).
        proposal: The density $q$, e.g. a flowjax distribution.
        n_proposals: The number $N$ of fresh candidates in each pool.

    Returns:
        `init(position)` and `step(rng_key, state)`, each for one chain.

    Raises:
        ValueError: If `n_proposals` is less than 1.

    Source: Samsonov et al. (2022), algorithm 1.
    """
    from blackjax.base import build_sampling_algorithm

    return build_sampling_algorithm(
        build_kernel(n_proposals),
        init,
        logdensity_fn,
        init_args=(proposal,),
        kernel_args=(proposal,),
    )
