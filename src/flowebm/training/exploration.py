"""The first stage of joint training: flows that find the directions which matter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from flowjax.bijections import Chain
from flowjax.distributions import AbstractDistribution, Transformed
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.evaluation.relevance import Relevance, relevant_directions
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.models.flows import make_flow as make_flow_of
from flowebm.models.linear_change import LinearChange
from flowebm.models.relevant import relevant_flow
from flowebm.training.driver import Observers
from flowebm.training.flow import fit_flow
from flowebm.training.row_weights import RowWeights, draw_rows, rows_in_proportion

#: Makes a flow, unfitted, of points of a shape.
MakeFlow: TypeAlias = Callable[[PRNGKeyArray, tuple[int, ...]], AbstractDistribution]

#: Shares of a time budget that one flow of all coordinates, and one of those that matter, may take.
ALL_BUDGET, RELEVANT_BUDGET = 0.2, 0.15

#: Coordinates that are all modelled without a search: so few leave little to memorise, and a search
#: takes longer than it saves.
FEWEST_TO_SEARCH = 4

#: Directions show early: a flow of all coordinates ends as soon as it no longer improves.
BLOCK_LENGTH, PATIENCE = 25, 4

#: How often more directions are looked for beyond those that are known.
MAX_ROUNDS = 4

#: Training points whose scores tell the directions.
N_DIRECTIONS = 4000

#: Standard errors by which a flow must be better on validation points to count as better.
BETTER = 2.0


class Explored(NamedTuple):
    """What the first stage found.

    Attributes:
        flow: The fitted flow.
        relevance: How far from Gaussian the data are, direction by direction; `None` where nobody
            looked.
        relevant: Directions that the flow is made of; `None` for a flow of all coordinates.
        history: Rows of metrics.
    """

    flow: AbstractDistribution
    relevance: Relevance | None
    relevant: int | None
    history: list[dict[str, Any]]


def spline_coupling(key: PRNGKeyArray, shape: tuple[int, ...]) -> AbstractDistribution:
    """Six spline couplings, unfitted.

    Args:
        key: Random key of the initial weights.
        shape: Shape of one point.

    Returns:
        The flow.
    """
    return make_flow_of("spline-coupling", shape, key=key)


def explore(
    key: PRNGKeyArray,
    data: Float[Array, "n *shape"],
    validation: Float[Array, "m *shape"],
    *,
    gaussian: Transformed,
    weights: RowWeights | None = None,
    make_flow: MakeFlow = spline_coupling,
    relevant: int | None = None,
    seconds: Callable[[float], float | None] = lambda share: None,
    observers: Observers | None = None,
) -> Explored:
    """Fit a flow of all coordinates, then one of those alone that turn out to matter.

    In many coordinates a flow starts to memorise noise when it has found the first thing that
    matters, and is stopped. So the search goes on from there: a new flow of all coordinates
    starts from what is known, in which nothing of it is left to learn, until it finds no more.
    Up to three coordinates all are taken to matter.

    Args:
        key: Random key.
        data: Training points, one a row.
        validation: Validation points, one a row.
        gaussian: The Gaussian fitted to the data, against which relevance is measured.
        weights: How much the points count; all alike by default.
        make_flow: Makes an unfitted flow from a key and a shape.
        relevant: The number of directions that matter; found by itself if not given.
        seconds: The seconds that a fit may take, from its share of the budget.
        observers: Progress, metrics and checkpoints.

    Returns:
        The flow of the relevant directions; of all coordinates, if all matter or if the
        validation points say that the others should not be left to a Gaussian.
    """
    fits = _Fits(data, validation, weights, make_flow, seconds, observers)
    if relevant is None and prod(data.shape[1:]) < FEWEST_TO_SEARCH:
        flow = fits.whole(jr.fold_in(key, 0))
        return Explored(flow, None, None, fits.history)
    everything = fits.all_coordinates(jr.fold_in(key, 0), "exploration")
    explored, known = Explored(everything, None, None, fits.history), 0
    for number in range(1, MAX_ROUNDS + 1):
        if fits.out_of_time():
            break
        name = "" if number == 1 else f"-{number}"
        judge_key, few_key, more_key = jr.split(jr.fold_in(key, number), 3)
        relevance = fits.relevance(judge_key, everything, gaussian)
        explored = explored._replace(relevance=relevance)
        # A flow needs a coordinate, even where none is significant.
        found = relevant or max(1, int(relevance.n_relevant))
        if found == relevance.relevance.size or found <= known or fits.out_of_time():
            break
        few = fits.relevant_coordinates(few_key, relevance.change, found, f"flow{name}")
        if fits.is_better(everything, few):
            break
        explored, known = Explored(few, relevance, found, fits.history), found
        if relevant is not None or number == MAX_ROUNDS or fits.out_of_time():
            break
        everything = fits.beyond(more_key, few, f"exploration-{number + 1}")
        if not fits.is_better(everything, few):
            break
        explored = Explored(everything, relevance, None, fits.history)
    if explored.relevant is None and not fits.out_of_time():
        flow = fits.refined(jr.fold_in(key, MAX_ROUNDS + 1), explored.flow)
        explored = explored._replace(flow=flow)
    return explored


@dataclass
class _Fits:
    """Fits of flows to the same points, with their history."""

    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    weights: RowWeights | None
    make_flow: MakeFlow
    seconds: Callable[[float], float | None]
    observers: Observers | None
    history: list[dict[str, Any]] = field(default_factory=list)

    def _fit(self, key, flow, data, validation, share: float, **choices) -> AbstractDistribution:
        fitted, outcome = fit_flow(
            key,
            flow,
            data,
            validation,
            weights=self.weights,
            time_budget=self.seconds(share),
            observers=self.observers,
            **choices,
        )
        self.history += outcome.history
        return fitted

    def all_coordinates(self, key: PRNGKeyArray, stage: str, start=None) -> AbstractDistribution:
        """A flow of all coordinates, of the data or of the latents of a flow that is known."""
        make_key, fit_key = jr.split(key)
        data, validation, log_dets = self.data, self.validation, {}
        if start is not None:
            data, log_det = _latents(start, data)
            validation, validation_log_det = _latents(start, validation)
            log_dets = {"log_det": log_det, "validation_log_det": validation_log_det}
        flow = self.make_flow(make_key, data.shape[1:])
        return self._fit(
            fit_key,
            flow,
            data,
            validation,
            ALL_BUDGET,
            **log_dets,
            block_length=BLOCK_LENGTH,
            patience=PATIENCE,
            stage=stage,
        )

    def beyond(self, key: PRNGKeyArray, known: AbstractDistribution, stage: str) -> Transformed:
        """What is known, with a new flow of all coordinates in front."""
        known = cast(Transformed, known)
        more = cast(Transformed, self.all_coordinates(key, stage, known))
        return Transformed(more.base_dist, Chain([more.bijection, known.bijection]))

    def relevant_coordinates(
        self, key: PRNGKeyArray, change: LinearChange, found: int, stage: str
    ) -> AbstractDistribution:
        """A flow of the leading coordinates alone, and a Gaussian for the others."""
        make_key, fit_key = jr.split(key)
        few = self.make_flow(make_key, (found,))
        data, validation = (_turned(change, x) for x in (self.data, self.validation))
        log_det, validation_log_det = (
            norm.logpdf(x[:, found:]).sum(axis=1) - change.log_det for x in (data, validation)
        )
        few = self._fit(
            fit_key,
            few,
            data[:, :found],
            validation[:, :found],
            RELEVANT_BUDGET,
            log_det=log_det,
            validation_log_det=validation_log_det,
            stage=stage,
        )
        return relevant_flow(few, change)

    def whole(self, key: PRNGKeyArray) -> AbstractDistribution:
        """A flow of all coordinates, with all patience."""
        make_key, fit_key = jr.split(key)
        flow = self.make_flow(make_key, self.data.shape[1:])
        share = ALL_BUDGET + RELEVANT_BUDGET
        return self._fit(fit_key, flow, self.data, self.validation, share, stage="flow")

    def refined(self, key: PRNGKeyArray, flow: AbstractDistribution) -> AbstractDistribution:
        """The flow of all coordinates, fitted with more patience."""
        points = self.data, self.validation
        # In blocks of the same length, for which the program is compiled.
        choices = {"block_length": BLOCK_LENGTH, "patience": 4 * PATIENCE}
        return self._fit(key, flow, *points, RELEVANT_BUDGET, stage="refinement", **choices)

    def relevance(
        self, key: PRNGKeyArray, flow: AbstractDistribution, gaussian: Transformed
    ) -> Relevance:
        """The directions of a flow, judged on validation points."""
        rows_key, noise_key = jr.split(key)
        rows = jr.permutation(rows_key, self.data.shape[0])[:N_DIRECTIONS]
        held_out = self.validation
        if self.weights is not None:
            rows = draw_rows(self.weights, jr.fold_in(rows_key, 2), rows)
            held_out = held_out[rows_in_proportion(self.weights.validation)]
        return relevant_directions(noise_key, flow.log_prob, gaussian, self.data[rows], held_out)

    def out_of_time(self) -> bool:
        """Whether no second is left: what compiles now would only overrun."""
        left = self.seconds(1.0)
        return left is not None and left <= 0

    def is_better(self, flow: AbstractDistribution, other: AbstractDistribution) -> bool:
        """Whether a flow is significantly better on validation points."""
        difference = log_probs(flow, self.validation) - log_probs(other, self.validation)
        weights = None if self.weights is None else self.weights.validation
        mean, stderr = weighted_mean(difference, weights)
        return bool(jnp.asarray(mean) > BETTER * jnp.asarray(stderr))


@eqx.filter_jit
def _latents(flow: Transformed, points: Array) -> tuple[Array, Array]:
    return jax.vmap(flow.bijection.inverse_and_log_det)(points)


@eqx.filter_jit
def _turned(change: LinearChange, points: Array) -> Array:
    return jax.vmap(lambda x: change.inverse(x).ravel())(points)


@eqx.filter_jit
def log_probs(flow: AbstractDistribution, points: Float[Array, "m *shape"]) -> Float[Array, " m"]:
    """The log-density of every point."""
    return flow.log_prob(points)
