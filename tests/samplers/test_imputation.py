"""Imputed entries follow the model's conditional distribution, which mixtures know exactly."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import norm

from flowebm.data import GaussianMixture4, LogitPixels, Standardise
from flowebm.layers import FullLinear
from flowebm.models import EBFlow
from flowebm.models.energy import AbstractEnergyModel
from flowebm.samplers import imputation, impute, impute_rows
from flowebm.samplers.model_samples import ModelSamples

ROWS, STEPS, POOL = 1500, 40, 512


class GaussianMixture(NamedTuple):
    """Gaussians of one covariance in three dimensions, with their conditional distributions."""

    weights: np.ndarray
    means: np.ndarray
    covariance: np.ndarray

    def sample(self, seed, n):
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((n, 3)) @ np.linalg.cholesky(self.covariance).T
        return self.means[rng.choice(len(self.weights), n, p=self.weights)] + noise

    def conditional(self, x, given, j):
        """Of entry `j` given others of one point: the components' weights, means and deviation."""
        gain, residual, log_weights = np.zeros(0), x[given] - self.means[:, given], 0.0
        if given:
            inverse = np.linalg.inv(self.covariance[np.ix_(given, given)])
            gain = self.covariance[j, given] @ inverse
            log_weights = -0.5 * np.einsum("ki,ij,kj->k", residual, inverse, residual)
        weights = self.weights * np.exp(log_weights - np.max(log_weights))
        variance = self.covariance[j, j] - gain @ self.covariance[given, j]
        return weights / weights.sum(), self.means[:, j] + residual @ gain, variance**0.5

    def uniforms(self, points, missing):
        """The missing entries' distribution functions, one after the other: uniform if exact.

        Each entry is given what was observed and the missing entries before it.
        """
        values = []
        for x, gaps in zip(points, missing, strict=True):
            given = list(np.flatnonzero(~gaps))
            for j in np.flatnonzero(gaps):
                weights, means, sd = self.conditional(x, given, j)
                values.append(weights @ norm.cdf(x[j], means, sd))
                given.append(j)
        return np.array(values)


class Traces:
    """How often the energy was traced: once a program, wherever it stands in it."""

    number = 0


class Model(AbstractEnergyModel):
    """The mixture as an energy; its arrays are the leaves, so that all mixtures share a program."""

    log_weights: jax.Array
    means: jax.Array
    precision: jax.Array
    traces: Traces = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True, default=(3,))

    def energy(self, x):
        self.traces.number += 1
        apart = x - self.means
        exponents = -0.5 * jnp.einsum("ki,ij,kj->k", apart, self.precision, apart)
        return -jax.nn.logsumexp(self.log_weights + exponents)


CORRELATED = np.array([[1.0, 0.7, 0.2], [0.7, 0.8, 0.3], [0.2, 0.3, 0.5]])
REFERENCE = GaussianMixture4(3)

GAUSSIAN = GaussianMixture(np.full(4, 0.25), np.tile([1.0, -2.0, 0.5], (4, 1)), CORRELATED)

WIDE = GAUSSIAN._replace(covariance=2.25 * CORRELATED)

#: The same in three units of measurement.
UNITS = np.array([1.0, 1e-3, 30.0])
IN_UNITS = GaussianMixture(
    GAUSSIAN.weights, GAUSSIAN.means * UNITS, CORRELATED * np.outer(UNITS, UNITS)
)

#: The reference mixture's weights and means, with correlated entries in each mode.
FOUR_MODES = GaussianMixture(
    np.array([0.5, 0.25, 0.15, 0.1]), np.asarray(REFERENCE.means, float), 0.49 * CORRELATED
)


class Completed(NamedTuple):
    """Points of a mixture, independent, some entries of which were hidden and imputed."""

    points: np.ndarray
    missing: np.ndarray
    draws: np.ndarray
    global_acceptance: np.ndarray
    local_acceptance: np.ndarray
    traces: int


