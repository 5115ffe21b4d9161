"""Bounded tilts of a density that is easy to sample, by importance-weighted likelihood."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from flowjax.bijections import Scale
from flowjax.distributions import AbstractDistribution, Transformed
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.importance import effective_sample_size, log_mean_exp
from flowebm.models.batches import on_device
from flowebm.models.bounded import BoundedTilt, LogRatio, tilts
from flowebm.models.gaussian_mixture import GaussianMixture
from flowebm.models.random_start import seed_of
from flowebm.models.shared_static import share_static
from flowebm.models.stack import Stack, draw, log_probs
from flowebm.models.tilted import EnergyModel
from flowebm.models.trainable import partition_trainable
from flowebm.training.budget import Budget
from flowebm.training.candidate import Candidate
from flowebm.training.devices import over_data
from flowebm.training.driver import Callbacks, StoppingCriteria, drive
from flowebm.training.objective import ObjectiveState
from flowebm.training.optimizers import clipped_muon
from flowebm.training.row_weights import RowWeights
from flowebm.training.rows import Rows, batch_size_of, fill
from flowebm.training.schedules import warmup_cosine
from flowebm.training.trainer import AbstractTrainer, Metrics
from flowebm.training.validation import validation_metrics

#: Decay of the parameters' average.
AVERAGE_DECAY = 0.995

#: Powers in which an energy model and a base may be pooled.
POWERS = np.linspace(0, 1, 11)

#: Share of wider draws of its reference among those that train an energy model.
WIDE = 0.2


class TiltTrainer(AbstractTrainer):
    r"""Descent of $\mathbb E_\text{data}[U] + \log \mathbb E_q[e^{-U} b/q]$ over the tilt of $b$.

    Draws of the proposal $q$ are made once, and so are their ratios $b/q$: neither density, nor
    its gradient, is needed again.

    Attributes:
        tilt: The tilt to start from.
        data: Training points, one a row.
        validation: Validation points.
        base_log_prob: $\log b$ of each of them.
        draws: Draws of $q$ that train.
        held_out: Draws of $q$ that evaluate.
        log_ratio: $\log b/q$ of the draws that train.
        held_out_log_ratio: And of those that evaluate.
        base_nll: NLL of $b$ at the validation points (nats), which the training NLL counts from.
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
    log_ratio: Float[Array, " n_draws"]
    held_out_log_ratio: Float[Array, " k"]
    base_nll: Scalar
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
            log_weights = self.log_ratio[chosen] - jax.vmap(tilt)(points)
            log_z = jax.nn.logsumexp(log_weights) - jnp.log(log_weights.size)
            return jnp.mean(jax.vmap(tilt)(self.data[batch])) + log_z, log_weights

        (gain, log_weights), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        state = state.descend(gradient, self.optimizer, learning_rate_factor, AVERAGE_DECAY)
        ess = effective_sample_size(log_weights) / log_weights.size
        return state, {"train_nll": self.base_nll + gain, "ess": ess}

    def evaluate(
        self, key: PRNGKeyArray, state: ObjectiveState
    ) -> tuple[Metrics, Float[Array, " m"]]:
        tilt = self.with_params(state.average)
        log_weights = self.held_out_log_ratio - jax.vmap(tilt)(over_data(self.held_out))
        log_z = log_mean_exp(log_weights)
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
        tilt: The tilt of the base.
        saturated: Share of validation points at which it is beyond nine tenths of its bound.
    """

    candidate: Candidate
    tilt: BoundedTilt
    saturated: float


def fit_tilt(
    key: PRNGKeyArray,
    network: Callable[[Array], Scalar],
    base: Candidate,
    draws: Float[Array, "n *shape"],
    rows: Rows,
    *,
    bound: float,
    reference: Candidate | None = None,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    max_steps: int,
    time_budget: float | Budget | None = None,
    stage: str = "tilt",
    callbacks: Callbacks | None = None,
) -> TiltFit:
    r"""Fit a tilt of a base, $p(x) \propto b(x) e^{-U(x)}$ with $|U| \le B$.

    Without a reference the network is the tilt, and is bounded while it is trained. With one, the
    network makes an energy model of its own, $e^{-V} g$ of the reference $g$, for which $b$ with a
    fifth of wider draws of $g$ is the proposal: it learns all of the density rather than what
    another has left, and is smooth where the base is rough. What is kept is its geometric mean
    with the base, in the power that validation points say, within the bound.

    Args:
        key: Random key.
        network: The network to start from, zero everywhere.
        base: $b$.
        draws: Draws of $b$, of which the last quarter evaluates.
        rows: The rows.
        bound: $B$, nats.
        reference: $g$, which the network tilts in the base's place.
        learning_rate: Adam's learning rate at its height; that of hidden layers, by Muon, is 10
            times as much.
        weight_decay: Decoupled weight decay of layers.
        batch_size: Training points, and draws, of an iteration.
        max_steps: Iterations at most.
        time_budget: Seconds at most.
        stage: A word for progress and metrics.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The tilt, at its best on validation points.

    Raises:
        TrainingDiverged: If training diverges again and again.

    Source: Bengio and Senécal (2003), *Quick training of probabilistic neural nets by importance
    sampling*; Owen and Zhou (2000) for the defensive part of the proposal.
    """
    pool_key, fit_key = jr.split(key)
    if reference is None:
        tilted, pool, log_ratio = base, np.asarray(draws), np.zeros(len(draws))
        network = BoundedTilt(network, bound)
    else:
        tilted, wide = reference, _wider(reference.density)
        n_wide = int(len(draws) * WIDE / (1 - WIDE))
        pool = np.concatenate([draws, draw(jr.fold_in(pool_key, 0), wide, n_wide)])
        pool = np.random.default_rng(seed_of(pool_key)).permutation(pool)
        proposal = Stack((base.density, wide), on_device(np.log([1 - WIDE, WIDE])))
        log_ratio = log_probs(reference.density, pool) - log_probs(proposal, pool)
    n = len(pool) * 3 // 4
    data, validation, weights = rows.filled()
    trainer = TiltTrainer(
        tilt=network,
        data=data,
        validation=validation,
        base_log_prob=on_device(fill(tilted.log_prob, len(validation))),
        draws=on_device(pool[:n]),
        held_out=on_device(pool[n:]),
        log_ratio=on_device(log_ratio[:n]),
        held_out_log_ratio=on_device(log_ratio[n:]),
        base_nll=on_device(-rows.mean(tilted.log_prob).value),
        optimizer=clipped_muon(1.0, learning_rate, weight_decay),
        weights=weights,
        batch_size=batch_size_of(batch_size, len(rows.train)),
        stage=stage,
    )
    outcome = drive(fit_key, trainer, StoppingCriteria(max_steps, time_budget), callbacks)
    fitted, history = trainer.with_params(outcome.state.best), tuple(outcome.history)
    if reference is not None:
        model = EnergyModel(fitted, reference.density)
        return _pooled(model, base, draws[len(draws) * 3 // 4 :], rows, bound, stage, history)
    of_validation = np.abs(tilts(fitted, rows.validation))
    of_points = -np.asarray(outcome.state.best_nll_points, np.float64)[: len(rows.validation)]
    candidate = Candidate(stage, base.density, of_points, history)
    return TiltFit(
        candidate, cast(BoundedTilt, fitted), float(np.mean(of_validation > 0.9 * bound))
    )


def _pooled(
    model: EnergyModel,
    base: Candidate,
    draws: Float[Array, "n *shape"],
    rows: Rows,
    bound: float,
    stage: str,
    history: tuple[dict[str, Any], ...],
) -> TiltFit:
    """The geometric mean of a base and an energy model, in the power's posterior mean.

    Under even odds of `POWERS`, as the shares of a stack are: the likeliest power would be wrong
    as often as not where points are few.
    """

    def log_ratio(offset: float, power: float) -> LogRatio:
        return LogRatio(model, base.density, on_device(offset), on_device(power))

    of_validation, of_draws = (tilts(log_ratio(0.0, 1.0), x) for x in (rows.validation, draws))
    offset = float(np.median(of_validation))
    # The bound is of the whole ratio, so that a weaker part of it is bounded more closely.
    u, of_base = (bound * np.tanh((v - offset) / bound) for v in (of_validation, of_draws))

    def log_prob(power: float) -> Float[np.ndarray, " m"]:
        log_z = np.logaddexp.reduce(-power * of_base) - np.log(len(of_base))
        return base.log_prob - power * u - log_z

    log_likelihoods = [rows.log_likelihood(log_prob(power)) for power in POWERS]
    odds = np.exp(np.subtract(log_likelihoods, max(log_likelihoods)))
    power = max(float(odds @ POWERS / odds.sum()), 1e-3)
    return TiltFit(
        Candidate(stage, base.density, log_prob(power), history),
        BoundedTilt(log_ratio(offset, power), power * bound),
        0.0,
    )


def _wider(density: AbstractDistribution) -> AbstractDistribution:
    """The density of points that are spread further from zero, over twice the volume."""
    scale = 2.0 ** (1 / math.prod(density.shape))
    if isinstance(density, GaussianMixture):
        return density.scaled(scale)
    scale = on_device(np.full(density.shape, scale))
    built_from = ("wider", jax.tree.structure(density))
    return share_static(eqx.filter_jit(_scaled)(density, scale), built_from)


def _scaled(density: AbstractDistribution, scale: Array) -> Transformed:
    return Transformed(density, Scale(scale))
