"""Chains of a training, run on with the model that came of it."""

from typing import NamedTuple

import equinox as eqx
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.models.energy import AbstractEnergyModel
from flowebm.samplers import flow_imh, local_global
from flowebm.samplers.chains import run_chains


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
    return _continue(key, model, proposal, positions, n_draws, n_local, step_size)


@eqx.filter_jit
def _continue(key, model, proposal, positions, n_draws, n_local, step_size):
    import blackjax

    log_density = model.unnormalized_log_prob
    algorithm = local_global.as_top_level_api(
        log_density,
        proposal,
        flow_imh.build_kernel(),
        blackjax.mala(log_density, step_size),
        n_local,
    )

    def keep(state, info):
        return (
            state.position,
            state.logdensity,
            info.global_info.acceptance_rate,
            info.local_info.acceptance_rate.mean(),
        )

    _, kept = run_chains(key, algorithm, positions, n_draws, keep=keep)
    return ContinuedChains(*(leaf.swapaxes(0, 1) for leaf in kept))