@pytest.fixture(scope="module")
def complete():
    """Complete points of a mixture, with donors of another one; one program for all."""
    traces = Traces()

    def run(mixture, donors, seed):
        # Every pattern of missing entries equally often: none, and all of them, too.
        missing = np.random.default_rng(seed).random((ROWS, 3)) < 0.5
        points = mixture.sample(seed + 1, ROWS)
        points[:4, 0] = [-0.0, 5e-324, 1 / 3, -7.25]
        with jax.enable_x64(True):
            arrays = np.log(mixture.weights), mixture.means, np.linalg.inv(mixture.covariance)
            model = Model(*map(jnp.asarray, arrays), traces)
            result = impute(
                jr.key(seed),
                model,
                jnp.asarray(np.where(missing, np.nan, points)),
                jnp.asarray(missing),
                donors=None if donors is None else jnp.asarray(donors.sample(seed + 2, POOL)),
                proposal="flow" if donors is None else None,  # pyright: ignore[reportArgumentType]
                n_steps=STEPS,
            )
            draws, *rates = (np.asarray(array)[0] for array in result)
        return Completed(points, missing, draws, *rates, traces=traces.number)

    return run


@pytest.fixture(scope="module")
def gaussian(complete):
    """Points of a Gaussian; the donors are too wide by half."""
    return complete(GAUSSIAN, WIDE, seed=0)


@pytest.fixture(scope="module")
def four_modes(complete):
    """Points of four modes; the donors' modes are equally frequent."""
    return complete(FOUR_MODES, FOUR_MODES._replace(weights=np.full(4, 0.25)), seed=10)


def test_draws_follow_the_conditional_distributions_of_a_gaussian(gaussian, p_value):
    """Independent rows, every pattern of missing entries; false-alarm rate 1e-5.

    The same draws do not pass for those of a Gaussian whose deviations differ by an eighth.
    """
    assert p_value(GAUSSIAN.uniforms(gaussian.draws, gaussian.missing)) > 1e-5
    for factor in (7 / 8, 8 / 7):
        other = GAUSSIAN._replace(covariance=factor**2 * CORRELATED)
        assert p_value(other.uniforms(gaussian.draws, gaussian.missing)) < 1e-6


def test_entries_may_have_any_units(complete, gaussian, p_value):
    """The same moves are made and accepted in units of any size; false-alarm rate 1e-5."""
    wide = IN_UNITS._replace(covariance=2.25 * IN_UNITS.covariance)
    draws = complete(IN_UNITS, wide, seed=0)
    assert p_value(IN_UNITS.uniforms(draws.draws, draws.missing)) > 1e-5
    some = gaussian.missing.any(axis=1)
    assert (draws.missing == gaussian.missing).all()
    np.testing.assert_allclose(
        draws.local_acceptance[some].mean(), gaussian.local_acceptance[some].mean(), atol=0.02
    )


def test_the_modes_of_a_conditional_have_the_models_weights(four_modes, p_value):
    """Although the donors' modes have others; false-alarm rate 1e-5.

    The same draws do not pass for those of a mixture with the donors' weights.
    """
    assert p_value(FOUR_MODES.uniforms(four_modes.draws, four_modes.missing)) > 1e-5
    even = FOUR_MODES._replace(weights=np.full(4, 0.25))
    assert p_value(even.uniforms(four_modes.draws, four_modes.missing)) < 1e-6


@pytest.mark.parametrize("mixture", ["gaussian", "four_modes"])
def test_observed_entries_stay_bit_for_bit(request, mixture):
    points, missing, draws, *_ = request.getfixturevalue(mixture)
    assert draws[~missing].tobytes() == points[~missing].tobytes()
    assert np.isfinite(draws).all()
    assert not np.any(draws[missing] == points[missing])


def test_donors_are_the_models_samples_where_none_are_given(gaussian, complete, monkeypatch):
    """Samples that its flow drew, which for this test are those of the fixture."""

    def sample(key, model, proposal, n):
        assert isinstance(model, Model)
        assert (proposal, n) == ("flow", imputation.POOL)
        return ModelSamples(jnp.asarray(WIDE.sample(2, POOL)), jnp.ones(()), jnp.ones(()))

    monkeypatch.setattr(imputation, "sample_model", sample)
    again = complete(GAUSSIAN, None, seed=0)
    np.testing.assert_array_equal(again.draws, gaussian.draws)


