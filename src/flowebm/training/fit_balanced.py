"""`fit_balanced`: from points to an energy model, its log-normaliser and a fast sampler."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from flowebm.compiled_programs import free_programs_if_many
from flowebm.data.split import split
from flowebm.evaluation.log_partition import LogPartition, log_partition
from flowebm.models.bases import gaussian_base
from flowebm.models.batches import on_device
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.flows import make_flow
from flowebm.models.tilted import EnergyModel
from flowebm.refusal import Refused
from flowebm.training.balanced import BalancedOptions, BalancedTrainer
from flowebm.training.budget import Budget
from flowebm.training.driver import Callbacks, Outcome, StoppingCriteria, drive
from flowebm.training.flow import fit_flow
from flowebm.training.optimizers import clipped_adam, clipped_muon
from flowebm.training.result import FitResult, collect_warnings
from flowebm.training.row_weights import RowWeights, draw_rows, rows_in_proportion

#: Share of a time budget that fitting a flow by maximum likelihood may take.
FLOW_BUDGET = 0.25

#: The default of persistent contrastive divergence: unadjusted Langevin chains from the data.
PERSISTENT = BalancedOptions(
    global_kernel="none",
    local_kernel="ula",
    start="data",
    n_local=20,
    step_size=5e-3,
    learning_rate=1e-3,
)


def fit_balanced(
    key: PRNGKeyArray,
    model: AbstractEnergyModel,
    data: Float[ArrayLike, "n *shape"],
    *,
    validation: Float[ArrayLike, "m *shape"] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    validation_weights: Float[ArrayLike, " m"] | None = None,
    proposal: AbstractDistribution | None = None,
    options: BalancedOptions | None = None,
    base: AbstractDistribution | None = None,
    train_base: bool = False,
    max_steps: int = 1000,
    time_budget: float | Budget | None = None,
    patience: int | None = None,
    block_length: int = 50,
    callbacks: Callbacks | None = None,
) -> FitResult:
    r"""Fit an energy model by balanced maximum likelihood.

    Descends $\mathbb E_\text{data}[\nabla E_\theta] - \mathbb E_{p_\theta}[\nabla E_\theta]$,
    with persistent chains that a flow keeps mixing between modes while it is refitted to them.
    The flow is first fitted to the data by maximum likelihood, stopped on validation data.

    Args:
        key: Random key; with the inputs it determines the result on a given device, unless a
            time budget cuts in.
        model: The model to start from; it should be of standardised points.
        data: Training points, one a row.
        validation: Points to stop and to choose by; a tenth of the data by default.
        weights: How much the training points count, in any unit; all alike by default.
        validation_weights: How much the validation points count; needed where both validation
            points and weights are given.
        proposal: A proposal to start from; by default a spline-coupling flow, in a defensive
            mixture with a Gaussian fitted to the data.
        options: Choices of the method.
        base: A flow to fit to the data first, and then to put in the place of the model's base.
        train_base: Whether that base is trained along with the tilt; it is frozen otherwise.
        max_steps: Iterations at most.
        time_budget: Seconds at most, for all stages, those before a resume among them; or a
            `Budget` that others share.
        patience: Evaluations without a better validation NLL before it stops.
        block_length: Iterations between evaluations.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The fitted model, the flow, $\log Z$ with its error, chains and history.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If a base is given to a model that has none, or needed to start chains from.
        TrainingDiverged: If training diverges again and again.

    Source: Grenioux, Moulines, Gabrié (2023).
    """
    free_programs_if_many()
    options = options or BalancedOptions()
    names = ("split", "base", "flow", "fit", "chains", "train", "log_z")
    keys = dict(zip(names, jr.split(key, len(names)), strict=True))
    data, validation, weights, validation_weights = training_and_validation(
        keys["split"], model, data, validation, weights, validation_weights
    )
    data, validation = on_device(data), on_device(validation)
    row_weights = RowWeights.of(weights, validation_weights)
    callbacks, sentences = collect_warnings(callbacks)
    budget = Budget.of(time_budget)

    history: list[dict[str, Any]] = []
    if proposal is None:
        # Its wide Gaussian is fitted to the distribution that the weights make of the data.
        as_weighted = data if weights is None else data[rows_in_proportion(weights)]
        proposal = default_proposal(keys["flow"], as_weighted)
    flow = proposal.flow if isinstance(proposal, DefensiveMixture) else proposal
    if base is not None:
        if not isinstance(model, EnergyModel):
            raise TypeError(f"A {type(model).__name__} has no base to fit: leave base out.")
        base, outcome = fit_flow(
            keys["base"],
            base,
            data,
            validation,
            weights=row_weights,
            time_budget=budget.part(FLOW_BUDGET),
            stage="base",
            callbacks=callbacks,
        )
        model = EnergyModel(model.tilt, base if train_base else paramax.non_trainable(base))
        history += outcome.history
    if base is not None and _same_form(base, flow):
        # The model starts as its base: a proposal that is the same flow covers it perfectly,
        # where two flows fitted apart, in many dimensions, would hardly know each other.
        flow = base
    else:
        flow, outcome = fit_flow(
            keys["fit"],
            flow,
            data,
            validation,
            weights=row_weights,
            time_budget=budget.part(FLOW_BUDGET),
            callbacks=callbacks,
        )
        history += outcome.history
    if isinstance(proposal, DefensiveMixture):
        proposal = DefensiveMixture(flow, proposal.wide, proposal.fraction)
    else:
        proposal = flow

    fit = balance(
        (keys["chains"], keys["train"]),
        model,
        proposal,
        data,
        validation,
        weights=row_weights,
        options=options,
        stopping=StoppingCriteria(max_steps, budget, patience, block_length),
        callbacks=callbacks,
    )
    fit = fit._replace(history=history + fit.history)
    normaliser = Normaliser.of(lambda: log_partition(keys["log_z"], fit.model, fit.flow))
    return fit_result(fit, normaliser, callbacks=callbacks, sentences=sentences)


class BalancedFit(NamedTuple):
    """What balanced training ends with; log Z is not known yet.

    Attributes:
        model: The energy model with averaged parameters, from the best evaluation.
        flow: The proposal at that time.
        chains: Where the chains ended, one a row.
        stop_reason: Why the training ended, in words.
        history: A row of metrics a block.
    """

    model: AbstractEnergyModel
    flow: AbstractDistribution
    chains: Float[Array, "chains *shape"]
    stop_reason: str
    history: list[dict[str, Any]]


def balance(
    keys: tuple[PRNGKeyArray, PRNGKeyArray],
    model: AbstractEnergyModel,
    proposal: AbstractDistribution,
    data: Float[ArrayLike, "n *shape"],
    validation: Float[ArrayLike, "m *shape"],
    *,
    weights: RowWeights | None,
    options: BalancedOptions,
    stopping: StoppingCriteria,
    callbacks: Callbacks,
) -> BalancedFit:
    """The balanced stage itself, from a model and a proposal that are ready for it.

    Args:
        keys: Random keys of the chains' start and of the training.
        model: The model to start from.
        proposal: A proposal that has been fitted.
        data: Training points.
        validation: Validation points.
        weights: How much the points count.
        options: Choices of the method.
        stopping: When to stop.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The model that validation points choose, and its proposal.

    Raises:
        TypeError: If chains are to start from a base that the model does not have.
        TrainingDiverged: If training diverges again and again.
    """
    chain_key, train_key = keys
    trainer = _trainer(chain_key, model, proposal, data, validation, options, weights)
    outcome = drive(
        train_key,
        trainer,
        stopping,
        replace(callbacks, on_block=[*callbacks.on_block, _tell_of_waiting(callbacks.warn)]),
    )
    return _kept(trainer, outcome)


def fit_persistent(
    key: PRNGKeyArray,
    model: AbstractEnergyModel,
    data: Float[ArrayLike, "n *shape"],
    *,
    options: BalancedOptions = PERSISTENT,
    max_steps: int = 1000,
    time_budget: float | Budget | None = None,
    block_length: int = 50,
    callbacks: Callbacks | None = None,
) -> FitResult:
    """Fit an energy model by persistent contrastive divergence, the baseline without a flow.

    The same code as `fit_balanced` with local moves alone. Chains that start on the data keep
    showing its mode weights while the model's go astray, and nothing in the run can tell. The
    log-normaliser in the result is a wide Gaussian's
    importance-sampling estimate, good in few dimensions only; it warns where it is not.

    Args:
        key: Random key.
        model: The model to start from.
        data: Training points, one a row.
        options: Choices of the method, with `global_kernel="none"`.
        max_steps: Iterations at most.
        time_budget: Seconds at most.
        block_length: Iterations of a compiled block.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The fitted model with averaged parameters, its chains and history.

    Raises:
        ValueError: If `options` has a global kernel, or shapes do not fit.

    Source: Tieleman (2008), *Training restricted Boltzmann machines using approximations to
    the likelihood gradient*.
    """
    if options.global_kernel != "none":
        raise Refused("fit_persistent makes local moves alone: set global_kernel to 'none'.")
    free_programs_if_many()
    chain_key, train_key, log_z_key = jr.split(key, 3)
    callbacks, sentences = collect_warnings(callbacks)
    data = on_device(_points_of(model, data, "data's"))
    # No proposal takes part in the training; a wide Gaussian tells log Z afterwards, as well as
    # it can.
    wide = paramax.non_trainable(gaussian_base(data, inflation=1.5))
    trainer = _trainer(chain_key, model, wide, data, data[:1], options)
    stopping = StoppingCriteria(max_steps, time_budget, None, block_length)
    fit = _kept(trainer, drive(train_key, trainer, stopping, callbacks))
    normaliser = Normaliser.of(lambda: log_partition(log_z_key, fit.model, fit.flow))
    return fit_result(fit, normaliser, callbacks=callbacks, sentences=sentences)


def default_proposal(key: PRNGKeyArray, data: Float[Array, "n *shape"]) -> DefensiveMixture:
    """A spline-coupling flow, unfitted, mixed with a Gaussian half as wide again as the data.

    Args:
        key: Random key of the initial weights.
        data: Standardised points, one a row.

    Returns:
        The mixture, of which the flow alone can be trained.
    """
    shape = data.shape[1:]
    flow = make_flow("spline-coupling", shape, key=key)
    return DefensiveMixture(flow, paramax.non_trainable(gaussian_base(data, inflation=1.5)))


def training_and_validation(key, model, data, validation, weights, validation_weights):
    """Training and validation points of the model's shape with their weights, split if need be."""
    data = _points_of(model, data, "data's")
    if validation is None:
        parts = split(key, np.asarray(data), 0.1)
        data, validation = parts.train, parts.validation
        if weights is not None:
            # The same key makes the same parts.
            weights, validation_weights, _ = split(key, np.asarray(weights), 0.1)
    validation = _points_of(model, validation, "validation")
    return data, validation, weights, validation_weights


