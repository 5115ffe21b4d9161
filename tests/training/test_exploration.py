"""The first stage keeps the best flow that it has seen, and ends when its time does."""

import jax.numpy as jnp
import jax.random as jr
import pytest
from flowjax.bijections import Affine
from flowjax.distributions import Normal, Transformed

from flowebm.evaluation.relevance import Relevance
from flowebm.models import gaussian_base
from flowebm.training import exploration
from flowebm.training.exploration import explore

N_COORDINATES = 5
DATA = jr.normal(jr.key(0), (400, N_COORDINATES))


def flow_at(distance):
    """A normal with its mean that far from the data's: the nearer, the better."""
    return Transformed(
        Normal(jnp.zeros(N_COORDINATES)), Affine(jnp.full(N_COORDINATES, float(distance)))
    )


@pytest.fixture
def explored(monkeypatch):
    """Runs the search with flows of given quality in place of fits; counts directions up."""

    def run(distances, seconds_left=None):
        names, clock = [], iter(seconds_left or [])

        def fit_of(stage):
            names.append(stage)
            return flow_at(distances[stage])

        def relevance(fits, key, flow, gaussian):
            names.append("relevance")
            # One direction more in every round.
            n = names.count("relevance")
            values = jnp.where(jnp.arange(N_COORDINATES) < n, 1.0, 0.0)
            return Relevance(None, values, jnp.zeros(N_COORDINATES))

        fits = exploration._Fits
        monkeypatch.setattr(fits, "all_coordinates", lambda _, key, stage: fit_of(stage))
        monkeypatch.setattr(fits, "beyond", lambda _, key, known, stage: fit_of(stage))
        monkeypatch.setattr(
            fits, "relevant_coordinates", lambda _, key, change, found, stage: fit_of(stage)
        )
        monkeypatch.setattr(fits, "refined", lambda _, key, flow: names.append("refined") or flow)
        monkeypatch.setattr(fits, "relevance", relevance)
        found = explore(
            jr.key(1),
            DATA[:300],
            DATA[300:],
            gaussian=gaussian_base(DATA),
            seconds=lambda share: next(clock, 0.0) if seconds_left else None,
        )
        return found, names

    return run


def distance_of(flow):
    return float(flow.bijection.loc[0])


def test_a_later_flow_that_is_cut_short_does_not_take_the_better_one_along(explored):
    """Of all coordinates again, better than the first relevant flow; the second one came to
    nothing, and what was returned was the first."""
    distances = {"exploration": 2, "flow": 1.5, "exploration-2": 0.2, "flow-2": 1.0}
    found, names = explored(distances)
    assert distance_of(found.flow) == pytest.approx(0.2)
    assert found.relevant is None
    assert names[-1] == "refined"


def test_directions_are_added_while_they_better_the_flow(explored):
    distances = {"exploration": 2, "flow": 1.5, "exploration-2": 1, "flow-2": 0.5}
    found, names = explored(distances | {"exploration-3": 0.5})
    assert distance_of(found.flow) == pytest.approx(0.5)
    assert found.relevant == 2
    assert "refined" not in names


@pytest.mark.parametrize(
    ("seconds_left", "stages", "distance"),
    [
        ([], ["exploration"], 2),
        ([9], ["exploration", "relevance"], 2),
        ([9, 9], ["exploration", "relevance", "flow"], 1.5),
        ([9, 9, 9], ["exploration", "relevance", "flow", "exploration-2"], 0.2),
    ],
)
def test_nothing_begins_when_no_time_is_left(explored, seconds_left, stages, distance):
    distances = {"exploration": 2, "flow": 1.5, "exploration-2": 0.2, "flow-2": 0.1}
    found, names = explored(distances, seconds_left or [0])
    assert names == stages
    assert distance_of(found.flow) == pytest.approx(distance)
