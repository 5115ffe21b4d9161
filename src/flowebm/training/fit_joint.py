"""`fit_joint`: a flow finds what matters, balanced training makes it right."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import paramax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Scalar

from flowebm.compiled_programs import free_programs_if_many
from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.log_partition import log_partition
from flowebm.evaluation.relevance import Relevance
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.models.bases import gaussian_base, gaussian_of
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.relevant import IDLE_SCALE, shrink_idle
from flowebm.models.tilted import EnergyModel
from flowebm.models.tilts import MLPTilt
from flowebm.training.balanced import BalancedOptions
from flowebm.training.driver import Limits, Observers, TrainingDiverged
from flowebm.training.exploration import (
    Explored,
    MakeFlow,
    are_few,
    explore,
    log_probs,
    spline_coupling,
)
from flowebm.training.fit_balanced import (
    BalancedFit,
    Normaliser,
    balance,
    fit_result,
    training_and_validation,
)
from flowebm.training.gaussian_mixture import mixture_beside
from flowebm.training.importance_weighted import (
    N_EVALUATION,
    ImportanceWeightedFit,
    Pools,
    draw_pool,
    fit_importance_weighted,
    log_partition_of_pool,
    resample,
)
from flowebm.training.noise import NO_NOISE, Noise
from flowebm.training.result import FitResult, collect_warnings
from flowebm.training.row_weights import RowWeights, rows_in_proportion

#: Coordinates up to which a Gaussian is the better base: the energy finds the modes by itself and
#: has no ripples of a flow to repair.
FEW_COORDINATES = 4

#: Variance of the proposal's wide Gaussian, in units of the data's.
INFLATION = 1.5

#: Iterations of the importance-weighted stage to one of balanced training, at a quarter of its
#: price.
WEIGHTED_TO_BALANCED = 2

#: Share of a time budget that the importance-weighted stage may take.
WEIGHTED_BUDGET = 0.25

#: Seconds that balanced training takes to compile, on two cores: where fewer are left it would only
#: overrun, and what the stages before it have found is returned. Where fewer than twice as many
#: would be left, an importance-weighted stage takes them too.
LEAST_TO_BALANCE, ENOUGH_TO_BALANCE = 20.0, 40.0

#: Share of a time budget in which log Z is estimated, where balanced training is left out.
LOG_Z_BUDGET = 0.08

#: Shares of a wide Gaussian that a flow as base may have, and what they may cost on validation
#: points, in nats: an insurance against outliers that these lack.
BASE_FRACTIONS, INSURANCE = (0.0, 0.001, 0.003, 0.009, 0.02, 0.05), 0.01

#: Evaluations without a better validation NLL before fitting a tilt of a flow of few rows stops,
#: which seldom betters that flow and then does it early.
PATIENCE_OF_FEW_ROWS = 4

#: Draws that a tilt of a flow of few rows is tried against.
DRAWS_TO_TRY = 1 << 14

#: Effective share of the draws under which what was fitted against them is not to be trusted: an
#: energy that ran away where draws are rare has a single draw that is effective.
TRUSTED_ESS = 0.02


@dataclass(frozen=True)
class JointFitResult(FitResult):
    """A `FitResult`, with what the first stage found.

    Attributes:
        relevance: How far from Gaussian the data are, direction by direction; `None` for points of
            so few coordinates that nobody looked.
        relevant: The number of directions to which flow and tilt were turned; `None` where all
            coordinates matter.
        known: Directions of a flow that one of all coordinates stands in front of; `None` where
            there is none.
        base: What the energy tilts: `gaussian` or `flow`.
        base_fraction: Share in a flow as base of a Gaussian that is wide along what matters;
            `None` where there is none.
        noise: What few training rows were given in fits of flows of all coordinates.
        mixture_components: Gaussians of a mixture that few rows have beside a flow as base;
            `None` where there is none.
        mixture_fraction: The mixture's share.
    """

    relevance: Relevance | None = None
    relevant: int | None = None
    known: int | None = None
    base: Literal["gaussian", "flow"] = "gaussian"
    base_fraction: float | None = None
    noise: Noise = NO_NOISE
    mixture_components: int | None = None
    mixture_fraction: float | None = None


def default_base(n_coordinates: int) -> Literal["gaussian", "flow"]:
    """What the energy tilts if nobody chooses: a Gaussian up to `FEW_COORDINATES` that it sees."""
    return "flow" if n_coordinates > FEW_COORDINATES else "gaussian"


def fit_joint(
    key: PRNGKeyArray,
    model: EnergyModel,
    data: Float[Array, "n *shape"],
    *,
    validation: Float[Array, "m *shape"] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    validation_weights: Float[ArrayLike, " m"] | None = None,
    make_flow: MakeFlow = spline_coupling,
    defensive_fraction: float = 0.05,
    base: Literal["auto", "gaussian", "flow"] = "auto",
    base_fraction: float | None = None,
    train_base: bool = False,
    relevant: int | None = None,
    options: BalancedOptions | None = None,
    max_steps: int = 1000,
    time_budget: float | None = None,
    patience: int | None = None,
    block_length: int = 50,
    observers: Observers | None = None,
) -> JointFitResult:
    r"""Fit an energy model in stages: find what matters, then get it right.

    1. A flow of all coordinates is fitted by maximum likelihood and stopped on validation data.
       Its scores tell the directions along which the data differ from a Gaussian, and held-out
       points tell which of these are real (`relevant_directions`). If these are fewer than the
       coordinates, a second flow is fitted along them alone, with a Gaussian for the rest; the
       better of the two on validation data stays. Up to three coordinates one flow is fitted to
       all. Few rows (`are_few`) have noise added in these fits, as much as validation points allow,
       and a flow as base is then mixed with Gaussians (`fit_gaussian_mixture`).
    2. With `base="gaussian"` the energy, of the relevant directions alone, is fitted against draws
       of the flow that are made once, by importance-weighted likelihood
       (`fit_importance_weighted`). By default that is done up to four relevant directions, and
       the better of this energy and the flow on validation data is what stage 3 starts from.
    3. Balanced training from there: the flow is the first proposal and, with `base="flow"`, what
       the energy tilts. The tilt sees idle directions too, shrunken. Where it does not better the
       energy of stage 2 on validation data, or the flow that it tilts, that one is kept. It takes
       about 20 seconds to compile: where a time budget leaves fewer, it is left out, and the
       energy is that of stage 2 or the flow's. A tilt of a flow of few rows is tried as in stage 2
       first: where it gains no more than one standard error on validation data, the flow is kept
       as it is, and elsewhere stage 3 starts from that tilt.

    Args:
        key: Random key; with the inputs it determines the result on a given device, unless a
            time budget cuts in.
        model: The model to start from, of standardised points.
        data: Training points, one a row.
        validation: Points to stop and to choose by; a tenth of the data by default.
        weights: How much the training points count, in any unit; all alike by default.
        validation_weights: How much the validation points count; needed where both validation
            points and weights are given.
        make_flow: Makes an unfitted flow from a key and a shape; six spline couplings by
            default.
        defensive_fraction: Share in the proposal of a Gaussian that is wide along what matters.
        base: What the energy tilts: the `model`'s own base (`gaussian`), the
            fitted flow, or the better one where few directions matter and the flow elsewhere
            (`auto`).
        base_fraction: Share in a flow as base of the proposal's wide Gaussian, for outliers; the
            largest that costs validation points next to nothing if it is not given.
        train_base: Whether a flow as base is trained along with the tilt.
        relevant: The number of directions that matter; found by itself if not given, from four
            coordinates on.
        options: Choices of balanced training.
        max_steps: Iterations of balanced training at most.
        time_budget: Seconds at most, for all stages.
        patience: Evaluations without a better validation NLL before balanced training stops; by
            default 4 where few rows tilt a flow, and without end elsewhere.
        block_length: Iterations between its evaluations.
        observers: Progress, metrics and checkpoints.

    Returns:
        The fitted model, the flow, $\log Z$ with its error, chains, history and relevance.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If the model is no `EnergyModel`.
        TrainingDiverged: If training diverges again and again, and no stage before it has found a
            model.

    Source: Grenioux, Moulines, Gabrié (2023) for balanced training; Zahm et al. (2022) for the
    directions; Bengio and Senécal (2003) for the importance-weighted likelihood.
    """
    if not isinstance(model, EnergyModel):
        raise TypeError(f"fit_joint fits an EnergyModel; got a {type(model).__name__}.")
    if base_fraction is not None and not 0 <= base_fraction < 1:
        raise ValueError(f"base_fraction must be from 0 to below 1; got {base_fraction}.")
    if base not in ("auto", "gaussian", "flow"):
        raise ValueError(f"Unknown base {base!r}: choose auto, gaussian or flow.")
    if relevant is not None and not 1 <= relevant <= prod(model.shape):
        raise ValueError(
            f"relevant must be from 1 to the {prod(model.shape)} coordinates of a point; got "
            f"{relevant}."
        )
    free_programs_if_many()
    options = options or BalancedOptions()
    names = ("split", "explore", "chains", "train", "log_z", "weighted")
    keys: dict[str, PRNGKeyArray] = dict(zip(names, jr.split(key, len(names)), strict=True))
    keys["mixture"], keys["tried"] = (jr.fold_in(key, len(names) + i) for i in range(2))
    data, validation, weights, validation_weights = training_and_validation(
        keys["split"], model, data, validation, weights, validation_weights
    )
    observers, sentences = collect_warnings(observers)
    started = time.monotonic()

    def seconds(share: float = 1.0, *, reserve: float = 0.0) -> float | None:
        """Seconds left but for a reserve, or that share of the whole if it is less."""
        if time_budget is None:
            return None
        left = (1 - reserve) * time_budget - (time.monotonic() - started)
        return max(0.0, min(left, share * time_budget))

    shared = _Shared(
        data, validation, RowWeights.of(weights, validation_weights), options, observers
    )
    as_weighted = data if weights is None else data[rows_in_proportion(weights)]
    explored = explore(
        keys["explore"],
        data,
        validation,
        gaussian=gaussian_base(as_weighted),
        weights=shared.weights,
        make_flow=make_flow,
        relevant=relevant,
        seconds=seconds,
        observers=observers,
    )
    wide = paramax.non_trainable(_wide(explored, as_weighted))
    beside = None
    if base != "gaussian" and are_few(data) and seconds() != 0.0:
        beside = mixture_beside(
            keys["mixture"],
            explored.flow,
            data,
            validation,
            weights=shared.weights,
            out_of_time=lambda: seconds() == 0.0,
        )
    flow = explored.flow if beside is None else beside.flow
    proposals = {
        "gaussian": DefensiveMixture(explored.flow, wide, defensive_fraction),
        "flow": DefensiveMixture(flow, wide, defensive_fraction),
    }
    if base_fraction is None:
        base_fraction = shared.base_fraction(proposals["flow"])
    flow = DefensiveMixture(flow, wide, base_fraction) if base_fraction else flow
    flow_base = flow if train_base else paramax.non_trainable(flow)
    is_chosen = base != "auto"
    if base == "auto":
        seen = explored.relevant if isinstance(model.tilt, MLPTilt) else None
        base = default_base(seen or prod(model.shape))
    n_seen = explored.relevant or prod(data.shape[1:])
    history, weighted = explored.history, None
    left = seconds()
    if base == "gaussian" and left != 0.0:
        share = seconds(WEIGHTED_BUDGET)
        is_last = left is not None and share is not None and left - share < ENOUGH_TO_BALANCE
        weighted = shared.fit_to_draws(
            keys["weighted"],
            EnergyModel(_turned(model.tilt, explored, 0.0), model.base),
            proposals["gaussian"],
            n_seen=n_seen,
            max_steps=WEIGHTED_TO_BALANCED * max_steps,
            block_length=WEIGHTED_TO_BALANCED * block_length,
            time_budget=seconds(reserve=LOG_Z_BUDGET) if is_last else share,
        )
        history = history + ([] if weighted is None else weighted.outcome.history)
        if weighted is None or weighted.ess < TRUSTED_ESS:
            weighted = None
            observers.warn(
                "The flow's draws do not cover the energy that was fitted against them, which is "
                "given up."
            )
        if not is_chosen and not shared.betters(weighted, flow):
            base, weighted = "flow", None
    start = model if weighted is None else weighted.model
    model = EnergyModel(_turned(start.tilt, explored), flow_base if base == "flow" else start.base)
    pools = None if weighted is None else weighted.pools
    gains = True
    if base == "flow" and are_few(data) and not train_base and seconds() != 0.0:
        tried = shared.fit_to_draws(
            keys["tried"],
            model,
            proposals["flow"],
            n_seen=n_seen,
            n_draws=DRAWS_TO_TRY,
            max_steps=max_steps,
            patience=PATIENCE_OF_FEW_ROWS,
            block_length=block_length,
            time_budget=seconds(WEIGHTED_BUDGET),
            stage="trial",
        )
        if tried is not None:
            history, pools = history + tried.outcome.history, tried.pools
            gains = shared.gains(tried, model)
            if gains:
                weighted, model = tried, tried.model
    if patience is None and base == "flow" and are_few(data):
        patience = PATIENCE_OF_FEW_ROWS
    left = seconds()
    if gains and (left is None or left >= LEAST_TO_BALANCE):
        fallback = model if base == "flow" else None
        fit, normaliser = shared.balance(
            (keys["chains"], keys["train"], keys["log_z"]),
            model,
            proposals[base],
            fallback if weighted is None else weighted.model,
            pools,
            Limits(max_steps, left, patience, block_length),
        )
    else:
        stop_reason = "a tilt of the flow gains nothing on validation points"
        if gains:
            stop_reason = "time budget spent" if weighted is None else weighted.outcome.stop_reason
        if gains and weighted is None:
            base, model = "flow", EnergyModel(model.tilt, flow_base)
            observers.warn(
                f"The time budget of {time_budget:g} s left {left:.0f} s to balanced training, "
                f"which needs {LEAST_TO_BALANCE:g} s to start: the energy is that of the flow. Set "
                "a larger budget."
            )
        fit, normaliser = shared.leave(
            (keys["chains"], keys["weighted"], keys["log_z"]),
            model if weighted is None else weighted.model,
            proposals[base],
            pools,
            stop_reason,
        )
    fit = fit._replace(history=history + fit.history)
    result = fit_result(fit, normaliser, observers=observers, sentences=sentences)
    if base == "gaussian":
        base_fraction, beside = None, None
    return JointFitResult(
        **vars(result),
        relevance=explored.relevance,
        relevant=explored.relevant,
        known=explored.known,
        base=base,
        base_fraction=base_fraction or None,
        noise=explored.noise,
        mixture_components=beside and beside.components,
        mixture_fraction=beside and beside.fraction,
    )


def _wide(explored: Explored, data: Float[Array, "n *shape"]) -> AbstractDistribution:
    """The Gaussian of the data with half as much variance again, along what matters.

    Along a hundred others too it would hardly ever draw where the model is.
    """
    if explored.relevance is None or explored.relevant is None:
        return gaussian_base(data, inflation=INFLATION)
    change = explored.relevance.change
    matters = jnp.arange(change.matrix.shape[0]) < explored.relevant
    factor = change.matrix * jnp.where(matters, INFLATION**0.5, 1.0)
    return gaussian_of(change.offset, factor @ factor.T, data.shape[1:])


def _turned(
    tilt: Callable[[Array], Scalar], explored: Explored, scale: float = IDLE_SCALE
) -> Callable[[Array], Scalar]:
    """The tilt that sees all but the relevant directions at that scale, if there are such."""
    if explored.relevance is None or explored.relevant is None or not isinstance(tilt, MLPTilt):
        return tilt
    return shrink_idle(tilt, explored.relevance.change, explored.relevant, scale)


@eqx.filter_jit
def _tilts(tilt: Callable[[Array], Scalar], points: Array) -> Array:
    return jax.vmap(paramax.unwrap(tilt))(points)


@eqx.filter_jit
def _energies(model: AbstractEnergyModel, points: Array) -> Array:
    return jax.vmap(model.energy)(points)


@dataclass(frozen=True)
class _Shared:
    """What the stages share, and what is done with it to energies.

    Attributes:
        data: Training points, one a row.
        validation: Validation points, one a row.
        weights: How much both count; all alike if `None`.
        options: Choices of balanced training.
        observers: Progress, metrics, checkpoints and warnings.
    """

    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    weights: RowWeights | None
    options: BalancedOptions
    observers: Observers

    def mean(self, values: Float[Array, " m"]) -> Estimate:
        """The mean of one value a validation point."""
        return weighted_mean(values, self.weights and self.weights.validation)

    def base_fraction(self, proposal: DefensiveMixture) -> float:
        """The largest share of the wide density in a flow as base that costs next to nothing.

        A flow of few rows leaves almost no mass where outliers are, and balanced training, which
        sees them as seldom as they are, does not bring it there.
        """
        parts = (proposal.flow, proposal.wide)
        of_flow, of_wide = (log_probs(part, self.validation) for part in parts)

        def nll(fraction: float) -> float:
            mixed = of_flow
            if fraction:
                mixed = DefensiveMixture(*parts, fraction).mix(of_flow, of_wide)
            return float(self.mean(-mixed).value)

        nlls = {fraction: nll(fraction) for fraction in BASE_FRACTIONS}
        lowest = min(nlls.values())
        return max(fraction for fraction, value in nlls.items() if value <= lowest + INSURANCE)

    def fit_to_draws(
        self,
        key: PRNGKeyArray,
        model: EnergyModel,
        proposal: DefensiveMixture,
        *,
        n_seen: int,
        **choices: Any,
    ) -> ImportanceWeightedFit[EnergyModel] | None:
        """The importance-weighted stage with the choices of balanced training, or none if it
        diverged.

        Args:
            key: Random key.
            model: The model to start from.
            proposal: What draws are made of.
            n_seen: Coordinates that the tilt sees.
            choices: Others of `fit_importance_weighted`.
        """
        with suppress(TrainingDiverged):
            return fit_importance_weighted(
                key,
                model,
                proposal,
                self.data,
                self.validation,
                weights=self.weights,
                learning_rate=self.options.learning_rate,
                # As much over all of its iterations, of which there are more.
                weight_decay=self.options.decay(n_seen) / WEIGHTED_TO_BALANCED,
                batch_size=self.options.batch_size,
                observers=self.observers,
                **choices,
            )
        return None

    def betters(
        self, weighted: ImportanceWeightedFit[EnergyModel] | None, flow: AbstractDistribution
    ) -> bool:
        """Whether an energy was fitted that is better on validation points than the flow."""
        if weighted is None:
            return False
        nll = self.mean(-log_probs(flow, self.validation)).value
        return float(weighted.outcome.state.best_nll) < float(nll)

    def gains(self, tried: ImportanceWeightedFit[EnergyModel], start: EnergyModel) -> bool:
        """Whether validation points are more likely by more than one standard error than at the
        start.

        Of few points that have nothing to tell, every other set is pleased by the first step.
        """
        tilts = (_tilts(model.tilt, self.validation) for model in (tried.model, start))
        state, stderr = tried.outcome.state, self.mean(jnp.subtract(*tilts)).stderr
        return tried.ess >= TRUSTED_ESS and float(state.first_nll - state.best_nll) > float(stderr)

    def balance(
        self,
        keys: tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray],
        model: EnergyModel,
        proposal: DefensiveMixture,
        fallback: AbstractEnergyModel | None,
        pools: Pools | None,
        limits: Limits,
    ) -> tuple[BalancedFit, Normaliser]:
        """Balanced training, or what it started from if that has the lower NLL.

        Args:
            keys: Of the chains, of training and of log Z.
            model: The model to train.
            proposal: Its proposal.
            fallback: What it started from; `None` if that is no model to return.
            pools: Draws of the proposal, if there are any.
            limits: When it ends.

        Returns:
            The fit, with the history of this stage, and its log-normaliser.
        """
        fit, before = self._balanced(keys[:2], model, proposal, fallback, limits)
        fit, normaliser = self._better(keys[2], fit, before)
        if fit is before:
            pool = draw_pool(keys[0], proposal, N_EVALUATION) if pools is None else pools.held_out
            chains = resample(keys[0], fit.model, pool, self.options.n_chains)
            fit = fit._replace(chains=chains)
        return fit, normaliser

    def leave(
        self,
        keys: tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray],
        model: EnergyModel,
        proposal: DefensiveMixture,
        pools: Pools | None,
        stop_reason: str,
    ) -> tuple[BalancedFit, Normaliser]:
        """A model that is not balanced any further, as a fit of no iterations.

        Args:
            keys: Of the chains, and of two pools where there are none yet.
            model: The model.
            proposal: Its proposal.
            pools: Draws of the proposal, if there are any.
            stop_reason: Why this is all.

        Returns:
            The fit, and its log-normaliser by draws that have chosen nothing.
        """
        if pools is None:
            pool, unseen = (draw_pool(key, proposal, N_EVALUATION) for key in keys[1:])
        else:
            _, pool, unseen = pools
        chains = resample(keys[0], model, pool, self.options.n_chains)
        fit = BalancedFit(model, proposal, chains, stop_reason, [])
        return fit, Normaliser.of(lambda: log_partition_of_pool(model, unseen))

    def _balanced(
        self,
        keys: tuple[PRNGKeyArray, PRNGKeyArray],
        model: EnergyModel,
        proposal: DefensiveMixture,
        fallback: AbstractEnergyModel | None,
        limits: Limits,
    ) -> tuple[BalancedFit, BalancedFit | None]:
        """Balanced training and its fallback, which alone is left where it diverges.

        Returns:
            The fit, and the fallback with its proposal, or `None`; one and the same object where
            there is nothing but the fallback.
        """
        try:
            fit = balance(
                keys,
                model,
                proposal,
                self.data,
                self.validation,
                weights=self.weights,
                options=self.options,
                limits=limits,
                observers=self.observers,
            )
        except TrainingDiverged as error:
            if fallback is None:
                raise
            self.observers.warn(
                f"Balanced training is given up ({str(error).rstrip('.')}): the energy is that of "
                "the stage before it."
            )
            # Without chains: they are drawn for whatever is kept of earlier stages.
            fit = BalancedFit(fallback, proposal, self.data[:0], "training diverged", [])
            return fit, fit
        if fallback is None:
            return fit, None
        # A flow as base is covered best by the proposal that began as it.
        is_base = fallback is model
        return fit, fit._replace(model=fallback, flow=proposal if is_base else fit.flow)

    def _better(
        self, key: PRNGKeyArray, fit: BalancedFit, before: BalancedFit | None
    ) -> tuple[BalancedFit, Normaliser]:
        r"""Balanced training's fit, or what it started from if that has the lower NLL.

        Each is judged by its NLL with $\log Z$ one standard error up: a flow's is known exactly,
        and is not given up for an energy of which it is only a guess. Where one flow proposes for
        both, both $\log Z$ are of the same draws: by draws of its own for either the two could
        not be told apart. A budget that ends soon after balanced training has begun leaves it worse
        than its start, and so do rows that are too few for a flow to follow the energy.

        Args:
            key: Random key of the draws.
            fit: Of balanced training.
            before: What it started from; `None` if that is no model to return.

        Returns:
            The better fit, and its log-normaliser.
        """

        def normaliser(of: BalancedFit) -> Normaliser:
            return Normaliser.of(lambda: log_partition(key, of.model, of.flow))

        def highest_nll(of: BalancedFit, normaliser: Normaliser) -> float:
            log_z = normaliser.log_partition
            energies = _energies(of.model, self.validation)
            return float(self.mean(energies).value) + log_z.value + log_z.stderr

        fits = [fit] if before is None or before is fit else [fit, before]
        return min(((of, normaliser(of)) for of in fits), key=lambda pair: highest_nll(*pair))