def _points_of(model, points, whose: str) -> np.ndarray:
    points = np.asarray(points, jnp.result_type(float))
    if points.shape[1:] != model.shape:
        raise Refused(
            f"The {whose} points have shape {points.shape[1:]}, the model's {model.shape}: they "
            "must be the same."
        )
    return points


def _trainer(
    key,
    model,
    proposal,
    data,
    validation,
    options: BalancedOptions,
    weights: RowWeights | None = None,
) -> BalancedTrainer:
    n = options.n_chains
    if options.start == "data":
        rows = jr.randint(key, (n,), 0, data.shape[0])
        chains = data[draw_rows(weights, jr.fold_in(key, 2), rows)]
    elif options.start == "flow":
        chains = proposal.sample(key, (n,))
    elif isinstance(model, EnergyModel):
        chains = model.base.sample(key, (n,))
    else:
        raise TypeError(
            f"A {type(model).__name__} has no base to start chains from: choose start='flow' or "
            "'data'."
        )
    return BalancedTrainer(
        model=model,
        proposal=proposal,
        data=data,
        validation=validation,
        chains=chains,
        optimizer=clipped_muon(1.0, options.learning_rate, options.decay(prod(model.shape))),
        flow_optimizer=clipped_adam(5.0, options.flow_learning_rate),
        options=options,
        weights=weights,
        batch_size=min(options.batch_size, data.shape[0]),
    )


