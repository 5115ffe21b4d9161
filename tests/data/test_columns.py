"""Columns of all kinds: densities that add up to one, and values that come back."""

import json
from functools import cache
from math import inf

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import gaussian_kde, norm

from flowebm.data.columns import Columns
from flowebm.data.interval import Interval, fit_interval
from flowebm.data.kinds import Kind

N = 4000
_RNG = np.random.default_rng(0)


def _columns():
    rng = _RNG
    zero = rng.random(N) < 0.3
    return {
        "normal": (rng.normal(3, 2, N), None),
        "offset": (1e6 + rng.normal(0, 10, N), None),
        "heavy": (rng.standard_t(1.5, N), None),
        "zeros": (np.where(zero, 0, rng.lognormal(1, 0.7, N)), None),
        "middle": (np.where(zero, 0, rng.normal(0, 2, N)), None),
        "censored": (np.maximum(rng.normal(0.5, 1, N), 0), None),
        "two atoms": (np.where(zero, rng.choice([-5, 40], N), rng.gamma(2, 3, N)), None),
        "exponential": (rng.exponential(2, N), Kind("bounded", 0)),
        "below": (3 - rng.exponential(2, N), Kind("bounded", high=3)),
        "share": (rng.beta(0.8, 2, N), Kind("bounded", 0, 1)),
        "piled share": (np.clip(rng.normal(0.5, 0.4, N), 0, 1), Kind("bounded", 0, 1)),
        "rare": (rng.poisson(0.3, N), None),
        "counts": (rng.poisson(5, N), None),
        "many": (rng.poisson(1000, N), None),
        "many and zero": (np.where(zero, 0, rng.poisson(500, N)), None),
        "binary": (rng.random(N) < 0.05, None),
        "rating": (rng.integers(1, 6, N), None),
        "days": (rng.integers(1, 32, N), Kind("whole", 1, 31)),
        "negative": (-rng.poisson(50, N), None),
        "wide": (rng.integers(-4000, 4000, N) // 3 * 2, None),
        "codes": (rng.choice([1, 2, 100, 5000], N), None),
        "levels": (rng.choice([0.1, 0.5], N), Kind("levels")),
        "angle": (rng.vonmises(0, 1, N), Kind("circular")),
        "intensities": (5 * np.sinh(rng.normal(1, 2, N)), Kind("arcsinh", cofactor=5)),
        "with zeros": (
            np.where(zero, 0, 150 * np.sinh(rng.normal(2, 2, N))),
            Kind("arcsinh", cofactor=150),
        ),
        "degrees": (rng.uniform(0, 360, N), Kind("circular", period=360)),
        "scattered": (rng.choice([*range(0, 30, 3), 300, 950], N), None),
    }


COLUMNS = {name: (np.asarray(x, float), kind) for name, (x, kind) in _columns().items()}


@cache
def fit(*names):
    X = np.stack([COLUMNS[name][0] for name in names], axis=1)
    declared = {i: COLUMNS[name][1] for i, name in enumerate(names)}
    kinds = {i: kind for i, kind in declared.items() if kind is not None}
    return Columns.fit(X, kinds, names), X


def masses(columns, x, log_density, draws):
    """Probabilities, or densities, of one column's values under a density of its points."""
    terms = [
        np.exp(log_density(z[:, 0]) + w) for z, w in columns.boxes(x[:, None]).proposals(draws)
    ]
    return np.mean(terms, axis=0)


def test_columns_that_were_saved_before_there_were_cofactors_are_read():
    values = fit("normal", "zeros")[0].to_values()
    for value in values:
        del value["kind"]["cofactor"]
    assert Columns.from_values(values).columns == fit("normal", "zeros")[0].columns


def test_a_cofactor_is_kept_to():
    columns, X = fit("intensities")
    z, y = columns.transform_rows(X)[:, 0], np.arcsinh(X[:, 0] / 5)
    slope, offset = np.polyfit(y, z, 1)
    np.testing.assert_allclose(z, slope * y + offset, atol=1e-9)
    assert columns.described(("x",)) == {"x": "arcsinh:5"}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_kind_gives_all_of_its_values_together_the_mass_one(name):
    # Under a smoothed density of points, broader than that of the noise. Quadrature and draws in
    # slots err by less than 1%; a planted slope without its logarithm errs by 20% and more.
    columns, X = fit(name)
    column = columns.columns[0]
    smooth = gaussian_kde(columns.boxes(X[:300]).draw(np.random.default_rng(2))[:, 0], 0.15)

    def log_density(z):
        with np.errstate(divide="ignore"):
            return np.log(smooth(z))

    circular = column.kind.name == "circular"
    if circular:
        log_density = lambda z: np.log((1 + 0.5 * np.cos(z - 1)) / (2 * np.pi))  # noqa: E731
    levels = np.array([level.value for level in column.levels])
    total = 0.0
    if column.kind.name == "whole":
        levels = np.union1d(levels, np.arange(X.min() - 50, X.max() + 50))
    if len(levels):
        total += masses(columns, levels, log_density, 64).sum()
    if column.kind.name not in ("whole", "levels"):
        ends = np.pi if circular else 8.0
        points = np.linspace(-ends, ends, 20_001)[1:-1]
        x = np.unique(columns.inverse_rows(points[:, None])[:, 0])
        x = x[~np.isin(x, levels)]
        density = masses(columns, x, log_density, 1)
        gaps = np.diff(x)
        inside = ~((x[:-1, None] < levels) & (levels < x[1:, None])).any(axis=1)
        total += np.sum((0.5 * (density[1:] + density[:-1]) * gaps)[inside])
    assert total == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", COLUMNS)
def test_noise_is_forgotten_on_the_way_back(name):
    columns, X = fit(name)
    Z = columns.boxes(X).draw(np.random.default_rng(1))
    assert np.isfinite(Z).all()
    # As a network has them, in single precision.
    back = columns.inverse_rows(Z.astype(np.float32))
    period = columns.columns[0].kind.period
    difference = back - X
    if columns.circular[0]:
        difference -= period * np.rint(difference / period)
    if columns.is_discrete:
        levels = [level.value for level in columns.columns[0].levels]
        exact = np.isin(X, levels) | (columns.columns[0].kind.name == "whole")
        np.testing.assert_array_equal(back[exact], X[exact])
    np.testing.assert_allclose(difference, 0, atol=2e-4 * (1 + np.std(X)))


@pytest.mark.parametrize("name", COLUMNS)
def test_points_are_of_a_size_that_networks_can_take(name):
    columns, X = fit(name)
    Z = columns.boxes(X).draw(np.random.default_rng(1))
    assert abs(Z.mean()) < 0.5
    assert 0.5 < Z.std() < 2
    assert np.abs(Z).max() < 12 if name != "heavy" else True


@pytest.mark.parametrize("name", COLUMNS)
def test_every_point_stands_for_a_value_that_the_column_can_have(name):
    columns, _ = fit(name)
    points = np.linspace(-30, 30, 2001)
    x = columns.inverse_rows(points[:, None])
    assert np.isfinite(x).all()
    kind = columns.columns[0].kind
    assert (x >= kind.low).all()
    assert (x <= kind.high).all()
    if kind.name == "whole":
        np.testing.assert_array_equal(x, np.rint(x))
    assert (columns.boxes(x).log_slope > -inf).all()


def test_draws_of_a_row_do_not_depend_on_the_rows_beside_it():
    columns, X = fit("zeros", "counts", "normal")
    alone = list(columns.boxes(X[7:8]).proposals(4))
    among = list(columns.boxes(X[:20]).proposals(4))
    for (z, w), (all_z, all_w) in zip(alone, among, strict=True):
        np.testing.assert_array_equal(z[0], all_z[7])
        assert w[0] == all_w[7]


def test_impossible_values_have_no_density():
    columns, _ = fit("zeros", "days")
    _, log_weight = next(columns.boxes(np.array([[-1.0, 3], [1.0, 3.5], [1, 3]])).proposals(1))
    assert log_weight[0] == log_weight[1] == -inf
    assert np.isfinite(log_weight[2])


def test_whole_numbers_end_where_the_rows_say_so_and_go_on_where_they_do_not():
    def values(name, numbers):
        columns, _ = fit(name)
        return columns.boxes(np.array(numbers, float)[:, None]).log_slope[:, 0] > -inf

    assert values("rating", [0, 1, 5, 6]).tolist() == [False, True, True, False]
    assert values("counts", [-1, 0, 40, 4000]).tolist() == [False, True, True, True]
    assert values("many", [-1, 0, 4000]).tolist() == [False, True, True]
    assert values("binary", [-1, 2]).tolist() == [False, False]


@pytest.mark.parametrize("name", ["scattered", "codes"])
def test_whole_numbers_that_no_row_has_are_improbable_but_not_impossible(name):
    columns, X = fit(name)
    every = np.arange(X.min(), X.max() + 1)[:, None]
    boxes = columns.boxes(every)
    assert np.isfinite(boxes.log_slope).all()
    drawn = boxes.draw(np.random.default_rng(0))
    np.testing.assert_array_equal(columns.inverse_rows(drawn), every)
    # And in their order.
    assert (np.diff(drawn[:, 0]) > 0).all()


def test_without_probabilities_columns_are_a_bijection():
    names = ("normal", "heavy", "exponential", "below", "share", "angle", "degrees")
    columns, X = fit(*names)
    with jax.enable_x64(True):
        x = jnp.asarray(X[:300])
        z, log_det = jax.vmap(columns.transform_and_log_det)(x)
        points, log_weight = next(columns.boxes(X[:300]).proposals(1))
        np.testing.assert_allclose(z, points, atol=1e-9)
        np.testing.assert_allclose(log_det, log_weight, atol=1e-9)
        slopes = jax.vmap(jax.jacfwd(lambda x: columns.transform(x)))(x)
        np.testing.assert_allclose(jnp.linalg.slogdet(slopes)[1], log_det, atol=1e-7)
        back, inverse_log_det = jax.vmap(columns.inverse_and_log_det)(z)
        np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-6)
        np.testing.assert_allclose(back[:, :-1], x[:, :-1], atol=1e-6)


