"""The first stage keeps the best flow that it has seen, and ends when its time does."""

import jax.numpy as jnp
import jax.random as jr
import pytest
from flowebm.training.exploration import explore
from flowjax.bijections import Affine
from flowjax.distributions import Normal, Transformed

from flowebm.evaluation.relevance import Relevance
from flowebm.models import gaussian_base
from flowebm.training import exploration

N_COORDINATES = 5
DATA = jr.normal(jr.key(0), (400, N_COORDINATES))


def flow_at(distance):
    """A normal with its mean that far from the data's: the nearer, the better."""
    return Transformed(
        Normal(jnp.zeros(N_COORDINATES)), Affine(jnp.full(N_COORDINATES, float(distance)))
    )


def search(seconds_left):
    """The search itself, by a clock that shows these seconds and then none, if there is one."""
    clock = iter(seconds_left or [])
    return explore(
        jr.key(1),
        DATA[:300],
        DATA[300:],
        gaussian=gaussian_base(DATA),
        seconds=lambda share: next(clock, 0.0) if seconds_left else None,
    )


@pytest.fixture
def explored(monkeypatch):
    """Runs the search with flows of given quality in place of fits; counts directions up."""

    def run(distances, seconds_left=None):
        names = []

        def fit_of(stage):
            names.append(stage)
            return flow_at(distances[stage])

        def relevance(fits, key, flow, gaussian):
            names.append("relevance")
            # One direction more in every round.
            n = names.count("relevance")
            values = jnp.where(jnp.arange(N_COORDINATES) < n, 1.0, 0.0)
            return Relevance(None, values, jnp.zeros(N_COORDINATES))

        monkeypatch.setattr(exploration, "MOST_FEW_ROWS", 0)
        fits = exploration._Fits
        monkeypatch.setattr(fits, "all_coordinates", lambda _, key, stage: fit_of(stage))
        monkeypatch.setattr(fits, "beyond", lambda _, key, known, stage: fit_of(stage))
        monkeypatch.setattr(
            fits, "relevant_coordinates", lambda _, key, change, found, stage: fit_of(stage)
        )
        monkeypatch.setattr(fits, "refined", lambda _, key, flow: names.append("refined") or flow)
        monkeypatch.setattr(fits, "relevance", relevance)
        return search(seconds_left), names

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
    # What it is made of: it stands in front of the first relevant flow, of one direction.
    assert found.known == 1
    assert names[-1] == "refined"


def test_directions_are_added_while_they_better_the_flow(explored):
    distances = {"exploration": 2, "flow": 1.5, "exploration-2": 1, "flow-2": 0.5}
    found, names = explored(distances | {"exploration-3": 0.5})
    assert distance_of(found.flow) == pytest.approx(0.5)
    assert found.relevant == 2
    assert found.known is None
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


@pytest.fixture
def chosen(monkeypatch):
    """The noise that is chosen where fits with it, and without, are that far from the data."""

    def run(distances, seconds_left=None):
        names = []

        def fit_of(_, key, stage, share=None):
            names.append(stage)
            return flow_at(distances.get(stage, 9))

        monkeypatch.setattr(exploration._Fits, "all_coordinates", fit_of)
        monkeypatch.setattr(exploration, "MAX_ROUNDS", 0)
        monkeypatch.setattr(exploration._Fits, "refined", lambda _, key, flow: flow)
        return search(seconds_left), names

    return run


NOISES = [f"exploration-noise-{scale}{kind}" for kind in ("", "-even") for scale in (0.2, 0.1)]


def test_more_noise_is_tried_where_some_is_better_than_none_and_less_elsewhere(chosen):
    found, names = chosen({"exploration": 2, "exploration-noise-0.2": 1})
    assert names == [
        "exploration",
        "exploration-noise-0.2",
        "exploration-noise-0.4",
        "exploration-noise-0.2-even",
        "exploration-noise-0.1-even",
    ]
    assert found.noise == (0.2, True)
    assert distance_of(found.flow) == 1


def test_no_noise_where_it_costs(chosen):
    found, names = chosen({"exploration": 1})
    assert names == ["exploration", *NOISES]
    assert found.noise == (0.0, True)
    assert distance_of(found.flow) == 1


def test_the_most_noise_that_validation_points_cannot_tell_from_the_best(chosen):
    """In 100 points of 5 coordinates a mean that is off by 0.5 in each costs 0.6 nats, with an
    error of 0.1; one off by 0.01 nothing."""
    distances = {"exploration": 0.5, "exploration-noise-0.1-even": 0.01}
    assert chosen(distances)[0].noise == (0.1, False)
    found, _ = chosen({"exploration": 0, "exploration-noise-0.2": 0.5, "exploration-noise-0.1": 0})
    assert found.noise == (0.1, True)


@pytest.mark.parametrize("limit", ["MOST_FEW_ROWS", "FEW_ROWS_A_COORDINATE"])
def test_many_rows_get_no_noise(chosen, monkeypatch, limit):
    most = 300 if limit == "MOST_FEW_ROWS" else 60
    monkeypatch.setattr(exploration, limit, most)
    assert len(chosen({"exploration": 1})[1]) == 5
    monkeypatch.setattr(exploration, limit, most - 1)
    assert chosen({"exploration": 1})[1] == ["exploration"]


def test_noise_is_not_tried_when_no_time_is_left(chosen):
    assert chosen({"exploration": 1}, [0])[1] == ["exploration"]
    assert chosen({"exploration": 1}, [9, 9])[1] == ["exploration", *NOISES[:2]]
