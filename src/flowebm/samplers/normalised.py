"""A fitted energy model with all that makes it a distribution: its log Z and its sampler."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, ArrayLike, PRNGKeyArray, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.refusal import Refused
from flowebm.samplers import flow_isir


class NormalisedModel(AbstractDistribution):
    r"""An energy model as a flowjax distribution, $\log p(x) = -E(x) - \log Z$.

    It works wherever flowjax's distributions do, in numpyro through
    `flowjax.experimental.numpyro` among others. Its log-density is as good as the estimate of
    $\log Z$. A sample is the end of a chain that starts at a draw of the proposal and makes
    `n_moves` of i-SIR, each among `n_proposals` fresh draws: samples are independent, and their
    law tends to the model's geometrically in the number of moves. The distance shrinks by
    $1 - n / (2 \max w + n - 1)$ a move at least, for $n$ fresh draws and importance weights $w$
    of mean one.

    Args:
        model: The energy model.
        proposal: A distribution that covers it, such as the flow that was fitted beside it.
        log_partition: $\log Z$ of the model, nats.
        n_moves: Moves of i-SIR behind each sample.
        n_proposals: Fresh draws of the proposal in each of them.

    Raises:
        ValueError: If the shapes differ, the proposal is conditional or a number is below one.

    Source: Andrieu, Lee, Vihola (2018), *Uniform ergodicity of the iterated conditional SMC*,
    for the rate; Samsonov et al. (2022), algorithm 1.
    """

    model: AbstractEnergyModel
    proposal: AbstractDistribution
    log_partition: Array
    n_moves: int = eqx.field(static=True)
    n_proposals: int = eqx.field(static=True)
    cond_shape: ClassVar[None] = None

    def __init__(
        self,
        model: AbstractEnergyModel,
        proposal: AbstractDistribution,
        log_partition: ArrayLike,
        *,
        n_moves: int = 20,
        n_proposals: int = 16,
    ):
        if proposal.cond_shape is not None:
            raise Refused("The proposal of a NormalisedModel must be unconditional.")
        if tuple(proposal.shape) != tuple(model.shape):
            raise Refused(
                f"The proposal has points of shape {proposal.shape}, the model of shape "
                f"{model.shape}: they must be the same."
            )
        if n_moves < 1 or n_proposals < 1:
            raise Refused(
                f"n_moves and n_proposals must be 1 or more; got {n_moves} and {n_proposals}."
            )
        self.model = model
        self.proposal = proposal
        self.log_partition = jnp.asarray(log_partition, float)
        self.n_moves = n_moves
        self.n_proposals = n_proposals

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.model.shape)

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        return self.model.unnormalized_log_prob(x) - self.log_partition

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        start_key, key = jr.split(key)
        log_density, proposal = self.model.unnormalized_log_prob, self.proposal
        kernel = flow_isir.build_kernel(self.n_proposals)
        start = proposal.sample(start_key)

        def move(state, key):
            return kernel(key, state, log_density, proposal)[0], None

        state = flow_isir.init(start, log_density, proposal)
        state, _ = jax.lax.scan(move, state, jr.split(key, self.n_moves))
        return jnp.asarray(state.position)
