"""Moves of many chains at once, with the draws and evaluations of all of them in one batch."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Scalar

from flowebm.models.defensive import draw
from flowebm.models.over_points import values_of_both
from flowebm.samplers import flow_imh, flow_isir, ula
from flowebm.samplers.proposal import WeightedState

GlobalKernel = Literal["imh", "isir"]
LocalKernel = Literal["mala", "hmc", "nuts", "ula", "rwm"]

#: Leapfrog steps of one HMC move.
LEAPFROG_STEPS = 5


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
    kernel: LocalKernel = "mala",
    n_steps: int = 2,
) -> tuple[Float[Array, "chains *shape"], Float[Array, "steps chains"]]:
    """`n_steps` local steps of every chain.

    Args:
        key: Random key.
        logdensity_fn: Maps one point to its log-density up to a constant.
        positions: The chains.
        step_size: Of the kernel, the same for all chains.
        kernel: `"mala"`, `"hmc"`, `"nuts"` or `"ula"`.
        n_steps: Number of steps.

    Returns:
        The chains' next positions and their acceptance rates in each step (one for ULA,
        which accepts always).
    """
    if kernel == "ula":
        return _langevin_moves(key, logdensity_fn, positions, step_size, n_steps)
    states, acceptance_rate = local_states(
        key, logdensity_fn, positions, step_size, kernel=kernel, n_steps=n_steps
    )
    return states.position, acceptance_rate


def _langevin_moves(key, logdensity_fn, positions, step_size, n_steps):
    """ULA's moves without the gradient where they end, which decides about nothing."""
    kernel = ula.build_kernel()

    def step(key, x):
        state, info = kernel(key, ula.init(x, logdensity_fn), logdensity_fn, step_size)
        return jnp.asarray(state.position), info.acceptance_rate

    def all_chains(x, step_key):
        return jax.vmap(step)(jr.split(step_key, x.shape[0]), x)

    return jax.lax.scan(all_chains, positions, jr.split(key, n_steps))


def local_states(
    key: PRNGKeyArray,
    logdensity_fn: Callable[[Array], Scalar],
    positions: Float[Array, "chains *shape"],
    step_size: ArrayLike,
    *,
    kernel: LocalKernel = "mala",
    n_steps: int = 2,
) -> tuple[Any, Float[Array, "steps chains"]]:
    """`local_moves` that returns the kernel's states: with `position` and its `logdensity`."""
    init, step = _local_kernel(kernel, logdensity_fn, step_size, positions[0].size)

    def all_chains(states, step_key):
        states, info = jax.vmap(step)(jr.split(step_key, positions.shape[0]), states)
        return states, info.acceptance_rate

    states = jax.vmap(lambda x: init(x, logdensity_fn))(positions)
    states, acceptance_rate = jax.lax.scan(all_chains, states, jr.split(key, n_steps))
    return states, acceptance_rate


def _local_kernel(
    name: LocalKernel, logdensity_fn: Callable, step_size: Any, dimension: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """blackjax's `init` and a step `(key, state)` of the local kernel called `name`."""
    from blackjax.mcmc import hmc, mala, nuts, random_walk

    inverse_mass = jnp.ones(dimension)
    if name == "nuts":
        kernel = nuts.build_kernel()
        return nuts.init, lambda key, state: kernel(
            key, state, logdensity_fn, step_size, inverse_mass
        )
    if name == "hmc":
        kernel = hmc.build_kernel()
        return hmc.init, lambda key, state: kernel(
            key, state, logdensity_fn, step_size, inverse_mass, LEAPFROG_STEPS
        )
    if name == "rwm":
        walk = random_walk.build_additive_step()

        def random_step(key, x):
            return step_size * jax.random.normal(key, x.shape, x.dtype)

        return random_walk.init, lambda key, state: walk(key, state, logdensity_fn, random_step)
    module = {"mala": mala, "ula": ula}[name]
    kernel = module.build_kernel()
    return module.init, lambda key, state: kernel(key, state, logdensity_fn, step_size)
