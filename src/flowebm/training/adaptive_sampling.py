"""The warm-up of the flow-assisted sampler: annealed chains, and a flow that follows them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.importance import effective_sample_size
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.trainable import partition_trainable
from flowebm.objectives.maximum_likelihood import maximum_likelihood
from flowebm.options import Count, Fraction, Positive, Range, Share, check_options
from flowebm.samplers import preconditioner as preconditioners
from flowebm.samplers import step_size as step_sizes
from flowebm.samplers.kernel import LOCAL, AdjustedName, GlobalKernel, global_move, local_moves
from flowebm.samplers.preconditioner import Moments, Preconditioner
from flowebm.samplers.tempering import log_ratio, temperature_step
from flowebm.training.averaging import update_average
from flowebm.training.row_weights import RowWeights
from flowebm.training.schedules import late_cosine
from flowebm.training.trainer import AbstractTrainer, Metrics

#: Memory of the pool's smoothed effective share, and of the moments, in iterations.
ESS_MEMORY = 10
MOMENTS_MEMORY = 50

#: How much the effective share must rise to count as a rise.
SMALLEST_RISE = 1.01


@dataclass(frozen=True)
class SamplingOptions:
    r"""Choices of the adaptive flow-assisted sampler; the defaults are meant to do.

    Attributes:
        global_kernel: Flow-assisted move: `"imh"` (independence Metropolis-Hastings) or `"isir"`
            (iterated sampling-importance resampling).
        n_proposals: Proposals of a chain in an i-SIR move.
        local_kernel: Local move, in coordinates standardised by the population: `"mala"`,
            `"hmc"`, `"nuts"`, or `"rwm"` (random walk), which needs no gradients.
        n_local: Local moves after each global one.
        n_particles: Chains of the warm-up.
        initial_scale: Standard deviation of the wide normal around the initial point that the
            warm-up starts from, in every unconstrained coordinate. It should be wide enough to
            reach every mode.
        target_ess: Effective share of the particles that a step in temperature keeps: nearer to
            one, the path from the wide normal to the target is finer.
        flow_learning_rate: Adam's learning rate for the flow.
        flow_batch: Points of a flow step.
        n_flow_steps: Flow steps an iteration.
        average_decay: Decay of the average of the flow's parameters, which proposes.
        defensive_fraction: Share of a heavy-tailed density among the proposals.
        enough_ess: Effective share of the proposals at which the warm-up ends.
        patience: Iterations without a rise of it after which the warm-up ends.
    """

    global_kernel: GlobalKernel = "imh"
    n_proposals: Count = 4
    local_kernel: AdjustedName = "mala"
    n_local: Count = 4
    n_particles: Annotated[int, Range(least=8)] = 1024
    initial_scale: Positive = 10.0
    target_ess: Share = 0.5
    flow_learning_rate: Positive = 2e-3
    flow_batch: Count = 512
    n_flow_steps: Count = 2
    average_decay: Fraction = 0.98
    defensive_fraction: Share = 0.05
    enough_ess: Positive = 0.8
    patience: Count = 100

    def __post_init__(self):
        check_options(self)


class AdaptiveSamplingState(eqx.Module):
    r"""State of the warm-up.

    Attributes:
        params: The flow's parameters.
        average: Their moving average, which proposes.
        optimizer: State of the flow's optimizer.
        positions: The particles.
        temperature: $\beta$: the particles are of $b^{1-\beta} p^\beta$.
        moments: The particles' moments.
        step_size: Adaptation of the local step size.
        ess: Smoothed effective share of the proposals, zero until the target is reached.
        best_ess: The highest it was.
        since_best: Iterations since.
        iteration: Iterations done.
    """

    params: PyTree[Array]
    average: PyTree[Array]
    optimizer: PyTree[Array]
    positions: Float[Array, "particles d"]
    temperature: Scalar
    moments: Moments
    step_size: step_sizes.StepSizeState
    ess: Scalar
    best_ess: Scalar
    since_best: Scalar
    iteration: Scalar


class AdaptiveSamplingTrainer(AbstractTrainer):
    r"""The warm-up as a trainer: particles, temperature and flow move together.

    An iteration at temperature $\beta$, for the path $\pi_\beta \propto b^{1-\beta} p^\beta$ from a
    wide normal $b$ to the target $p$: raise $\beta$ as far as the effective size of the weights
    $(p/b)^{\Delta\beta}$ allows, and resample; move every particle by the flow-assisted kernel of
    the new $\pi_\beta$; fit the flow to the particles by a few steps of maximum likelihood. At
    $\beta = 1$ it is adaptive flow Monte Carlo. Flow and local moves act in coordinates
    standardised by the particles' moments.

    Attributes:
        target: $p$ over all of space.
        start: $b$, normalised.
        flow: The flow in standardised coordinates, as it starts.
        wide: The heavy-tailed density in standardised coordinates, not trained.
        data: The particles at the start: draws of $b$.
        optimizer: Of the flow.
        options: Choices of the method.
        batch_size: Particles that the flow's steps of one iteration take, in all.
        weights: None: particles count alike.
        temperature: Where the path starts: at 1 for particles that are draws of the target.
        stage: What the progress line calls it.

    Source: Gabrié, Rotskoff, Vanden-Eijnden (2022), *Adaptive Monte Carlo augmented with
    normalizing flows*, algorithm 1; Del Moral, Doucet, Jasra (2006), *Sequential Monte Carlo
    samplers*, for the temperatures.
    """

    one_a_chain: ClassVar[dict[str, str]] = {"positions": "n_particles"}

    target: AbstractEnergyModel
    start: AbstractDistribution
    flow: AbstractDistribution
    wide: AbstractDistribution
    data: Float[Array, "particles d"]
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    options: SamplingOptions = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    weights: RowWeights | None = None
    temperature: float = eqx.field(static=True, default=0.0)
    stage: str = eqx.field(static=True, default="warm-up")

    def proposal(self, params: PyTree[Array]) -> DefensiveMixture:
        """The proposals' density in standardised coordinates."""
        flow = eqx.combine(params, partition_trainable(self.flow)[1])
        return DefensiveMixture(flow, self.wide, self.options.defensive_fraction)

    def init(self, key: PRNGKeyArray) -> AdaptiveSamplingState:
        params, _ = partition_trainable(self.flow)
        n, dimension = self.data.shape
        zero = jnp.zeros((), self.data.dtype)
        return AdaptiveSamplingState(
            params=params,
            average=jax.tree.map(jnp.copy, params),
            optimizer=self.optimizer.init(params),
            positions=self.data,
            temperature=zero + self.temperature,
            moments=preconditioners.moments(self.data, n),
            # Optimal scaling in d standardised coordinates: Roberts and Rosenthal (1998).
            step_size=step_sizes.init(dimension ** (-1 / 3)),
            ess=zero,
            best_ess=zero,
            since_best=jnp.array(0),
            iteration=jnp.array(0),
        )

    def step(
        self,
        key: PRNGKeyArray,
        state: AdaptiveSamplingState,
        batch: Int[Array, " batch"],
        learning_rate_factor: Scalar,
    ) -> tuple[AdaptiveSamplingState, Metrics]:
        options = self.options
        resample_key, global_key, local_key = jr.split(key, 3)
        log_start = self.start.log_prob(state.positions)
        ratios = log_ratio(jax.vmap(self.target.unnormalized_log_prob)(state.positions), log_start)
        step = temperature_step(resample_key, ratios, state.temperature, options.target_ess)
        temperature = step.temperature
        positions, ratios, log_start = (
            leaf[step.ancestors] for leaf in (state.positions, ratios, log_start)
        )
        moments = self._moments(state, positions)
        coordinates = preconditioners.preconditioner(moments)
        log_density = self._log_density(temperature, coordinates)

        move = global_move(
            global_key,
            log_density,
            self.proposal(state.average),
            coordinates.standardise(positions),
            kernel=options.global_kernel,
            n_proposals=options.n_proposals,
            logdensity=log_start + temperature * ratios + coordinates.log_det,
        )
        standard, acceptance, _ = local_moves(
            local_key,
            log_density,
            move.positions,
            state.step_size.step_size,
            kernel=options.local_kernel,
            n_steps=options.n_local,
        )
        params, optimizer = self._flow_steps(
            state, standard[batch.reshape(options.n_flow_steps, -1)], learning_rate_factor
        )
        ess = effective_sample_size(move.log_weights) / move.log_weights.size
        state = AdaptiveSamplingState(
            params=params,
            average=update_average(state.average, params, state.iteration, options.average_decay),
            optimizer=optimizer,
            positions=coordinates.restore(standard),
            temperature=temperature,
            moments=moments,
            step_size=step_sizes.update(
                state.step_size, acceptance, target=LOCAL[options.local_kernel].target_acceptance
            ),
            iteration=state.iteration + 1,
            **_watched(state, temperature, ess),
        )
        return state, {
            "pool_ess": ess,
            "global_acceptance": jnp.mean(move.acceptance_rate),
            "local_acceptance": jnp.mean(acceptance),
        }

    def _moments(self, state: AdaptiveSamplingState, positions: Array) -> Moments:
        """Those of the particles now; once they are of the target, those of a longer memory."""
        # Resampling copies particles, and copies are not independent.
        now = preconditioners.moments(positions, self.options.target_ess * positions.shape[0])
        gain = jnp.where(state.temperature < 1, 1.0, 1 / MOMENTS_MEMORY)
        return preconditioners.update(state.moments, now, gain)

    def _log_density(
        self, temperature: Scalar, coordinates: Preconditioner
    ) -> Callable[[Array], Scalar]:
        r"""$\log \pi_\beta$ of a point in standardised coordinates."""

        def log_density(y):
            z = coordinates.restore(y)
            log_start = self.start.log_prob(z)
            ratio = log_ratio(self.target.unnormalized_log_prob(z), log_start)
            return log_start + temperature * ratio + coordinates.log_det

        return log_density

    def _flow_steps(
        self,
        state: AdaptiveSamplingState,
        batches: Float[Array, "steps batch d"],
        learning_rate_factor: Scalar,
    ):
        static = partition_trainable(self.flow)[1]

        def flow_step(carry, x):
            params, optimizer = carry
            gradient = jax.grad(lambda p: maximum_likelihood(eqx.combine(p, static), x))(params)
            updates, optimizer = self.optimizer.update(gradient, optimizer, params)
            updates = optax.tree.scale(learning_rate_factor, updates)
            return (optax.apply_updates(params, updates), optimizer), None

        carry, _ = jax.lax.scan(flow_step, (state.params, state.optimizer), batches)
        return carry

    def evaluate(self, key: PRNGKeyArray, state: AdaptiveSamplingState) -> tuple[Metrics, None]:
        reached = state.temperature >= 1
        finished = (state.ess >= self.options.enough_ess) | (
            state.since_best >= self.options.patience
        )
        metrics = {
            "ess": state.ess,
            "temperature": state.temperature,
            "step_size": state.step_size.step_size,
            "finished": (reached & finished).astype(float),
        }
        return metrics, None

    def solution(self, state: AdaptiveSamplingState) -> PyTree[Array]:
        return state.average

    def schedule(self, progress: Scalar) -> Scalar:
        return late_cosine(progress)


def _watched(state: AdaptiveSamplingState, temperature: Scalar, ess: Scalar) -> dict[str, Scalar]:
    """The smoothed effective share, its best and how long ago that was."""
    smoothed = state.ess + (ess - state.ess) / ESS_MEMORY
    smoothed = jnp.where(temperature < 1, 0.0, smoothed)
    rises = smoothed > SMALLEST_RISE * state.best_ess
    return {
        "ess": smoothed,
        "best_ess": jnp.where(rises, smoothed, state.best_ess),
        "since_best": jnp.where(rises | (temperature < 1), 0, state.since_best + 1),
    }
