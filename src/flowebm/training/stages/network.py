"""Autoregressive networks of the columns, by maximum likelihood."""

from dataclasses import dataclass
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
from flowjax.bijections import Invert
from flowjax.distributions import AbstractDistribution, Transformed
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from flowebm.models.autoregressive import AutoregressiveMixture, started_at
from flowebm.models.marginals import Marginals
from flowebm.training.candidate import Candidate
from flowebm.training.driver import Limits, Observers, drive
from flowebm.training.objective import ObjectiveTrainer
from flowebm.training.rows import Rows


@dataclass(frozen=True)
class NetworkOptions:
    """How autoregressive networks are made and trained.

    Attributes:
        width: Units of a hidden layer.
        blocks: Residual blocks of two layers.
        components: Components of each conditional mixture.
        dropout: Probability with which a hidden unit is left out of a training step.
        epochs: Passes over the training rows, between `least_steps` and `most_steps` iterations.
        least_steps: Iterations at least, where rows are few.
        most_steps: Iterations at most, where they are many.
        learning_rate: Adam's learning rate at its height; it then falls along a cosine.
        weight_decay: Decoupled weight decay.
        batch_size: Rows of a minibatch.
    """

    width: int = 384
    blocks: int = 2
    components: int = 10
    dropout: float = 0.3
    epochs: int = 40
    least_steps: int = 600
    most_steps: int = 4000
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    batch_size: int = 512

    def steps(self, n_rows: int) -> int:
        """Iterations of a training on so many rows."""
        steps = self.epochs * n_rows // self.batch_size
        return min(max(steps, self.least_steps), self.most_steps)


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


@eqx.filter_jit
def transformed(
    marginals: Marginals, points: Float[Array, "n d"]
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Transforms of the points, and the log-determinant at each (nats)."""
    return jax.vmap(marginals.transform_and_log_det)(points)


def fit_network(
    key: PRNGKeyArray,
    rows: Rows,
    order: Int[np.ndarray, " d"],
    marginals: Marginals,
    *,
    options: NetworkOptions,
    circular: tuple[bool, ...] | None = None,
    max_steps: int | None = None,
    time_budget: float | None = None,
    stage: str = "network",
    observers: Observers | None = None,
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
        observers: Progress, metrics and checkpoints.

    Returns:
        The density of the columns, at its best on validation points.

    Raises:
        TrainingDiverged: If training diverges again and again.
    """
    make_key, fit_key = jr.split(key)
    z, log_det = transformed(marginals, rows.train)
    z_validation, validation_log_det = transformed(marginals, rows.validation)
    network = AutoregressiveMixture(
        order,
        width=options.width,
        blocks=options.blocks,
        components=options.components,
        circular=circular,
        key=make_key,
    )
    trainer = ObjectiveTrainer(
        model=started_at(network, np.asarray(z)),
        data=z,
        validation=z_validation,
        validation_log_det=validation_log_det,
        loss_shift=jnp.mean(log_det) if rows.weights is None else rows.weights.mean(log_det),
        objective=_DropoutLikelihood(options.dropout),
        optimizer=clipped_adamw(options.learning_rate, options.weight_decay),
        weights=rows.weights,
        batch_size=min(options.batch_size, z.shape[0]),
        schedule_name="cosine",
        loss_name="train_nll",
        stage=stage,
    )
    steps = options.steps(z.shape[0])
    limits = Limits(steps if max_steps is None else min(steps, max_steps), time_budget)
    outcome = drive(fit_key, trainer, limits, observers)
    density = behind(trainer.with_params(outcome.state.best), marginals)
    return Candidate.of(stage, density, rows, tuple(outcome.history))


def behind(density: AbstractDistribution, marginals: Marginals) -> Transformed:
    """The density of points whose transforms have this density.

    Args:
        density: Of transformed points.
        marginals: The transform.
    """
    return Transformed(density, Invert(paramax.non_trainable(marginals)))
