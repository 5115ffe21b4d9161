"""The first stage of joint training: a flow that finds the directions which matter."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from flowjax.distributions import AbstractDistribution, Transformed
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.evaluation.relevance import Relevance, relevant_directions
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.models.flows import make_flow as make_flow_of
from flowebm.models.relevant import relevant_flow
from flowebm.training.driver import Observers
from flowebm.training.flow import fit_flow
from flowebm.training.row_weights import RowWeights, draw_rows, rows_in_proportion

#: Makes a flow, unfitted, of points of a shape.
MakeFlow: TypeAlias = Callable[[PRNGKeyArray, tuple[int, ...]], AbstractDistribution]

#: Shares of a time budget that the flow of all coordinates, and that of the relevant ones or the
#: first one's refinement, may take.
ALL_BUDGET, RELEVANT_BUDGET = 0.25, 0.2

#: Directions show early: the flow of all coordinates ends as soon as it no longer improves.
BLOCK_LENGTH, PATIENCE = 25, 4

#: Training points whose scores tell the directions.
N_DIRECTIONS = 4000


class Explored(NamedTuple):
    """What the first stage found.

    Attributes:
        flow: The fitted flow that is better on validation data.
        relevance: How far from Gaussian the data are, direction by direction.
        relevant: Directions that the flow is made of; `None` for a flow of all coordinates.
        history: Rows of metrics.
    """

    flow: AbstractDistribution
    relevance: Relevance
    relevant: int | None
    history: list[dict[str, Any]]


def spline_coupling(key: PRNGKeyArray, shape: tuple[int, ...]) -> Transformed:
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
    """Fit a flow of all coordinates, and one of those alone that turn out to matter.

    Args:
        key: Random key.
        data: Training points, one a row.
        validation: Validation points, one a row.
        gaussian: The Gaussian fitted to the data, against which relevance is measured.
        weights: How much the points count; all alike by default.
        make_flow: Makes an unfitted flow from a key and a shape.
        relevant: The number of directions that matter; found by itself if not given.
        seconds: The seconds that a stage may take, from its share of the budget.
        observers: Progress, metrics and checkpoints.

    Returns:
        The better flow, on validation data, and the directions.
    """
    make_key, fit_key, rows_key, relevance_key, again_key = jr.split(key, 5)
    given: dict[str, Any] = {"weights": weights, "observers": observers}
    everything, outcome = fit_flow(
        fit_key,
        make_flow(make_key, data.shape[1:]),
        data,
        validation,
        block_length=BLOCK_LENGTH,
        patience=PATIENCE,
        time_budget=seconds(ALL_BUDGET),
        stage="exploration",
        **given,
    )
    history = outcome.history
    rows = jr.permutation(rows_key, data.shape[0])[:N_DIRECTIONS]
    held_out = validation
    if weights is not None:
        rows = draw_rows(weights, jr.fold_in(rows_key, 2), rows)
        held_out = validation[rows_in_proportion(weights.validation)]
    relevance = relevant_directions(
        relevance_key, everything.log_prob, gaussian, data[rows], held_out
    )
    if relevant is None:
        # A flow needs a coordinate, even where none is significant.
        relevant = max(1, int(relevance.n_relevant))
    given["time_budget"] = seconds(RELEVANT_BUDGET)
    if relevant < relevance.relevance.size:
        turned = jax.vmap(lambda x: relevance.change.inverse(x).ravel()[:relevant])
        few = make_flow(jr.fold_in(make_key, 1), (relevant,))
        few, outcome = fit_flow(again_key, few, turned(data), turned(validation), **given)
        history = history + outcome.history
        flow = relevant_flow(few, relevance.change)
        if _is_as_good(flow, everything, validation, weights):
            return Explored(flow, relevance, relevant, history)
        given["time_budget"] = seconds(RELEVANT_BUDGET)
    flow, outcome = fit_flow(again_key, everything, data, validation, stage="refinement", **given)
    return Explored(flow, relevance, None, history + outcome.history)


@eqx.filter_jit
def _log_probs(flow: AbstractDistribution, points: Array) -> Array:
    return flow.log_prob(points)


def _is_as_good(
    flow: AbstractDistribution,
    other: AbstractDistribution,
    validation: Float[Array, "m *shape"],
    weights: RowWeights | None,
) -> bool:
    """Whether a flow is better on validation points, or not worse by a standard error."""
    difference = _log_probs(flow, validation) - _log_probs(other, validation)
    mean, stderr = weighted_mean(difference, None if weights is None else weights.validation)
    return bool(jnp.asarray(mean) > -jnp.asarray(stderr))
