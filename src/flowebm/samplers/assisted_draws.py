"""Draws of flow-assisted chains whose flow, step size and coordinates are frozen."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.random as jr
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.samplers.population import GlobalKernel, LocalKernel, global_move, local_states


class AssistedKernel(eqx.Module):
    """The flow-assisted kernel of many chains, nothing in which adapts.

    Attributes:
        model: The density that it leaves invariant.
        proposal: The global moves' density.
        step_size: Of the local moves.
        global_kernel: `"imh"` or `"isir"`.
        n_proposals: Proposals of a chain in an i-SIR move.
        local_kernel: `"mala"`, `"hmc"` or `"nuts"`.
        n_local: Local moves after each global one.
    """

    model: AbstractEnergyModel
    proposal: AbstractDistribution
    step_size: Scalar
    global_kernel: GlobalKernel = eqx.field(static=True)
    n_proposals: int = eqx.field(static=True)
    local_kernel: LocalKernel = eqx.field(static=True)
    n_local: int = eqx.field(static=True)


class Chains(NamedTuple):
    """Where chains are.

    Attributes:
        position: One a row.
        logdensity: The density there, nats.
    """

    position: Float[Array, "chains d"]
    logdensity: Float[Array, " chains"]


class AssistedDraws(NamedTuple):
    """Draws of the chains.

    Attributes:
        position: The draws.
        logdensity: The density there, nats.
        global_acceptance: Each chain's probability of taking a fresh proposal.
        local_acceptance: Mean acceptance rate of its local moves.
    """

    position: Float[Array, "draws chains d"]
    logdensity: Float[Array, "draws chains"]
    global_acceptance: Float[Array, "draws chains"]
    local_acceptance: Float[Array, "draws chains"]


@eqx.filter_jit
def start_chains(model: AbstractEnergyModel, positions: Float[Array, "chains d"]) -> Chains:
    """Chains at these positions."""
    return Chains(positions, jax.vmap(model.unnormalized_log_prob)(positions))


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
        states, acceptance = local_states(
            local_key,
            log_density,
            move.positions,
            kernel.step_size,
            kernel=kernel.local_kernel,
            n_steps=kernel.n_local,
        )
        chains = Chains(states.position, states.logdensity)
        return chains, (move.acceptance_rate, acceptance.mean(axis=0))

    def draw(chains, keys):
        chains, rates = jax.lax.scan(step, chains, keys)
        return chains, AssistedDraws(*chains, *(rate.mean(axis=0) for rate in rates))

    return jax.lax.scan(draw, chains, jr.split(key, (n_draws, thin)))
