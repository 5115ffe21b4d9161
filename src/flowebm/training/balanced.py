"""Balanced training: maximum likelihood with flow-assisted chains and a flow that follows."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.importance import effective_sample_size, log_mean_exp
from flowebm.models.defensive import draw
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.trainable import partition_trainable
from flowebm.objectives.contrastive import contrastive_likelihood
from flowebm.objectives.maximum_likelihood import maximum_likelihood
from flowebm.options import AnyShare, Count, Fraction, NotNegative, Positive, Range, check_options
from flowebm.refusal import Refused
from flowebm.samplers import step_size
from flowebm.samplers.kernel import LOCAL, GlobalMove, LocalName, global_move, local_moves
from flowebm.training import online
from flowebm.training.averaging import update_average
from flowebm.training.devices import on_every_device, over_data
from flowebm.training.row_weights import RowWeights, draw_rows
from flowebm.training.schedules import warmup_cosine
from flowebm.training.trainer import AbstractTrainer, Metrics
from flowebm.training.validation import validation_metrics

#: Rows for each data point of a flow step. A flow that sees few rows again and again learns them by
#: heart, and covers the energy no longer; chain states are new in every step.
ROWS_TO_FLOW_DATA = 16

#: Weight decay for each coordinate, and at most.
DECAY_OF_A_COORDINATE, MOST_DECAY = 0.006, 0.2


@dataclass(frozen=True)
class BalancedOptions:
    """Choices of balanced training; the defaults are for standardised continuous data.

    Attributes:
        learning_rate: Adam's learning rate for the energy, at its height; that of hidden layers, by
            Muon, is 10 times as much.
        weight_decay: Decoupled weight decay of the energy's layers; by default 0.006 a coordinate,
            up to 0.2.
        batch_size: Data points of a minibatch.
        n_chains: Persistent chains.
        start: Where the chains start: draws of the base, of the flow, or data points.
        global_kernel: Flow-assisted move: `imh`, `isir`, or `none` (persistent contrastive
            divergence, the baseline without a flow).
        n_proposals: Proposals of a chain in an i-SIR move.
        gradient: Estimate of the model's expectation: from the chains' states, or
            `recycled`: from every point of the global move's pool, with its weight.
        local_kernel: Local move: `mala`, `hmc`, `nuts`, `rwm` (random walk), or `ula`, which is
            biased.
        n_local: Local moves an iteration.
        step_size: First step size of local moves, in units of the standardised data; it is
            adapted unless the kernel is `ula`.
        average_decay: Decay of the parameter average.
        flow_learning_rate: Adam's learning rate for the flow.
        flow_interval: Iterations between the flow's steps.
        flow_batch: Points of a flow step.
        flow_data_fraction: Share of data among them, at most a sixteenth of all rows; the others
            are chain states.
        full_ess: The pool's effective share from which the energy learns at its full rate;
            below, the rate is in proportion, so that the model moves as fast as the flow
            follows.
        min_ess: The share under which the gradient is not trusted: the energy then waits while
            chains and flow go on.
        max_wait: Iterations that the energy waits at most before it goes on all the same.
        recovery_flow_steps: Flow steps of an iteration in which the energy waits.
        penalty: Factor of the penalty on squared energies.
        n_evaluation: Fresh proposals for the log-normaliser at each evaluation.
    """

    learning_rate: Positive = 5e-3
    weight_decay: NotNegative | None = None
    batch_size: Count = 1024
    n_chains: Count = 1024
    start: Literal["base", "flow", "data"] = "flow"
    global_kernel: Literal["imh", "isir", "none"] = "imh"
    n_proposals: Count = 4
    gradient: Literal["chains", "waste-recycled"] = "chains"
    local_kernel: LocalName = "mala"
    n_local: Count = 2
    step_size: Positive = 0.02
    average_decay: Fraction = 0.995
    flow_learning_rate: Positive = 5e-4
    flow_interval: Count = 10
    flow_batch: Count = 1024
    flow_data_fraction: AnyShare = 0.5
    full_ess: Positive = 0.1
    min_ess: NotNegative = 0.005
    max_wait: Annotated[int, Range(least=0)] = 20
    recovery_flow_steps: Annotated[int, Range(least=0)] = 3
    penalty: NotNegative = 0.0
    n_evaluation: Annotated[int, Range(least=2)] = 4096

    def __post_init__(self):
        check_options(self)
        if self.gradient == "waste-recycled" and self.global_kernel == "none":
            raise Refused(
                "The recycled gradient needs the proposals of a flow-assisted kernel: choose "
                "global_kernel 'imh' or 'isir', or gradient 'chains'."
            )

    def decay(self, n_coordinates: int) -> float:
        """Weight decay of a tilt that sees so many coordinates: the more, the more noise it learns.

        Args:
            n_coordinates: Coordinates of a point.

        Returns:
            What was chosen, or else `DECAY_OF_A_COORDINATE` for each, up to `MOST_DECAY`.
        """
        if self.weight_decay is not None:
            return self.weight_decay
        return min(MOST_DECAY, DECAY_OF_A_COORDINATE * n_coordinates)


class BalancedState(eqx.Module):
    r"""State of balanced training.

    Attributes:
        params: The energy's parameters $\theta$.
        average: Their exponential moving average $\bar\theta$, which is the result.
        flow: The proposal's parameters $\alpha$.
        chains: The persistent chains.
        step_size: Adaptation of the local step size.
        optimizer: State of the energy's optimizer.
        flow_optimizer: State of the flow's optimizer.
        train_nll: Online estimate of the training NLL of $\theta$ (nats).
        log_partition: Online estimate of $\log Z_\theta$ (nats).
        waited: Iterations that the energy has waited in a row.
        iteration: Iterations done.
    """

    params: PyTree[Array]
    average: PyTree[Array]
    flow: PyTree[Array]
    chains: Float[Array, "chains *shape"]
    step_size: step_size.StepSizeState
    optimizer: PyTree[Array]
    flow_optimizer: PyTree[Array]
    train_nll: online.OnlineEstimate
    log_partition: online.OnlineEstimate
    waited: Scalar
    iteration: Scalar


class BalancedTrainer(AbstractTrainer):
    """Balanced training as a trainer: chains, energy and flow move together.

    Args:
        model: The model to start from.
        proposal: The flow to start from, or a defensive mixture of it.
        data: Training points, one a row.
        validation: Points that evaluations measure the NLL of, one a row.
        chains: Where the chains start, one a row.
        optimizer: The energy's optimizer; its updates are scaled by the schedule.
        flow_optimizer: The flow's.
        options: Choices of the method.
        weights: How much the rows count; all alike by default.
        batch_size: Training points of an iteration.
        stage: The name of the stage in metrics and checkpoints.

    Source: Grenioux, Moulines, Gabrié (2023), algorithm 1.
    """

    one_a_chain: ClassVar[dict[str, str]] = {"chains": "n_chains"}

    model: AbstractEnergyModel
    proposal: AbstractDistribution
    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    chains: Float[Array, "chains *shape"]
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    flow_optimizer: optax.GradientTransformation = eqx.field(static=True)
    options: BalancedOptions = eqx.field(static=True)
    weights: RowWeights | None = None
    batch_size: int = eqx.field(static=True, default=1024)
    stage: str = eqx.field(static=True, default="balanced")

    def with_params(self, params: PyTree[Array]) -> AbstractEnergyModel:
        """The model with other parameters."""
        return eqx.combine(params, partition_trainable(self.model)[1])

    def with_flow(self, params: PyTree[Array]) -> AbstractDistribution:
        """The proposal with other parameters."""
        return eqx.combine(params, partition_trainable(self.proposal)[1])

    @property
    def n_flow_data(self) -> int:
        """Data points of a flow step."""
        wanted = round(self.options.flow_batch * self.options.flow_data_fraction)
        return min(wanted, self.data.shape[0] // ROWS_TO_FLOW_DATA)

    def init(self, key: PRNGKeyArray) -> BalancedState:
        params, _ = partition_trainable(self.model)
        flow, _ = partition_trainable(self.proposal)
        return BalancedState(
            params=params,
            average=jax.tree.map(jnp.copy, params),
            flow=flow,
            chains=self.chains,
            step_size=step_size.init(self.options.step_size),
            optimizer=self.optimizer.init(params),
            flow_optimizer=self.flow_optimizer.init(flow),
            train_nll=online.init(),
            log_partition=online.init(),
            waited=jnp.array(0),
            iteration=jnp.array(0),
        )

    def step(
        self,
        key: PRNGKeyArray,
        state: BalancedState,
        batch: Int[Array, " batch"],
        learning_rate_factor: Scalar,
    ) -> tuple[BalancedState, Metrics]:
        options = self.options
        global_key, local_key, flow_key = jr.split(key, 3)
        log_density = self.with_params(state.params).unnormalized_log_prob
        chains, move, metrics = state.chains, None, {}

        if options.global_kernel != "none":
            move = global_move(
                global_key,
                log_density,
                self.with_flow(state.flow),
                chains,
                kernel=options.global_kernel,
                n_proposals=options.n_proposals,
            )
            chains = move.positions
            log_weights, global_acceptance = on_every_device(
                (move.log_weights, move.acceptance_rate)
            )
            ess = effective_sample_size(log_weights) / log_weights.size
            waits = (ess < options.min_ess) & (state.waited < options.max_wait)
            energy_factor = learning_rate_factor * jnp.minimum(1.0, ess / options.full_ess)
            metrics |= {"ess": ess, "global_acceptance": jnp.mean(global_acceptance)}
        else:
            waits, energy_factor = jnp.array(False), learning_rate_factor

        chains, acceptance, _ = local_moves(
            local_key,
            log_density,
            chains,
            state.step_size.step_size,
            kernel=options.local_kernel,
            n_steps=options.n_local,
        )
        adapted, local = state.step_size, LOCAL[options.local_kernel]
        if local.is_adjusted:
            adapted = step_size.update(adapted, acceptance, target=local.target_acceptance)

        params, average, optimizer, gap, on_data = self._energy_step(
            state, batch, chains, move, waits, energy_factor
        )
        flow, flow_optimizer = self._flow_steps(
            flow_key, state, chains, waits, learning_rate_factor
        )
        train_nll, log_partition = state.train_nll, state.log_partition
        if move is not None:
            on_data = on_every_device(on_data)
            log_z, log_z_stderr = log_mean_exp(log_weights)
            log_z_variance = jnp.asarray(log_z_stderr) ** 2
            # The logarithm of a mean is low by half its variance, which averaging would keep.
            log_z = log_z + 0.5 * log_z_variance
            log_partition = online.update(log_partition, log_z, log_z_variance)
            train_nll = online.update(
                train_nll,
                jnp.mean(on_data) + log_z,
                jnp.var(on_data) / on_data.size + log_z_variance,
            )
        state = BalancedState(
            params=params,
            average=average,
            flow=flow,
            chains=chains,
            step_size=adapted,
            optimizer=optimizer,
            flow_optimizer=flow_optimizer,
            train_nll=train_nll,
            log_partition=log_partition,
            waited=jnp.where(waits, state.waited + 1, 0),
            iteration=state.iteration + 1,
        )
        return state, metrics | {
            "local_acceptance": jnp.mean(acceptance),
            "step_size": adapted.step_size,
            "energy_gap": gap,
            "waiting": waits.astype(float),
        }

    def _energy_step(
        self,
        state: BalancedState,
        batch: Int[Array, " batch"],
        chains: Float[Array, "chains *shape"],
        move: GlobalMove | None,
        waits: Bool[Array, ""],
        learning_rate_factor: Scalar,
    ):
        """Descend the likelihood, unless the energy waits."""
        static = partition_trainable(self.model)[1]
        if self.options.gradient == "waste-recycled" and move is not None:
            samples, weights = move.pool, move.pool_weights
        else:
            samples, weights = chains, None

        def loss(params):
            return contrastive_likelihood(
                eqx.combine(params, static),
                self.data[batch],
                samples,
                weights,
                penalty=self.options.penalty,
            )

        gradient, (gap, on_data) = jax.grad(loss, has_aux=True)(state.params)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, optax.tree.scale(learning_rate_factor, updates))
        average = update_average(state.average, params, state.iteration, self.options.average_decay)
        kept = jax.tree.map(
            lambda old, new: jnp.where(waits, old, new),
            (state.params, state.average, state.optimizer),
            (params, average, optimizer),
        )
        return *kept, gap, on_data

    def _flow_steps(
        self,
        key: PRNGKeyArray,
        state: BalancedState,
        chains: Float[Array, "chains *shape"],
        waits: Bool[Array, ""],
        learning_rate_factor: Scalar,
    ):
        """Refit the flow to chains and data."""
        options = self.options
        if options.global_kernel == "none":
            return state.flow, state.flow_optimizer
        static = partition_trainable(self.proposal)[1]
        n_data = self.n_flow_data
        n_chains = options.flow_batch - n_data

        def flow_step(index, carry):
            params, optimizer = carry
            data_key, chain_key = jr.split(jr.fold_in(key, index))
            rows = jr.randint(data_key, (n_data,), 0, self.data.shape[0])
            # `randint` makes keys of 0 and 1 folded in.
            rows = draw_rows(self.weights, jr.fold_in(data_key, 2), rows)
            x = jnp.concatenate(
                [
                    self.data[rows],
                    chains[jr.randint(chain_key, (n_chains,), 0, chains.shape[0])],
                ]
            )
            x = over_data(x)
            gradient = jax.grad(lambda p: maximum_likelihood(eqx.combine(p, static), x))(params)
            updates, optimizer = self.flow_optimizer.update(gradient, optimizer, params)
            params = optax.apply_updates(params, optax.tree.scale(learning_rate_factor, updates))
            return params, optimizer

        is_due = (state.iteration % options.flow_interval == 0).astype(int)
        n_steps = jnp.where(waits, options.recovery_flow_steps, is_due)
        return jax.lax.fori_loop(0, n_steps, flow_step, (state.flow, state.flow_optimizer))

    def evaluate(
        self, key: PRNGKeyArray, state: BalancedState
    ) -> tuple[Metrics, Float[Array, " m"] | None]:
        if self.options.global_kernel == "none":
            # Without a proposal that covers the model nobody knows its likelihood.
            return {}, None
        model, proposal = self.with_params(state.average), self.with_flow(state.flow)
        x, log_q = over_data(draw(key, proposal, self.options.n_evaluation))
        log_z = log_mean_exp(jax.vmap(model.unnormalized_log_prob)(x) - log_q)
        energies = jax.vmap(model.energy)(over_data(self.validation))
        metrics = validation_metrics(energies, log_z, self.weights) | {
            "train_nll": state.train_nll.value,
            "train_nll_stderr": state.train_nll.stderr,
            "online_log_partition": state.log_partition.value,
            "online_log_partition_stderr": state.log_partition.stderr,
        }
        return metrics, energies + log_z.value

    def solution(self, state: BalancedState) -> PyTree[Array]:
        return state.average, state.flow

    def schedule(self, progress: Scalar) -> Scalar:
        return warmup_cosine(progress)
