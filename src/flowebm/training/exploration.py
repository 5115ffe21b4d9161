"""The first stage of joint training: flows that find the directions which matter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.random as jr
from flowjax.distributions import AbstractDistribution, Transformed
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.relevance import Relevance, relevant_directions
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.models.flows import make_flow as make_flow_of
from flowebm.models.linear_change import LinearChange
from flowebm.models.relevant import in_front, relevant_flow
from flowebm.training.driver import Observers
from flowebm.training.flow import fit_flow
from flowebm.training.noise import NO_NOISE, Noise, NormalNoise
from flowebm.training.row_weights import RowWeights, draw_rows, rows_in_proportion

#: Makes a flow, unfitted, of points of a shape.
MakeFlow: TypeAlias = Callable[[PRNGKeyArray, tuple[int, ...]], AbstractDistribution]

#: Shares of a time budget that one flow of all coordinates, and one of those that matter, may take.
ALL_BUDGET, RELEVANT_BUDGET = 0.2, 0.15

#: Training rows up to which noise is tried on them: for each coordinate, and in all.
FEW_ROWS_A_COORDINATE, MOST_FEW_ROWS = 200, 4000

#: Share of a time budget that a fit with noise may take.
NOISE_BUDGET = 0.1

#: Scales of noise: the first that is tried, the one tried next if it is better than none, and the
#: one if it is not.
NOISE, MORE_NOISE, LESS_NOISE = 0.2, 0.4, 0.1

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
        noise: What training points were given in fits of all coordinates.
        known: Directions of the flow that a flow of all coordinates stands in front of; `None`
            where there is none.
    """

    flow: AbstractDistribution
    relevance: Relevance | None
    relevant: int | None
    history: list[dict[str, Any]]
    noise: Noise = NO_NOISE
    known: int | None = None


def are_few(data: Float[Array, "n *shape"]) -> bool:
    """Whether rows are so few that a flow of all coordinates learns them by heart.

    Args:
        data: Points, one a row.
    """
    n_rows, *shape = data.shape
    return n_rows <= min(FEW_ROWS_A_COORDINATE * prod(shape), MOST_FEW_ROWS)


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
    matters, and is stopped. Few rows therefore get noise, as much as validation points allow. And
    the search goes on from there: a new flow of all coordinates
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
        flow = fits.with_noise(fits.whole, jr.fold_in(key, 0), "flow")
        return Explored(flow, None, None, fits.history, fits.noise)
    everything = fits.with_noise(fits.all_coordinates, jr.fold_in(key, 0), "exploration")
    explored, known = Explored(everything, None, None, fits.history, fits.noise), 0
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
        explored, known = explored._replace(flow=few, relevant=found, known=None), found
        if relevant is not None or number == MAX_ROUNDS or fits.out_of_time():
            break
        everything = fits.beyond(more_key, few, f"exploration-{number + 1}")
        if not fits.is_better(everything, few):
            break
        explored = explored._replace(flow=everything, relevant=None, known=known)
    if explored.relevant is None and not fits.out_of_time():
        flow = fits.refined(jr.fold_in(key, MAX_ROUNDS + 1), explored.flow)
        explored = explored._replace(flow=flow)
    return explored


