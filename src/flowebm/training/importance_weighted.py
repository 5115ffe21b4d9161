"""Maximum likelihood against a pool of draws of a flow that stays as it is."""

from math import prod
from typing import Any, Generic, NamedTuple, TypeGuard, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
from blackjax.smc.resampling import systematic
from flowjax.distributions import AbstractDistribution, StandardNormal, Transformed
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.importance import effective_sample_size, log_mean_exp
from flowebm.evaluation.log_partition import LogPartition
from flowebm.models.defensive import DefensiveMixture, draw
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.trainable import partition_trainable
from flowebm.objectives.importance_weighted import importance_weighted_likelihood
from flowebm.training.devices import over_data
from flowebm.training.driver import Limits, Observers, Outcome, drive
from flowebm.training.objective import ObjectiveState
from flowebm.training.optimizers import clipped_muon
from flowebm.training.row_weights import RowWeights
from flowebm.training.schedules import warmup_cosine
from flowebm.training.trainer import AbstractTrainer, Metrics
from flowebm.training.validation import validation_metrics

Model = TypeVar("Model", bound=AbstractEnergyModel)

#: Draws that train are at least as many as rows of data, between these bounds. Even ones are enough
#: by then: what their own error adds to that of the data cannot be measured.
LEAST_DRAWS, MOST_DRAWS = 1 << 16, 1 << 19

#: Draws of their own that evaluate.
N_EVALUATION = 1 << 14

#: Draws made at once.
AT_ONCE = 1 << 12

#: Effective share of the draws from which the energy learns at its full rate.
FULL_ESS = 0.1

#: Decay of the parameters' average.
AVERAGE_DECAY = 0.995


class Pool(NamedTuple):
    r"""Draws of a proposal.

    Attributes:
        points: The draws, one a row.
        log_proposal: $\log q$ at each, nats.
    """

    points: Float[Array, "m *shape"]
    log_proposal: Float[Array, " m"]


class Pools(NamedTuple):
    """Draws of a proposal for a fit and for what follows it.

    Attributes:
        train: Those that train.
        held_out: Those that evaluate.
        unseen: As many for log Z of what was chosen.
    """

    train: Pool
    held_out: Pool
    unseen: Pool


class ImportanceWeightedFit(NamedTuple, Generic[Model]):
    """What `fit_importance_weighted` returns.

    Attributes:
        model: The fitted model, with averaged parameters from its best evaluation.
        pools: Draws of the proposal.
        ess: The effective share, from 0 to 1, of the draws that train or of those that evaluate,
            whichever is less.
        outcome: The driver's outcome.
    """

    model: Model
    pools: Pools
    ess: float
    outcome: Outcome