def test_a_density_does_not_vanish_where_the_data_end_abruptly():
    # The edge of an exponential law: a standard normal of the points is half as dense as the truth
    # or more, from a hundredth of the scale on.
    rng = np.random.default_rng(3)
    interval = fit_interval(rng.exponential(1.0, 4000), 0.0)
    x = np.array([0.01, 0.1, 1.0])
    z, log_slope = interval.forward(x)
    assert (norm.logpdf(z) + log_slope - -x > np.log(0.5)).all()


def test_one_map_serves_slots_with_ends():
    interval = Interval(0.0, 1.0, mean=0.2, sd=0.7, edge=0.1, slot_low=-2.0, slot_high=3.0)
    x = np.linspace(1e-4, 1 - 1e-4, 2001)
    z, log_slope = interval.forward(x)
    assert z.min() > -2
    assert z.max() < 3
    np.testing.assert_allclose(np.gradient(z, x)[5:-5], np.exp(log_slope)[5:-5], rtol=0.03)
    np.testing.assert_allclose(interval.inverse(z), x, atol=1e-8)


def test_columns_are_the_same_after_a_round_through_json():
    columns, _ = fit(*COLUMNS)
    text = json.dumps(columns.to_values(), allow_nan=False)
    assert Columns.from_values(json.loads(text)) == columns


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[0].pop("levels"),
        lambda v: v[0]["kind"].update(name="magic"),
        lambda v: v[0]["kind"].update(period=0.0),
        lambda v: v[0]["levels"][0].update(scale=-1.0),
        lambda v: v[0]["levels"][0].update(scale="wide"),
        lambda v: v[0]["levels"][0].update(more=1.0),
        lambda v: v[0]["intervals"][0].update(is_whole=1),
        lambda v: v[0]["intervals"][0].update(sd=True),
        lambda v: v[0].update(levels=[], intervals=[]),
        lambda v: v.clear(),
    ],
)
def test_damaged_columns_are_refused(change):
    values = json.loads(json.dumps(fit("zeros")[0].to_values()))
    change(values)
    with pytest.raises(ValueError, match=r"."):
        Columns.from_values(values)


