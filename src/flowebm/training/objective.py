"""Descending an objective over a model's parameters, with their average as the solution."""

from collections.abc import Callable
from typing import Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree, Real, Scalar

from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.models.ebflow import EBFlow
from flowebm.models.trainable import partition_trainable
from flowebm.objectives.objective import Objective
from flowebm.training.averaging import update_average
from flowebm.training.devices import over_data
from flowebm.training.row_weights import RowWeights
from flowebm.training.schedules import constant, warmup_cosine
from flowebm.training.trainer import AbstractTrainer, Metrics

#: Validation points that an EBFlow evaluates at once.
EVALUATED_AT_ONCE = 500

SCHEDULES = {"constant": constant, "cosine": warmup_cosine}


class ObjectiveState(eqx.Module):
    """State of a descent.

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

    @classmethod
    def start(cls, params: PyTree[Array], optimizer: optax.GradientTransformation) -> Self:
        """The state before the first iteration.

        Args:
            params: The parameters to start from, which are their own average.
            optimizer: The optimizer.
        """
        average = jax.tree.map(jnp.copy, params)
        return cls(params, average, optimizer.init(params), jnp.array(0))

    def descend(
        self,
        gradient: PyTree[Array],
        optimizer: optax.GradientTransformation,
        factor: ArrayLike,
        average_decay: float,
    ) -> Self:
        """The state after one iteration.

        Args:
            gradient: The gradient at `params`.
            optimizer: The optimizer.
            factor: What its update is multiplied by.
            average_decay: Decay of the average.
        """
        updates, state = optimizer.update(gradient, self.optimizer, self.params)
        params = optax.apply_updates(self.params, optax.tree.scale(factor, updates))
        average = update_average(self.average, params, self.iteration, average_decay)
        return type(self)(params, average, state, self.iteration + 1)


class ObjectiveTrainer(AbstractTrainer):
    r"""Stochastic gradient descent of $\mathcal L(\theta)$, validated by the exact NLL.

    Attributes:
        model: The model to start from, with an exact `log_prob`.
        data: Training points, one a row, as `prepare` takes them.
        validation: Validation points as the model takes them.
        validation_log_det: What the preprocessing adds to the log-density of each, in nats.
        seen: Training points whose exact NLL is reported beside, as `validation` and
            `validation_log_det`; none where the loss is the NLL.
        objective: $(\theta, x, \text{key}) \mapsto \mathcal L$.
        optimizer: The optimizer, without a schedule.
        loss_shift: What is reported is the loss less this: what belongs to the mean
            log-density of the training points beside the model's own, where the loss is an NLL.
        weights: How much training and validation rows count.
        prepare: `(key, rows) -> points`, what becomes of a minibatch before the model sees it.
        batch_size: Points of a minibatch.
        average_decay: Decay of the parameters' average.
        schedule_name: Learning rate over the run.
        epoch_decay: Factor on the learning rate after each epoch.
        loss_name: The objective's name among the metrics; `"train_nll"` where it is the NLL.
        stage: A word for progress and metrics.
    """

    model: AbstractDistribution
    data: Real[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    validation_log_det: Float[Array, " m"]
    objective: Objective = eqx.field(static=True)
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    seen: tuple[Float[Array, "k *shape"], Float[Array, " k"]] | None = None
    loss_shift: Float[ArrayLike, ""] = 0.0
    weights: RowWeights | None = None
    prepare: Callable[[PRNGKeyArray, Array], Array] | None = None
    batch_size: int = eqx.field(static=True, default=512)
    average_decay: float = eqx.field(static=True, default=0.99)
    schedule_name: Literal["constant", "cosine"] = eqx.field(static=True, default="constant")
    epoch_decay: float = eqx.field(static=True, default=1.0)
    loss_name: str = eqx.field(static=True, default="loss")
    stage: str = eqx.field(static=True, default="fit")

    def init(self, key: PRNGKeyArray) -> ObjectiveState:
        return ObjectiveState.start(partition_trainable(self.model)[0], self.optimizer)

    def step(
        self,
        key: PRNGKeyArray,
        state: ObjectiveState,
        batch: Int[Array, " batch"],
        learning_rate_factor: Scalar,
    ) -> tuple[ObjectiveState, Metrics]:
        static = partition_trainable(self.model)[1]
        objective_key, prepare_key = jax.random.split(key)
        points = self.data[batch]
        if self.prepare is not None:
            points = self.prepare(prepare_key, points)

        def loss(params):
            return self.objective(eqx.combine(params, static), points, objective_key)

        value, gradient = jax.value_and_grad(loss)(state.params)
        n_rows = self.data.shape[0] if self.weights is None else self.weights.n
        epoch = state.iteration * self.batch_size // n_rows
        factor = learning_rate_factor * self.epoch_decay**epoch
        state = state.descend(gradient, self.optimizer, factor, self.average_decay)
        return state, {self.loss_name: value - self.loss_shift}

    def evaluate(
        self, key: PRNGKeyArray, state: ObjectiveState
    ) -> tuple[Metrics, Float[Array, " m"]]:
        points, log_det = self.validation, self.validation_log_det
        if self.seen is not None:
            # Together, because the determinants are then computed once for all.
            points = jnp.concatenate([points, self.seen[0]])
            log_det = jnp.concatenate([log_det, self.seen[1]])
        every_nll = _nll(self.with_params(state.average), over_data(points)) - log_det
        nll = every_nll[: self.validation.shape[0]]
        weights = None if self.weights is None else self.weights.validation
        mean = weighted_mean(nll, weights)
        metrics = {"nll": jnp.asarray(mean.value), "nll_stderr": jnp.asarray(mean.stderr)}
        if self.seen is not None:
            metrics["train_nll"] = jnp.mean(every_nll[nll.size :])
        return metrics, nll

    def solution(self, state: ObjectiveState) -> PyTree[Array]:
        return state.average

    def schedule(self, progress: Scalar) -> Scalar:
        return SCHEDULES[self.schedule_name](progress)

    def with_params(self, params: PyTree[Array]) -> AbstractDistribution:
        """The model with other parameters."""
        return eqx.combine(params, partition_trainable(self.model)[1])


def _nll(model: AbstractDistribution, points: Float[Array, "m *shape"]) -> Float[Array, " m"]:
    """The NLL of every point; determinants are computed once for all."""
    if isinstance(model, EBFlow):
        at_once = min(EVALUATED_AT_ONCE, points.shape[0])
        return jax.lax.map(model.energy, points, batch_size=at_once) + model.log_normalizer()
    return -model.log_prob(points)