@dataclass
class _Fits:
    """Fits of flows to the same points, with their history and the noise that they are given."""

    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    weights: RowWeights | None
    make_flow: MakeFlow
    seconds: Callable[[float], float | None]
    observers: Observers | None
    history: list[dict[str, Any]] = field(default_factory=list)
    noise: Noise = NO_NOISE

    def _fit(self, key, flow, data, validation, share: float, **choices) -> AbstractDistribution:
        fitted, outcome = fit_flow(
            key,
            flow,
            data,
            validation,
            weights=self.weights,
            time_budget=self.seconds(share),
            # Few rows have one program for all scales, none among them.
            prepare=NormalNoise.of(self.noise, data, self.weights) if self.has_few_rows else None,
            observers=self.observers,
            **choices,
        )
        self.history += outcome.history
        return fitted

    @property
    def has_few_rows(self) -> bool:
        """Whether the rows are so few that noise may help."""
        return are_few(self.data)

    def with_noise(
        self, fit: Callable[..., AbstractDistribution], key: PRNGKeyArray, stage: str
    ) -> AbstractDistribution:
        """The fit with most noise that validation points cannot tell from the best.

        All later fits of all coordinates have the same noise. Noise of both forms is tried in turn,
        and twice as much where that of a form was better than none, half as much elsewhere. Of fits
        within one standard error of the best, the one of most noise has memorised least.

        Args:
            fit: Makes a fit from a key and a stage.
            key: Random key, the same for every fit.
            stage: The stage's name.

        Source: Breiman et al. (1984), *Classification and regression trees*, section 3.4.3, for the
        rule of one standard error.
        """
        fits = {NO_NOISE: fit(key, stage)}
        if not self.has_few_rows:
            return fits[NO_NOISE]
        for like_data in (True, False):
            scale = NOISE
            for _ in range(2):
                if self.out_of_time():
                    break
                self.noise = Noise(scale, like_data)
                name = f"{stage}-noise-{scale:g}{'' if like_data else '-even'}"
                fits[self.noise] = fit(key, name, share=NOISE_BUDGET)
                is_better = self.lead(fits[self.noise], fits[NO_NOISE]).value > 0
                scale = MORE_NOISE if is_better else LESS_NOISE
        above = {noise: self.lead(flow, fits[NO_NOISE]).value for noise, flow in fits.items()}
        best = fits[max(above, key=lambda noise: float(above[noise]))]
        leads = {noise: self.lead(best, flow) for noise, flow in fits.items()}
        as_good = [n for n, lead in leads.items() if lead.value <= lead.stderr]
        self.noise = max(as_good, key=lambda noise: (noise.scale, -float(leads[noise].value)))
        return fits[self.noise]

    def all_coordinates(
        self, key: PRNGKeyArray, stage: str, start=None, share: float = ALL_BUDGET
    ) -> AbstractDistribution:
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
            share,
            **log_dets,
            block_length=BLOCK_LENGTH,
            patience=PATIENCE,
            stage=stage,
        )

    def beyond(
        self, key: PRNGKeyArray, known: AbstractDistribution, stage: str
    ) -> AbstractDistribution:
        """What is known, with a new flow of all coordinates in front."""
        return in_front(self.all_coordinates(key, stage, known), known)

    def relevant_coordinates(
        self, key: PRNGKeyArray, change: LinearChange, found: int, stage: str
    ) -> AbstractDistribution:
        """A flow of the leading coordinates alone, and a Gaussian for the others.

        So few coordinates may do without the noise that all of them need: both are tried.
        """
        flow = self._relevant_coordinates(key, change, found, stage)
        if self.noise == NO_NOISE or self.out_of_time():
            return flow
        noise, self.noise = self.noise, NO_NOISE
        other = self._relevant_coordinates(key, change, found, f"{stage}-noise-0", NOISE_BUDGET)
        self.noise = noise
        return other if self.lead(other, flow).value > 0 else flow

    def _relevant_coordinates(
        self,
        key: PRNGKeyArray,
        change: LinearChange,
        found: int,
        stage: str,
        share: float = RELEVANT_BUDGET,
    ) -> AbstractDistribution:
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
            share,
            log_det=log_det,
            validation_log_det=validation_log_det,
            stage=stage,
        )
        return relevant_flow(few, change)

    def whole(
        self, key: PRNGKeyArray, stage: str, share: float = ALL_BUDGET + RELEVANT_BUDGET
    ) -> AbstractDistribution:
        """A flow of all coordinates, with all patience."""
        make_key, fit_key = jr.split(key)
        flow = self.make_flow(make_key, self.data.shape[1:])
        return self._fit(fit_key, flow, self.data, self.validation, share, stage=stage)

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
        lead = self.lead(flow, other)
        return bool(lead.value > BETTER * lead.stderr)

    def lead(self, flow: AbstractDistribution, other: AbstractDistribution) -> Estimate:
        """By how many nats a flow's log-density of validation points is above another's."""
        difference = log_probs(flow, self.validation) - log_probs(other, self.validation)
        return weighted_mean(difference, self.weights and self.weights.validation)


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