def test_acceptance_rates_are_those_of_tuned_moves(gaussian):
    some = gaussian.missing.any(axis=1)
    assert 0.5 < gaussian.local_acceptance[some].mean() < 0.65
    assert (gaussian.global_acceptance[some] > 0.05).all()


def test_no_pattern_of_missing_entries_and_no_model_is_compiled_anew(gaussian, four_modes):
    assert (gaussian.missing != four_modes.missing).any()
    assert gaussian.traces == four_modes.traces > 0


@pytest.fixture
def flow():
    r"""$x = W^{-1} u$: a Gaussian, which an EBFlow can be, of variances 1 and correlation 0.8."""
    return EBFlow([FullLinear(jnp.array([[1.0, 0.0], [-4 / 3, 5 / 3]]), jnp.zeros(2))])


def test_rows_are_imputed_in_the_units_of_the_data(flow, p_value, monkeypatch):
    """Draws of an EBFlow, two of each row, through a map that scales; false-alarm rate 1e-5.

    They do not pass for those of a Gaussian of less correlation.
    """
    monkeypatch.setattr(imputation, "POOL", POOL)
    preprocessing = Standardise(
        [10.0, -3.0], [4.0, 0.2], arcsinh_scale=[0.3, 0.0], center=[8.0, 0.0]
    )
    rows = preprocessing.inverse_rows(np.asarray(flow.sample(jr.key(0), (ROWS // 2,))))
    rows[::2, 0], rows[1::2, 1] = np.nan, np.nan
    rows[::5] = np.nan
    rows[-1] = [7.0, 0.1]
    result = impute_rows(jr.key(1), flow, flow, preprocessing, rows, n_draws=2, n_steps=STEPS)
    observed = ~np.isnan(rows)
    assert np.isnan(result.global_acceptance[:, -1]).all()
    assert np.isfinite(result.global_acceptance[:, :-1]).all()
    for draws in result.draws:
        assert draws[observed].tobytes() == rows[observed].tobytes()
    assert not np.any(result.draws[0][~observed] == result.draws[1][~observed])
    law = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.array([[1.0, 0.8], [0.8, 1.0]]))
    z = preprocessing.transform_rows(result.draws).reshape(-1, 2)
    assert p_value(law.uniforms(z, np.tile(~observed, (2, 1)))) > 1e-5
    weaker = law._replace(covariance=np.array([[1.0, 0.6], [0.6, 1.0]]))
    assert p_value(weaker.uniforms(z, np.tile(~observed, (2, 1)))) < 1e-6


def test_rows_without_gaps_pass_unchanged(flow):
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    preprocessing = Standardise(np.zeros(2), np.ones(2))
    result = impute_rows(jr.key(0), flow, flow, preprocessing, rows, n_draws=3)
    np.testing.assert_array_equal(result.draws, np.stack([rows] * 3))


def test_values_outside_the_datas_range_are_refused(flow):
    rows = np.array([[1.0, 2.0], [np.nan, 300.0]])
    with pytest.raises(ValueError, match=r"The value 300 in row 2 is outside the range"):
        impute_rows(jr.key(0), flow, flow, LogitPixels((2,)), rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": jnp.ones((2, 4), bool)}, r"points has shape \(2, 3\) and missing \(2, 4\)"),
        ({"donors": None}, "pass proposal= or donors="),
        ({"donors": jnp.ones((1, 3))}, r"donors has shape \(1, 3\).* two rows or more"),
        ({"donors": jnp.ones((5, 2))}, r"donors has shape \(5, 2\).* shape \(3,\)"),
        ({"n_draws": 0}, "n_draws must be 1 or more; got 0"),
        ({"n_steps": 1}, "n_steps must be 2 or more; got 1"),
        ({"n_candidates": 0}, "n_candidates must be 1 or more; got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    arguments = {"points": jnp.ones((2, 3)), "missing": jnp.ones((2, 3), bool)}
    arguments |= {"donors": jnp.ones((5, 3))} | change
    points, missing = arguments.pop("points"), arguments.pop("missing")
    with pytest.raises(ValueError, match=message):
        impute(jr.key(0), lambda x: -jnp.sum(x**2), points, missing, **arguments)
