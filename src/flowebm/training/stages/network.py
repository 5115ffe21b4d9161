"""Autoregressive networks of the columns, by maximum likelihood."""

from functools import cache
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
from flowjax.bijections import Invert
from flowjax.distributions import AbstractDistribution, Transformed
from jaxtyping import Array, Int, PRNGKeyArray, Scalar

from flowebm.models.autoregressive import AutoregressiveMixture, started_at
from flowebm.models.batches import on_device
from flowebm.models.marginals import Marginals
from flowebm.objectives.objective import Objective
from flowebm.training.budget import Budget
from flowebm.training.candidate import Candidate
from flowebm.training.driver import Callbacks, StoppingCriteria, drive
from flowebm.training.joint_options import JointOptions
from flowebm.training.objective import ObjectiveTrainer
from flowebm.training.row_weights import rows_in_proportion
from flowebm.training.rows import Rows, batch_size_of, fill


@cache
def clipped_adamw(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW behind a clip of the gradient's norm; the same object for the same numbers."""
    adamw = optax.adamw(learning_rate, b2=0.99, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(5.0), adamw)


class _DropoutLikelihood(eqx.Module):
    """The negative log-likelihood of a network without some of its units."""

    rate: float = eqx.field(static=True)

    def __call__(self, model: AutoregressiveMixture, points: Array, key: PRNGKeyArray) -> Scalar:
        keys = jr.split(key, points.shape[0])
        return -jnp.mean(
            jax.vmap(lambda x, k: model.log_prob_with_dropout(x, k, self.rate))(points, keys)
        )


def fit_network(
    key: PRNGKeyArray,
    rows: Rows,
    order: Int[np.ndarray, " d"],
    marginals: Marginals,
    *,
    options: JointOptions,
    circular: tuple[bool, ...] | None = None,
    max_steps: int | None = None,
    time_budget: float | Budget | None = None,
    stage: str = "network",
    callbacks: Callbacks | None = None,
) -> Candidate:
    """An autoregressive network of the columns behind their marginal transforms.

    Args:
        key: Random key.
        rows: The rows, of vectors.
        order: Rank of each column.
        marginals: The columns' transforms, which stay as they are.
        options: How the network is made and trained.
        circular: Columns of period 2π.
        max_steps: Iterations at most.
        time_budget: Seconds at most.
        stage: A word for progress and metrics.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The density of the columns, at its best on validation points.

    Raises:
        TrainingDiverged: If training diverges again and again.
    """
    make_key, fit_key = jr.split(key)
    z, log_det = marginals.transform_rows(rows.train)
    z_validation, validation_log_det = marginals.transform_rows(rows.validation)
    redrawn = tuple(marginals.transform_rows(points)[0] for points in rows.redrawn)
    network = AutoregressiveMixture(
        order,
        width=options.network_width,
        blocks=options.network_blocks,
        components=options.components_of(z.shape[1]),
        circular=circular,
        key=make_key,
    )
    counted = z if rows.weights is None else z[rows_in_proportion(rows.weights.train)]
    # No noise is learnt by heart.
    everything = Rows(z, z_validation, rows.weights, redrawn).with_all_noise()
    data, validation, weights = everything.filled()
    trainer = ObjectiveTrainer(
        model=started_at(network, counted),
        data=data,
        validation=validation,
        validation_log_det=on_device(fill(validation_log_det, len(validation))),
        loss_shift=on_device(rows.mean_of_train(log_det)),
        objective=cast(Objective, _DropoutLikelihood(options.dropout)),
        optimizer=clipped_adamw(options.network_learning_rate, options.network_weight_decay),
        weights=weights,
        batch_size=batch_size_of(options.network_batch_size, len(z)),
        schedule_name="cosine",
        loss_name="train_nll",
        stage=stage,
    )
    steps = options.network_steps(z.shape[0])
    stopping = StoppingCriteria(steps if max_steps is None else min(steps, max_steps), time_budget)
    outcome = drive(fit_key, trainer, stopping, callbacks)
    density = behind(trainer.with_params(outcome.state.best), marginals)
    return Candidate.of(stage, density, rows, tuple(outcome.history))


def behind(density: AbstractDistribution, marginals: Marginals) -> Transformed:
    """The density of points whose transforms have this density.

    Args:
        density: Of transformed points.
        marginals: The transform.
    """
    return Transformed(density, Invert(paramax.non_trainable(marginals)))
