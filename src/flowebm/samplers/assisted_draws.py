"""Draws of flow-assisted chains whose flow, step size and coordinates are frozen.

`assisted_draws` takes any kernel, `mixture_draws` what needs the smallest program, and
`continue_chains` the chains of a training.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.samplers.kernel import AdjustedName, GlobalKernel, global_move, local_moves


class AssistedKernel(eqx.Module):
    """The flow-assisted kernel of many chains, nothing in which adapts.

    Attributes:
        model: The density that it leaves invariant.
        proposal: The global moves' density.
        step_size: Of the local moves.
        global_kernel: `"imh"` or `"isir"`.
        n_proposals: Proposals of a chain in an i-SIR move.
        local_kernel: The name in `LOCAL` of one that leaves the density invariant.
        n_local: Local moves after each global one.
    """

    model: AbstractEnergyModel
    proposal: AbstractDistribution
    step_size: Scalar
    global_kernel: GlobalKernel = eqx.field(static=True)
    n_proposals: int = eqx.field(static=True)
    local_kernel: AdjustedName = eqx.field(static=True)
    n_local: int = eqx.field(static=True)


class Chains(NamedTuple):
    """Where chains are.

    Attributes:
        position: One a row.
        logdensity: The density there, nats.
    """

    position: Float[Array, "chains *shape"]
    logdensity: Float[Array, " chains"]


class AssistedDraws(NamedTuple):
    """Draws of the chains.

    Attributes:
        position: The draws.
        logdensity: The density there, nats.
        global_acceptance: Each chain's probability of taking a fresh proposal.
        local_acceptance: Mean acceptance rate of its local moves.
    """

    position: Float[Array, "draws chains *shape"]
    logdensity: Float[Array, "draws chains"]
    global_acceptance: Float[Array, "draws chains"]
    local_acceptance: Float[Array, "draws chains"]


@eqx.filter_jit
def assisted_draws(
    key: PRNGKeyArray, kernel: AssistedKernel, chains: Chains, n_draws: int, thin: int = 1
) -> tuple[Chains, AssistedDraws]:
    """Run the chains on.

    A step costs, per chain, a draw and an inversion of the flow, as many evaluations of the
    density as there are proposals, and one gradient more than there are MALA steps.

    Args:
        key: Random key.
        kernel: The kernel.
        chains: Where the chains are.
        n_draws: Draws of each chain.
        thin: Steps of a draw.

    Returns:
        Where the chains are then, and their draws.
    """
    log_density = kernel.model.unnormalized_log_prob

    def step(chains, key):
        global_key, local_key = jr.split(key)
        move = global_move(
            global_key,
            log_density,
            kernel.proposal,
            chains.position,
            kernel=kernel.global_kernel,
            n_proposals=kernel.n_proposals,
            logdensity=chains.logdensity,
        )
        position, acceptance, logdensity = local_moves(
            local_key,
            log_density,
            move.positions,
            kernel.step_size,
            kernel=kernel.local_kernel,
            n_steps=kernel.n_local,
        )
        return Chains(position, logdensity), (move.acceptance_rate, acceptance.mean(axis=0))

    def draw(chains, keys):
        chains, rates = jax.lax.scan(step, chains, keys)
        return chains, AssistedDraws(*chains, *(rate.mean(axis=0) for rate in rates))

    return jax.lax.scan(draw, chains, jr.split(key, (n_draws, thin)))


@eqx.filter_jit
def mixture_draws(
    kernel: AssistedKernel,
    chains: Chains,
    moves: Float[Array, "steps moves chains d"],
    log_uniforms: Float[Array, "steps moves chains"],
) -> tuple[Chains, AssistedDraws]:
    r"""Steps of independence Metropolis and of MALA, in one small program.

    It does what `assisted_draws` does with `"imh"` and `"mala"` or `"rwm"`. As the proposals come
    from outside, all moves are alike but for the test that accepts, and the density stands in the
    program once, which is most of what there is to compile.

    Args:
        kernel: The kernel; its proposal evaluates only.
        chains: Where the chains are.
        moves: Of every step, first an independent draw of the proposal, then the standard normal
            numbers of each local move.
        log_uniforms: Logarithms of uniform numbers.

    Returns:
        Where the chains are then, and every step.

    Source: Tierney (1994) for independence Metropolis; Roberts and Tweedie (1996) for MALA.
    """
    uses_gradient = kernel.local_kernel == "mala"
    step_size = kernel.step_size.astype(moves.dtype)

    def evaluate(x):
        if uses_gradient:
            log_p, gradient = jax.value_and_grad(kernel.model.unnormalized_log_prob)(x)
            # Where it is not a number, the move is a random walk's and its test still right.
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        else:
            log_p, gradient = kernel.model.unnormalized_log_prob(x), jnp.zeros_like(x)
        values = (log_p, gradient, kernel.proposal.log_prob(x))
        return jax.tree.map(lambda value: value.astype(x.dtype), values)

    def move(carry, numbers):
        x, log_p, gradient, log_q = carry
        noise, log_uniform, is_global = numbers
        local = x + step_size * gradient + jnp.sqrt(2 * step_size) * noise
        y = jnp.where(is_global, noise, local)
        new_p, new_gradient, new_q = jax.vmap(evaluate)(y)
        back = jnp.sum((x - y - step_size * new_gradient) ** 2, axis=1)
        there = jnp.sum((y - x - step_size * gradient) ** 2, axis=1)
        log_ratio = jnp.where(is_global, log_q - new_q, (there - back) / (4 * step_size))
        log_ratio = log_ratio + new_p - log_p
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        accepts = log_uniform < log_ratio
        carry = jax.tree.map(
            lambda new, old: jnp.where(accepts[:, None] if new.ndim == 2 else accepts, new, old),
            (y, new_p, new_gradient, new_q),
            carry,
        )
        return carry, jnp.exp(jnp.minimum(log_ratio, 0.0))

    is_global = jnp.arange(moves.shape[1]) == 0

    def step(carry, numbers):
        carry, rates = jax.lax.scan(move, carry, (*numbers, is_global))
        return carry, AssistedDraws(carry[0], carry[1], rates[0], rates[1:].mean(axis=0))

    carry = (chains.position, *jax.vmap(evaluate)(chains.position))
    carry, steps = jax.lax.scan(step, carry, (moves, log_uniforms))
    return Chains(carry[0], carry[1]), steps


class ContinuedChains(NamedTuple):
    """Draws of chains, one chain a row.

    Attributes:
        positions: The draws.
        unnormalized_log_prob: $-E$ of each, nats.
        global_acceptance: Probability with which each step's global move was taken.
        local_acceptance: Mean acceptance rate of each step's local moves.
    """

    positions: Float[Array, "chains draws *shape"]
    unnormalized_log_prob: Float[Array, "chains draws"]
    global_acceptance: Float[Array, "chains draws"]
    local_acceptance: Float[Array, "chains draws"]


def continue_chains(
    key: PRNGKeyArray,
    model: AbstractEnergyModel,
    proposal: AbstractDistribution,
    positions: Float[Array, "chains *shape"],
    n_draws: int,
    *,
    n_local: int = 2,
    step_size: float = 0.02,
) -> ContinuedChains:
    """Run chains on under a fixed model: a flow-assisted move and local ones for every draw.

    Args:
        key: Random key.
        model: The model, which the chains leave invariant.
        proposal: Its flow, for independence Metropolis.
        positions: Where the chains are.
        n_draws: Draws of each chain.
        n_local: MALA steps of a draw.
        step_size: Of MALA, in squared units of a point.

    Returns:
        Every draw of every chain, with its log-density and the rates of acceptance.

    Source: Gabrié, Rotskoff, Vanden-Eijnden (2022), section 2.
    """
    kernel = AssistedKernel(
        model, proposal, jnp.asarray(step_size, positions.dtype), "imh", 1, "mala", n_local
    )
    return _continued(key, kernel, positions, n_draws)


@eqx.filter_jit
def _continued(key, kernel, positions, n_draws):
    chains = Chains(positions, jax.vmap(kernel.model.unnormalized_log_prob)(positions))
    _, drawn = assisted_draws(key, kernel, chains, n_draws)
    return ContinuedChains(*(leaf.swapaxes(0, 1) for leaf in drawn))
