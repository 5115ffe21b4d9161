"""The moves of a flow-assisted sampler: local kernels, one entry each, and moves of many chains.

Training, sampling and imputation take their local moves from `LOCAL`. Global moves are decided by
the transitions of `flow_imh` and `flow_isir`, as in blackjax's form.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Scalar

from flowebm.models.defensive import draw
from flowebm.models.over_points import values_of_both
from flowebm.samplers import flow_imh, flow_isir, step_size, ula
from flowebm.samplers.proposal import WeightedState

GlobalKernel = Literal["imh", "isir"]

#: Leapfrog steps of one HMC move.
LEAPFROG_STEPS = 5


class LocalKernel(NamedTuple):
    """A kernel that moves a chain within its mode, in functions of one point.

    Attributes:
        init: `(position, logdensity_fn) -> state`, which has a `position` and its `logdensity`.
        step: `(key, state, logdensity_fn, step_size) -> (state, info)`, whose info has an
            `acceptance_rate`.
        target_acceptance: What its step size is adapted to; 1 of a kernel that accepts always.
        evaluations: Of the density or its gradient in a step; `None` where they vary.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    target_acceptance: float
    evaluations: int | None

    @property
    def is_adjusted(self) -> bool:
        """Whether a move can be rejected, which leaves the density itself invariant."""
        return self.target_acceptance < 1


def _of_blackjax(
    module: str,
    target_acceptance: float,
    evaluations: int | None,
    arguments: Callable[[Array], tuple] = lambda x: (),
) -> LocalKernel:
    """A kernel of `blackjax.mcmc`, imported when used; `arguments` follow its step size."""

    def init(position, logdensity_fn):
        return import_module(f"blackjax.mcmc.{module}").init(position, logdensity_fn)

    def step(key, state, logdensity_fn, step_size):
        kernel = import_module(f"blackjax.mcmc.{module}").build_kernel()
        return kernel(key, state, logdensity_fn, step_size, *arguments(state.position))

    return LocalKernel(init, step, target_acceptance, evaluations)


def _random_step(key, state, logdensity_fn, step_size):
    from blackjax.mcmc import random_walk

    def normal(key, x):
        return step_size * jr.normal(key, x.shape, x.dtype)

    return random_walk.build_additive_step()(key, state, logdensity_fn, normal)


#: The local kernels by name. Options take these names, and refuse others.
LOCAL = {
    "mala": _of_blackjax("mala", step_size.MALA_TARGET_ACCEPTANCE, 1),
    "hmc": _of_blackjax(
        "hmc",
        step_size.HMC_TARGET_ACCEPTANCE,
        LEAPFROG_STEPS,
        lambda x: (jnp.ones(x.size), LEAPFROG_STEPS),
    ),
    "nuts": _of_blackjax(
        "nuts", step_size.HMC_TARGET_ACCEPTANCE, None, lambda x: (jnp.ones(x.size),)
    ),
    "ula": LocalKernel(ula.init, ula.build_kernel(), 1.0, 1),
    # The target is that of Roberts, Gelman and Gilks (1997).
    "rwm": _of_blackjax("random_walk", 0.234, 1)._replace(step=_random_step),
}

# What `check_options` lets pass and lists in a refusal, which type checkers cannot compute.
if TYPE_CHECKING:
    LocalName = str
    AdjustedName = str
else:
    LocalName = Literal[tuple(LOCAL)]
    AdjustedName = Literal[tuple(name for name, kernel in LOCAL.items() if kernel.is_adjusted)]


class GlobalMove(NamedTuple):
    r"""What a global move of all chains gives.

    Attributes:
        positions: The chains' next positions, of shape `(chains, *shape)`.
        pool: All points that took part, current states and fresh proposals alike.
        pool_weights: Their weights in the waste-recycled estimate of an expectation, adding up
            to one: $\frac1n \sum_i \sum_j \omega_{ij} f(y_{ij})$, the conditional expectation of
            the chains' next average given the pool.
        acceptance_rate: Each chain's probability of moving.
        log_weights: $\log w$ of the fresh proposals alone (nats): their mean weight is an
            unbiased estimate of $Z$.
    """

    positions: Float[Array, "chains *shape"]
    pool: Float[Array, "pool *shape"]
    pool_weights: Float[Array, " pool"]
    acceptance_rate: Float[Array, " chains"]
    log_weights: Float[Array, " fresh"]