class ImportanceWeightedTrainer(AbstractTrainer):
    """Descent of the importance-weighted likelihood, as a trainer.

    Attributes:
        model: The model to start from.
        data: Training points, one a row.
        validation: Points that evaluations measure the NLL of, one a row.
        pool: Draws that train.
        held_out: Draws that evaluate.
        optimizer: The optimizer; its updates are scaled by the schedule.
        weights: How much the rows count; all alike by default.
        batch_size: Training points, and draws of the pool, of an iteration.
        stage: A word for progress and metrics.
    """

    model: AbstractEnergyModel
    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    pool: Pool
    held_out: Pool
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    weights: RowWeights | None = None
    batch_size: int = eqx.field(static=True, default=1024)
    stage: str = eqx.field(static=True, default="importance-weighted")

    @property
    def pools(self) -> tuple[Pool, Pool]:
        """As many of the draws that train as tell something more, and those that evaluate."""
        return jax.tree.map(lambda draws: draws[:LEAST_DRAWS], self.pool), self.held_out

    def with_params(self, params: PyTree[Array]) -> AbstractEnergyModel:
        """The model with other parameters."""
        return eqx.combine(params, partition_trainable(self.model)[1])

    def init(self, key: PRNGKeyArray) -> ObjectiveState:
        return ObjectiveState.start(partition_trainable(self.model)[0], self.optimizer)

    def step(
        self,
        key: PRNGKeyArray,
        state: ObjectiveState,
        batch: Int[Array, " batch"],
        learning_rate_factor: Scalar,
    ) -> tuple[ObjectiveState, Metrics]:
        drawn = jr.randint(key, (self.batch_size,), 0, self.pool.log_proposal.size)
        points, log_proposal = over_data((self.pool.points[drawn], self.pool.log_proposal[drawn]))

        def loss(params):
            model = self.with_params(params)
            return importance_weighted_likelihood(model, self.data[batch], points, log_proposal)

        (nll, log_weights), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        ess = effective_sample_size(log_weights) / log_weights.size
        # A few draws that make up the whole expectation are a bad guide: the fewer, the slower.
        factor = learning_rate_factor * jnp.minimum(1.0, ess / FULL_ESS)
        state = state.descend(gradient, self.optimizer, factor, AVERAGE_DECAY)
        return state, {"train_nll": nll, "ess": ess}

    def evaluate(
        self, key: PRNGKeyArray, state: ObjectiveState
    ) -> tuple[Metrics, Float[Array, " m"]]:
        model = self.with_params(state.average)
        # Where draws are rare the energy can run away between those held out. The larger pool,
        # which trains, then has some that tell, and a log Z far above.
        trained, held_out = (log_mean_exp(_log_weights(model, over_data(p))) for p in self.pools)
        log_z = jax.tree.map(
            lambda a, b: jnp.where(trained.value > held_out.value, a, b), trained, held_out
        )
        energies = jax.vmap(model.energy)(over_data(self.validation))
        return validation_metrics(energies, log_z, self.weights), energies + log_z.value

    def solution(self, state: ObjectiveState) -> PyTree[Array]:
        return state.average

    def schedule(self, progress: Scalar) -> Scalar:
        return warmup_cosine(progress)


def fit_importance_weighted(
    key: PRNGKeyArray,
    model: Model,
    proposal: AbstractDistribution,
    data: Float[Array, "n *shape"],
    validation: Float[Array, "m *shape"],
    *,
    weights: RowWeights | None = None,
    learning_rate: float = 5e-3,
    weight_decay: float = 5e-3,
    batch_size: int = 1024,
    n_draws: int | None = None,
    max_steps: int = 2000,
    time_budget: float | None = None,
    patience: int | None = None,
    block_length: int = 100,
    stage: str = "importance-weighted",
    observers: Observers | None = None,
) -> ImportanceWeightedFit[Model]:
    r"""Fit an energy model by maximum likelihood, with a fixed proposal for its expectations.

    Where a fitted flow covers the model, draws of it that are made once and weighted anew in
    every iteration tell the gradient as well as chains do, at a fraction of the price: an iteration
    evaluates nothing but energies. Nothing adapts, so that this is for few coordinates, in which a
    flow is good from the start. Where draws are rare the energy can run away unseen; the effective
    share of the draws that evaluate then falls.

    Args:
        key: Random key.
        model: The model to start from.
        proposal: A fitted flow, better a defensive mixture of it.
        data: Training points, one a row.
        validation: Validation points, one a row.
        weights: How much the points count; all alike by default.
        learning_rate: Adam's learning rate at its height; that of hidden layers, by Muon, is 10
            times as much.
        weight_decay: Decoupled weight decay of layers.
        batch_size: Training points, and draws, of an iteration.
        n_draws: Draws that train, rounded up to a power of two. By default as many as rows of data,
            but no fewer than 65,536 and no more than 524,288. They are quasi-random where the
            proposal is a mixture of transforms of standard normals.
        max_steps: Iterations at most.
        time_budget: Seconds at most.
        patience: Evaluations without a better validation NLL before it stops.
        block_length: Iterations between evaluations.
        stage: A word for progress and metrics.
        observers: Progress, metrics and checkpoints.

    Returns:
        The fitted model, the draws that evaluated it, and the driver's outcome.

    Raises:
        TrainingDiverged: If training diverges again and again.

    Source: Bengio and Senécal (2003), *Quick training of probabilistic neural nets by importance
    sampling*.
    """
    pool_key, train_key = jr.split(key)
    if n_draws is None:
        n_draws = min(max(data.shape[0], LEAST_DRAWS), MOST_DRAWS)
    # Even pools come in powers of two.
    pools = draw_pools(pool_key, proposal, 1 << (n_draws - 1).bit_length())
    trainer = ImportanceWeightedTrainer(
        model=model,
        data=data,
        validation=validation,
        pool=pools.train,
        held_out=pools.held_out,
        optimizer=clipped_muon(1.0, learning_rate, weight_decay),
        weights=weights,
        batch_size=min(batch_size, data.shape[0]),
        stage=stage,
    )
    limits = Limits(max_steps, time_budget, patience, block_length)
    outcome = drive(train_key, trainer, limits, observers)
    fitted = cast(Model, trainer.with_params(outcome.state.best))
    log_weights = [_log_weights(fitted, pool) for pool in trainer.pools]
    ess = min(float(effective_sample_size(w) / w.size) for w in log_weights)
    return ImportanceWeightedFit(fitted, pools, ess, outcome)


