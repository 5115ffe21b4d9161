"""A bounded tilt of a density that is easy to sample, by importance-weighted likelihood."""

from collections.abc import Callable
from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.importance import effective_sample_size, log_mean_exp
from flowebm.models.bounded import BoundedTilt, tilts
from flowebm.models.stack import draw
from flowebm.models.trainable import partition_trainable
from flowebm.training.budget import Budget
from flowebm.training.candidate import Candidate
from flowebm.training.devices import over_data
from flowebm.training.driver import Limits, Observers, drive
from flowebm.training.objective import ObjectiveState
from flowebm.training.optimizers import clipped_muon
from flowebm.training.row_weights import RowWeights
from flowebm.training.rows import Rows
from flowebm.training.schedules import warmup_cosine
from flowebm.training.trainer import AbstractTrainer, Metrics
from flowebm.training.validation import validation_metrics

#: Decay of the parameters' average.
AVERAGE_DECAY = 0.995


class Draws(NamedTuple):
    """Independent draws of a density, which each serve one purpose.

    Attributes:
        train: Those that train the tilt.
        held_out: Those that evaluate it, and choose.
        unseen: Those that nothing was fitted or chosen with, for log Z of what is kept.
    """

    train: Float[Array, "n *shape"]
    held_out: Float[Array, "k *shape"]
    unseen: Float[Array, "l *shape"]


class TiltTrainer(AbstractTrainer):
    r"""Descent of $\mathbb E_\text{data}[U] + \log \mathbb E_b[e^{-U}]$ over the tilt.

    The base $b$ is its own proposal, so that importance weights are $e^{-U}$ and neither its
    density nor its gradient is needed.

    Attributes:
        tilt: The tilt to start from.
        data: Training points, one a row.
        validation: Validation points.
        base_log_prob: $\log b$ of each of them.
        draws: Draws of $b$ that train.
        held_out: Draws of $b$ that evaluate.
        optimizer: The optimizer; its updates are scaled by the schedule.
        weights: How much the rows count; all alike by default.
        batch_size: Training points, and draws, of an iteration.
        stage: A word for progress and metrics.
    """

    tilt: Callable[[Array], Scalar]
    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    base_log_prob: Float[Array, " m"]
    draws: Float[Array, "n_draws *shape"]
    held_out: Float[Array, "k *shape"]
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    weights: RowWeights | None = None
    batch_size: int = eqx.field(static=True, default=1024)
    stage: str = eqx.field(static=True, default="tilt")

    def with_params(self, params: PyTree[Array]) -> Callable[[Array], Scalar]:
        """The tilt with other parameters."""
        return eqx.combine(params, partition_trainable(self.tilt)[1])

    def init(self, key: PRNGKeyArray) -> ObjectiveState:
        return ObjectiveState.start(partition_trainable(self.tilt)[0], self.optimizer)

    def step(
        self,
        key: PRNGKeyArray,
        state: ObjectiveState,
        batch: Int[Array, " batch"],
        learning_rate_factor: Scalar,
    ) -> tuple[ObjectiveState, Metrics]:
        chosen = jr.randint(key, (self.batch_size,), 0, self.draws.shape[0])
        points = over_data(self.draws[chosen])

        def loss(params):
            tilt = self.with_params(params)
            log_weights = -jax.vmap(tilt)(points)
            log_z = jax.nn.logsumexp(log_weights) - jnp.log(log_weights.size)
            return jnp.mean(jax.vmap(tilt)(self.data[batch])) + log_z, log_weights

        (gain, log_weights), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        state = state.descend(gradient, self.optimizer, learning_rate_factor, AVERAGE_DECAY)
        ess = effective_sample_size(log_weights) / log_weights.size
        return state, {"train_tilt": gain, "ess": ess}

    def evaluate(
        self, key: PRNGKeyArray, state: ObjectiveState
    ) -> tuple[Metrics, Float[Array, " m"]]:
        tilt = self.with_params(state.average)
        log_z = log_mean_exp(-jax.vmap(tilt)(over_data(self.held_out)))
        energies = jax.vmap(tilt)(over_data(self.validation)) - self.base_log_prob
        return validation_metrics(energies, log_z, self.weights), energies + log_z.value

    def solution(self, state: ObjectiveState) -> PyTree[Array]:
        return state.average

    def schedule(self, progress: Scalar) -> Scalar:
        return warmup_cosine(progress)


class TiltFit(NamedTuple):
    """A fitted tilt.

    Attributes:
        candidate: The tilted density's log-density at validation points, with the base as
            density, whose draws it reweights.
        tilt: The tilt.
        saturated: Share of validation points at which it is beyond nine tenths of its bound.
    """

    candidate: Candidate
    tilt: BoundedTilt
    saturated: float


def draw_parts(
    key: PRNGKeyArray, base: AbstractDistribution, n_train: int, n_held_out: int, n_unseen: int
) -> Draws:
    """Draws of a base for a tilt and what follows it.

    Args:
        key: Random key.
        base: The density.
        n_train: Draws that train.
        n_held_out: Draws that evaluate.
        n_unseen: Draws for what was chosen.
    """
    n = n_train + n_held_out + n_unseen
    parts = np.split(np.asarray(draw(key, base, n)), (n_train, n_train + n_held_out))
    return Draws(*map(jnp.asarray, parts))


def fit_tilt(
    key: PRNGKeyArray,
    tilt: BoundedTilt,
    base: Candidate,
    draws: Draws,
    rows: Rows,
    *,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    max_steps: int,
    time_budget: float | Budget | None = None,
    patience: int | None = None,
    stage: str = "tilt",
    observers: Observers | None = None,
) -> TiltFit:
    r"""Fit $p(x) \propto b(x) e^{-U(x)}$ to training points, with draws of $b$ made once.

    Args:
        key: Random key.
        tilt: The tilt to start from.
        base: $b$.
        draws: Draws of $b$.
        rows: The rows.
        learning_rate: Adam's learning rate at its height; that of hidden layers, by Muon, is 10
            times as much.
        weight_decay: Decoupled weight decay of layers.
        batch_size: Training points, and draws, of an iteration.
        max_steps: Iterations at most.
        time_budget: Seconds at most.
        patience: Evaluations without a better validation NLL before it stops.
        stage: A word for progress and metrics.
        observers: Progress, metrics and checkpoints.

    Returns:
        The tilt, at its best on validation points.

    Raises:
        TrainingDiverged: If training diverges again and again.

    Source: Bengio and Senécal (2003), *Quick training of probabilistic neural nets by importance
    sampling*.
    """
    trainer = TiltTrainer(
        tilt=tilt,
        data=rows.train,
        validation=rows.validation,
        base_log_prob=base.log_prob,
        draws=draws.train,
        held_out=draws.held_out,
        optimizer=clipped_muon(1.0, learning_rate, weight_decay),
        weights=rows.weights,
        batch_size=min(batch_size, rows.train.shape[0]),
        stage=stage,
    )
    outcome = drive(key, trainer, Limits(max_steps, time_budget, patience), observers)
    fitted = cast(BoundedTilt, trainer.with_params(outcome.state.best))
    log_prob = -outcome.state.best_nll_points
    bound = float(tilt.bound.tree)
    of_validation = np.abs(np.asarray(tilts(fitted, rows.validation)))
    candidate = Candidate(stage, base.density, log_prob, tuple(outcome.history))
    return TiltFit(candidate, fitted, float(np.mean(of_validation > 0.9 * bound)))