def test_weights_count_as_copies_do():
    x = np.concatenate([np.zeros(40), np.random.default_rng(4).lognormal(size=400)])[:, None]
    weights = np.where(x[:, 0] == 0, 3.0, 1.0)
    copies = np.concatenate([x, x[:40], x[:40]])
    weighted = Columns.fit(x, {}, ("x",), weights=weights).columns[0]
    copied = Columns.fit(copies, {}, ("x",)).columns[0]
    assert [level.value for level in weighted.levels] == [0.0]
    assert weighted.levels[0].high == pytest.approx(copied.levels[0].high, abs=0.15)


def test_a_rare_value_alone_between_two_piles_is_one_as_well():
    rng = np.random.default_rng(0)
    rows = rng.choice([0.1, 0.7, 2.1, np.nan], (5000, 1), p=[0.25, 0.005, 0.25, 0.495])
    rows = np.where(np.isnan(rows), rng.normal(100, 10, rows.shape), rows)
    columns = Columns.fit(rows, {}, ["x"])
    drawn = columns.inverse_rows(columns.boxes(rows).draw(rng))
    np.testing.assert_allclose(drawn, rows, atol=1e-4)
    np.testing.assert_array_equal(drawn[rows < 3], rows[rows < 3])


def test_a_value_between_piles_where_no_row_was_is_improbable_but_not_impossible():
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.repeat([0.0, 0.5, 1.0], 200), 2 + rng.normal(size=400) ** 2])
    columns = Columns.fit(rows[:, None], {}, ("x",))
    boxes = columns.boxes(np.array([[0.25], [0.7], [0.5]]))
    assert np.isfinite(boxes.log_slope).all()
    back = columns.inverse_rows(columns.transform_rows(rows[:, None]))
    np.testing.assert_allclose(back[:, 0], rows, rtol=1e-9)