def global_move(
    key: PRNGKeyArray,
    logdensity_fn: Callable[[Array], Scalar],
    proposal: AbstractDistribution,
    positions: Float[Array, "chains *shape"],
    *,
    kernel: GlobalKernel = "imh",
    n_proposals: int = 1,
    logdensity: Float[Array, " chains"] | None = None,
) -> GlobalMove:
    r"""One flow-assisted move of every chain, each from proposals of its own.

    The chains' $\log q$ is evaluated here, because flow and positions have changed since the
    last global move.

    Args:
        key: Random key.
        logdensity_fn: Maps one point to its log-density up to a constant.
        proposal: The flow, or its defensive mixture.
        positions: The chains.
        kernel: `"imh"` (one proposal a chain) or `"isir"`.
        n_proposals: Proposals of a chain, for `"isir"`.
        logdensity: The log-density at the positions, where it is known; it is evaluated
            otherwise.

    Returns:
        The move and its free by-products.
    """
    draw_key, decision_key = jr.split(key)
    n_chains = positions.shape[0]
    per_chain = n_proposals if kernel == "isir" else 1
    fresh, fresh_log_q = draw(draw_key, proposal, n_chains * per_chain)
    if logdensity is None:
        logdensity, fresh_logdensity = values_of_both(logdensity_fn, positions, fresh)
    else:
        fresh_logdensity = jax.vmap(logdensity_fn)(fresh)
    states = WeightedState(positions, logdensity, proposal.log_prob(positions))
    candidates = WeightedState(fresh, fresh_logdensity, fresh_log_q)
    keys = jr.split(decision_key, n_chains)
    pool = jnp.concatenate([positions, fresh])
    if kernel == "imh":
        moved, info = jax.vmap(flow_imh.transition)(keys, states, candidates)
        move = info.acceptance_rate
        weights = jnp.concatenate([1 - move, move])
    else:
        grouped = jax.tree.map(
            lambda leaf: leaf.reshape(n_chains, per_chain, *leaf.shape[1:]), candidates
        )
        moved, info = jax.vmap(flow_isir.transition)(keys, states, grouped)
        weights = jnp.concatenate([info.weights[:, 0], info.weights[:, 1:].ravel()])
    return GlobalMove(
        positions=jnp.asarray(moved.position),
        pool=pool,
        pool_weights=weights / n_chains,
        acceptance_rate=info.acceptance_rate,
        log_weights=candidates.log_weight,
    )


def local_moves(
    key: PRNGKeyArray,
    logdensity_fn: Callable[[Array], Scalar],
    positions: Float[Array, "chains *shape"],
    step_size: ArrayLike,
    *,
    kernel: LocalName = "mala",
    n_steps: int = 2,
) -> tuple[Float[Array, "chains *shape"], Float[Array, "steps chains"], Any]:
    """`n_steps` local steps of every chain.

    Args:
        key: Random key.
        logdensity_fn: Maps one point to its log-density up to a constant.
        positions: The chains.
        step_size: Of the kernel, the same for all chains.
        kernel: The kernel's name in `LOCAL`.
        n_steps: Number of steps.

    Returns:
        The chains' next positions, their acceptance rates in each step (one for ULA, which accepts
        always), and the log-density where they are; `None` for ULA, which does not evaluate it.
    """
    local = LOCAL[kernel]
    init = jax.vmap(lambda x: local.init(x, logdensity_fn))
    step = jax.vmap(lambda key, state: local.step(key, state, logdensity_fn, step_size))

    def all_chains(states, step_key):
        # Without a test the gradient where a move ends decides about nothing, and is not evaluated.
        states = states if local.is_adjusted else init(states)
        states, info = step(jr.split(step_key, positions.shape[0]), states)
        return states if local.is_adjusted else states.position, info.acceptance_rate

    states = init(positions) if local.is_adjusted else positions
    states, acceptance_rate = jax.lax.scan(all_chains, states, jr.split(key, n_steps))
    if local.is_adjusted:
        return states.position, acceptance_rate, states.logdensity
    return states, acceptance_rate, None