def _kept(trainer: BalancedTrainer, outcome: Outcome) -> BalancedFit:
    params, flow_params = outcome.state.best
    return BalancedFit(
        model=trainer.with_params(params),
        flow=trainer.with_flow(flow_params),
        chains=outcome.state.inner.chains,
        stop_reason=outcome.stop_reason,
        history=outcome.history,
    )


class Normaliser(NamedTuple):
    r"""A $\log Z$, and what was said against it.

    Attributes:
        log_partition: The estimate.
        warnings: What it warned of, one sentence each.
    """

    log_partition: LogPartition
    warnings: list[str]

    @classmethod
    def of(cls, estimate: Callable[[], LogPartition]) -> "Normaliser":
        """What `estimate` returns, and what it warns of: to be told if the model is kept."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            log_z = estimate()
        return cls(log_z, [str(warning.message) for warning in caught])


def fit_result(
    fit: BalancedFit, normaliser: Normaliser, *, callbacks: Callbacks, sentences: list[str]
) -> FitResult:
    """The kept model, with its log-normaliser from draws that trained nothing.

    Args:
        fit: The model and its proposal, with the history of all stages.
        normaliser: Its log-normaliser.
        callbacks: Told of the log-normaliser's warnings.
        sentences: What `callbacks.warn` has been told, as `collect_warnings` collects it.

    Returns:
        All that is known about the model.
    """
    for sentence in normaliser.warnings:
        callbacks.warn(sentence)
    return FitResult(
        **fit._asdict(), log_partition=normaliser.log_partition, warnings=tuple(sentences)
    )


def _same_form(first: PyTree, second: PyTree) -> bool:
    """Whether two distributions differ in nothing but the values of their arrays."""
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        np.shape(a) == np.shape(b)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


def _tell_of_waiting(warn: Callable[[str], None]) -> Callable[[str, dict[str, Any], int], None]:
    """Say once that the energy had to wait for the flow in most of a block."""
    told = False

    def on_block(stage: str, row: dict[str, Any], total: int) -> None:
        nonlocal told
        if not told and row.get("waiting", 0.0) > 0.5:
            told = True
            warn(
                f"Before iteration {row['iteration']} the flow covered the model badly (ESS "
                f"{row['ess']:.1%} of the proposals): the energy waited in {row['waiting']:.0%} of "
                "the iterations while the flow caught up; a larger flow or more flow steps "
                "would help."
            )

    return on_block
