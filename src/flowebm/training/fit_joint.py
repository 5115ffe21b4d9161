"""`fit_joint`: a flow finds what matters, balanced training makes it right."""

import time
from dataclasses import dataclass
from math import prod
from typing import Literal

import jax.random as jr
import paramax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from flowebm.evaluation.relevance import Relevance
from flowebm.models.bases import gaussian_base
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.relevant import shrink_idle
from flowebm.models.tilted import EnergyModel
from flowebm.models.tilts import MLPTilt
from flowebm.training.balanced import BalancedOptions
from flowebm.training.driver import Limits, Observers
from flowebm.training.exploration import MakeFlow, explore, spline_coupling
from flowebm.training.fit_balanced import balance, training_and_validation
from flowebm.training.result import FitResult, collect_warnings
from flowebm.training.row_weights import RowWeights, rows_in_proportion

#: Coordinates up to which a Gaussian is the better base: the energy finds the modes by itself and
#: has no ripples of a flow to repair. A run of fewer seconds starts better from the flow.
FEW_COORDINATES, ENOUGH_SECONDS = 4, 60.0


@dataclass(frozen=True)
class JointFitResult(FitResult):
    """A `FitResult`, with what the first stage found.

    Attributes:
        relevance: How far from Gaussian the data are, direction by direction; `None` for points of
            so few coordinates that nobody looked.
        relevant: The number of directions to which flow and tilt were turned; `None` where all
            coordinates matter.
        base: What the energy tilts: `gaussian` or `flow`.
    """

    relevance: Relevance | None = None
    relevant: int | None = None
    base: Literal["gaussian", "flow"] = "gaussian"


def default_base(n_coordinates: int, time_budget: float | None) -> Literal["gaussian", "flow"]:
    """What the energy tilts if nobody chooses."""
    is_short = time_budget is not None and time_budget < ENOUGH_SECONDS
    return "flow" if n_coordinates > FEW_COORDINATES or is_short else "gaussian"


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
    train_base: bool = False,
    relevant: int | None = None,
    options: BalancedOptions | None = None,
    max_steps: int = 1000,
    time_budget: float | None = None,
    patience: int | None = None,
    block_length: int = 50,
    observers: Observers | None = None,
) -> JointFitResult:
    r"""Fit an energy model in two stages: find what matters, then get it right.

    1. A flow of all coordinates is fitted by maximum likelihood and stopped on validation data.
       Its scores tell the directions along which the data differ from a Gaussian, and held-out
       points tell which of these are real (`relevant_directions`). If these are fewer than the
       coordinates, a second flow is fitted along them alone, with a Gaussian for the rest; the
       better of the two on validation data stays. Up to three coordinates one flow is fitted to
       all.
    2. Balanced training from there: the flow is the first proposal and, with `base="flow"`, what
       the energy tilts. The tilt sees idle directions shrunken.

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
        defensive_fraction: Share of a wide Gaussian in the proposal.
        base: What the energy tilts in the second stage: the `model`'s own base (`gaussian`), the
            fitted flow, or what its number of coordinates suggests (`auto`).
        train_base: Whether a flow as base is trained along with the tilt.
        relevant: The number of directions that matter; found by itself if not given, from four
            coordinates on.
        options: Choices of balanced training.
        max_steps: Iterations of balanced training at most.
        time_budget: Seconds at most, for all stages.
        patience: Evaluations without a better validation NLL before balanced training stops.
        block_length: Iterations between its evaluations.
        observers: Progress, metrics and checkpoints.

    Returns:
        The fitted model, the flow, $\log Z$ with its error, chains, history and relevance.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If the model is no `EnergyModel`.
        TrainingDiverged: If training diverges again and again.

    Source: Grenioux, Moulines, Gabrié (2023) for the second stage; Zahm et al. (2022) for the
    directions.
    """
    if not isinstance(model, EnergyModel):
        raise TypeError(f"fit_joint fits an EnergyModel; got a {type(model).__name__}.")
    if base not in ("auto", "gaussian", "flow"):
        raise ValueError(f"Unknown base {base!r}: choose auto, gaussian or flow.")
    if relevant is not None and not 1 <= relevant <= prod(model.shape):
        raise ValueError(
            f"relevant must be from 1 to the {prod(model.shape)} coordinates of a point; got "
            f"{relevant}."
        )
    names = ("split", "explore", "chains", "train", "log_z")
    keys = dict(zip(names, jr.split(key, len(names)), strict=True))
    data, validation, weights, validation_weights = training_and_validation(
        keys["split"], model, data, validation, weights, validation_weights
    )
    observers, sentences = collect_warnings(observers)
    started = time.monotonic()

    def seconds(share: float = 1.0) -> float | None:
        """Seconds left, or that share of the whole if it is less."""
        if time_budget is None:
            return None
        left = time_budget - (time.monotonic() - started)
        return max(0.0, min(left, share * time_budget))

    row_weights = RowWeights.of(weights, validation_weights)
    as_weighted = data if weights is None else data[rows_in_proportion(weights)]
    explored = explore(
        keys["explore"],
        data,
        validation,
        gaussian=gaussian_base(as_weighted),
        weights=row_weights,
        make_flow=make_flow,
        relevant=relevant,
        seconds=seconds,
        observers=observers,
    )
    tilt = model.tilt
    if (
        explored.relevance is not None
        and explored.relevant is not None
        and isinstance(tilt, MLPTilt)
    ):
        tilt = shrink_idle(tilt, explored.relevance.change, explored.relevant)
    if base == "auto":
        base = default_base(prod(model.shape), time_budget)
    if base == "gaussian":
        model = EnergyModel(tilt, model.base)
    else:
        flow = explored.flow if train_base else paramax.non_trainable(explored.flow)
        model = EnergyModel(tilt, flow)
    wide = paramax.non_trainable(gaussian_base(as_weighted, inflation=1.5))
    result = balance(
        (keys["chains"], keys["train"], keys["log_z"]),
        model,
        DefensiveMixture(explored.flow, wide, defensive_fraction),
        data,
        validation,
        weights=row_weights,
        options=options or BalancedOptions(),
        limits=Limits(max_steps, seconds(), patience, block_length),
        observers=observers,
        history=explored.history,
        sentences=sentences,
    )
    return JointFitResult(
        **vars(result), relevance=explored.relevance, relevant=explored.relevant, base=base
    )
