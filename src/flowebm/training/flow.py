"""Fitting a flow to data by maximum likelihood, stopped on validation data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.models.trainable import partition_trainable
from flowebm.objectives.maximum_likelihood import maximum_likelihood
from flowebm.training.averaging import update_average
from flowebm.training.driver import Limits, Observers, Outcome, drive
from flowebm.training.schedules import constant
from flowebm.training.trainer import AbstractTrainer, Metrics


class FlowState(eqx.Module):
    """State of a maximum-likelihood fit.

    Attributes:
        params: The trainable parameters.
        average: Their exponential moving average, which is what is evaluated and kept.
        optimizer: The optimizer's state.
        iteration: Iterations done.
    """

    params: PyTree[Array]
    average: PyTree[Array]
    optimizer: PyTree[Array]
    iteration: Scalar


class FlowTrainer(AbstractTrainer):
    """Maximum likelihood of a flow: Adam with clipped gradients, and a parameter average."""

    flow: AbstractDistribution
    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    batch_size: int = eqx.field(static=True, default=512)
    average_decay: float = eqx.field(static=True, default=0.99)
    stage: str = eqx.field(static=True, default="flow")

    def init(self, key: PRNGKeyArray) -> FlowState:
        params, _ = partition_trainable(self.flow)
        return FlowState(
            params, jax.tree.map(jnp.copy, params), self.optimizer.init(params), jnp.array(0)
        )

    def step(
        self,
        key: PRNGKeyArray,
        state: FlowState,
        batch: Int[Array, " batch"],
        learning_rate_factor: Scalar,
    ) -> tuple[FlowState, Metrics]:
        static = partition_trainable(self.flow)[1]

        def loss(params):
            return maximum_likelihood(eqx.combine(params, static), self.data[batch])

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
        updates = optax.tree.scale(learning_rate_factor, updates)
        params = optax.apply_updates(state.params, updates)
        average = update_average(state.average, params, state.iteration, self.average_decay)
        return FlowState(params, average, optimizer, state.iteration + 1), {"train_nll": value}

    def evaluate(self, key: PRNGKeyArray, state: FlowState) -> tuple[Metrics, Float[Array, " m"]]:
        nll = -self.with_params(state.average).log_prob(self.validation)
        return {"nll": jnp.mean(nll), "nll_stderr": jnp.std(nll) / jnp.sqrt(nll.size)}, nll

    def solution(self, state: FlowState) -> PyTree[Array]:
        return state.average

    def schedule(self, progress: Scalar) -> Scalar:
        return constant(progress)

    def with_params(self, params: PyTree[Array]) -> AbstractDistribution:
        """The flow with other parameters."""
        return eqx.combine(params, partition_trainable(self.flow)[1])


def fit_flow(
    key: PRNGKeyArray,
    flow: AbstractDistribution,
    data: Float[Array, "n *shape"],
    validation: Float[Array, "m *shape"],
    *,
    max_steps: int = 2000,
    time_budget: float | None = None,
    patience: int = 8,
    block_length: int = 50,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    stage: str = "flow",
    observers: Observers | None = None,
) -> tuple[AbstractDistribution, Outcome]:
    """Fit a flow by maximum likelihood and return it as it was at its best on validation data.

    From about 16 coordinates on, flows memorise their data within a few hundred iterations:
    the stop decides the fit (`methods.md`, section 4).

    Args:
        key: Random key.
        flow: The flow to start from.
        data: Training points, one a row.
        validation: Validation points, one a row.
        max_steps: Iterations at most.
        time_budget: Seconds at most.
        patience: Evaluations without improvement before it stops.
        block_length: Iterations between evaluations.
        batch_size: Points of a minibatch.
        learning_rate: Adam's learning rate.
        stage: A word for progress and metrics.
        observers: Progress, metrics and checkpoints.

    Returns:
        The fitted flow and the driver's outcome.
    """
    trainer = FlowTrainer(
        flow=flow,
        data=data,
        validation=validation,
        optimizer=optax.chain(optax.clip_by_global_norm(5.0), optax.adam(learning_rate)),
        batch_size=min(batch_size, data.shape[0]),
        stage=stage,
    )
    limits = Limits(max_steps, time_budget, patience, block_length)
    outcome = drive(key, trainer, limits, observers)
    return trainer.with_params(outcome.state.best), outcome