def draw_pools(key: PRNGKeyArray, proposal: AbstractDistribution, n: int) -> Pools:
    """Draws that train, quasi-random ones if the proposal allows, and independent ones beside them.

    Args:
        key: Random key.
        proposal: The distribution to draw from.
        n: Number of draws that train, a power of two.

    Returns:
        The pools, the latter two of `N_EVALUATION` draws.
    """
    even_key, *other_keys = jr.split(key, 3)
    if _is_transport(proposal):
        return quasi_random_pools(key, proposal, n)
    independent = (draw_pool(k, proposal, N_EVALUATION) for k in other_keys)
    return Pools(draw_pool(even_key, proposal, n), *independent)


def draw_pool(key: PRNGKeyArray, proposal: AbstractDistribution, n: int) -> Pool:
    """Draws of a proposal with their log-densities, some thousands at a time.

    Args:
        key: Random key.
        proposal: The distribution to draw from.
        n: Number of draws, rounded up to whole batches.

    Returns:
        The pool.
    """
    batches = [_draws(k, proposal) for k in jr.split(key, -(-n // AT_ONCE))]
    return Pool(*(jnp.concatenate(parts) for parts in zip(*batches, strict=True)))


def quasi_random_pools(key: PRNGKeyArray, proposal: DefensiveMixture, n: int) -> Pools:
    r"""Draws of a defensive mixture; those that train lie more evenly than independent ones.

    A scrambled Sobol sequence in the coordinates of the latents and in one more, which chooses the
    wide density's share of the points. Every draw is one of the mixture, so that means over the
    pool stay unbiased; their errors are the smaller the fewer the coordinates.

    Args:
        key: Random key of the scrambling and of the independent draws.
        proposal: A mixture whose flow and wide density are transforms of standard normals.
        n: Number of draws that train, a power of two.

    Returns:
        The pools, in random order.

    Source: Owen (1998), *Scrambling Sobol' and Niederreiter-Xing points*; Buchholz, Wenzel, Mandt
    (2018), *Quasi-Monte Carlo variational inference*.
    """
    from scipy.stats.qmc import MultivariateNormalQMC

    seed_key, other_key = jr.split(key)
    seed = int(jr.randint(seed_key, (), 0, jnp.iinfo(jnp.int32).max))
    latents = MultivariateNormalQMC(np.zeros(prod(proposal.shape) + 1), rng=seed).random(n)
    latents = latents[np.argsort(latents[:, -1]), :-1].reshape(n, *proposal.shape)
    n_wide = round(proposal.fraction * n)
    even = jnp.asarray(latents.astype(np.float32))
    return _transported(other_key, proposal, even[:n_wide], even[n_wide:])


@eqx.filter_jit
def _transported(
    key: PRNGKeyArray, proposal: DefensiveMixture, wide_latents: Array, flow_latents: Array
) -> Pools:
    """Given latents of the wide density and of the flow, and independent ones, taken to points.

    In one program, for a flow takes seconds to compile.
    """
    proposal = paramax.unwrap(proposal)
    flow, wide = cast(Transformed, proposal.flow), cast(Transformed, proposal.wide)
    wide_key, flow_key, *order_keys = jr.split(key, 4)

    def of_flow(z):
        x, log_det = flow.bijection.transform_and_log_det(z)
        return x, proposal.mix(flow.base_dist.log_prob(z) - log_det, wide.log_prob(x))

    def of_wide(z):
        x = wide.bijection.transform(z)
        return x, proposal.log_prob(x)

    def draws(function, latent_key, latents, n_more):
        n, at_once = latents.shape[0], min(AT_ONCE, n_more)
        # Whole batches: the rest of one would be a program of its own, and as long in compiling.
        n_drawn = n_more + -(n + n_more) % at_once
        more = jr.normal(latent_key, (n_drawn, *latents.shape[1:]), latents.dtype)
        points = jax.lax.map(function, jnp.concatenate([latents, more]), batch_size=at_once)
        return _split(jax.tree.map(lambda x: x[: n + n_more], points), n)

    n_more = 2 * N_EVALUATION
    n_wide = max(1, round(proposal.fraction * n_more))
    parts = zip(
        draws(of_wide, wide_key, wide_latents, n_wide),
        draws(of_flow, flow_key, flow_latents, n_more - n_wide),
        order_keys,
        strict=True,
    )
    even, independent = (_shuffled(*part) for part in parts)
    return Pools(even, *_split(independent, N_EVALUATION))


def _split(draws: Any, n: int) -> tuple[Any, Any]:
    """The first `n` draws, and the others."""
    return jax.tree.map(lambda x: x[:n], draws), jax.tree.map(lambda x: x[n:], draws)


def _shuffled(wide: tuple[Array, Array], flow: tuple[Array, Array], key: PRNGKeyArray) -> Pool:
    points, log_proposal = map(jnp.concatenate, zip(wide, flow, strict=True))
    order = jr.permutation(key, log_proposal.size)
    return Pool(points[order], log_proposal[order])


def log_partition_of_pool(model: AbstractEnergyModel, pool: Pool) -> LogPartition:
    r"""$\log Z$ from draws that had no part in fitting or choosing the model.

    Args:
        model: The model.
        pool: Draws of a proposal.

    Returns:
        The estimate of `log_partition`.

    Warns:
        EstimateWarning: If it should not be believed.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, section 9.1.
    """
    return LogPartition.from_log_weights(_log_weights(model, pool))


@eqx.filter_jit
def resample(
    key: PRNGKeyArray, model: AbstractEnergyModel, pool: Pool, n: int
) -> Float[Array, "n *shape"]:
    """Draws of a model, up to the error of `n` weighted draws of a proposal resampled.

    Args:
        key: Random key.
        model: The model.
        pool: Draws of a proposal that covers it.
        n: Number of draws.

    Returns:
        Points, one a row.

    Source: Kitagawa (1996), *Monte Carlo filter and smoother for non-Gaussian nonlinear state
    space models*, for systematic resampling.
    """
    return pool.points[systematic(key, jax.nn.softmax(_log_weights(model, pool)), n)]


def _is_transport(proposal: AbstractDistribution) -> TypeGuard[DefensiveMixture]:
    """Whether latents of a standard normal can be taken to draws of it."""
    return isinstance(proposal, DefensiveMixture) and all(
        isinstance(part, Transformed) and isinstance(part.base_dist, StandardNormal)
        for part in (proposal.flow, proposal.wide)
    )


@eqx.filter_jit
def _log_weights(model: AbstractEnergyModel, pool: Pool) -> Array:
    return jax.vmap(model.unnormalized_log_prob)(pool.points) - pool.log_proposal


@eqx.filter_jit
def _draws(key: PRNGKeyArray, proposal: AbstractDistribution) -> tuple[Array, Array]:
    return draw(key, proposal, AT_ONCE)
