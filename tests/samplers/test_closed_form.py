"""Conditional draws and marginal densities of stacks of mixtures, against quadrature."""

import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flowjax.bijections import Invert
from flowjax.distributions import Normal, Transformed
from scipy.stats import kstest

from flowebm.models import EnergyModel
from flowebm.models.bounded import NoTilt
from flowebm.models.gaussian_mixture import gaussian_mixture_of
from flowebm.models.marginals import fit_marginals
from flowebm.models.stack import Stack, log_probs
from flowebm.models.tilts import MLPTilt
from flowebm.samplers.closed_form import ClosedForm

COVARIANCES = [np.array([[1.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.2], [-0.2, 0.3]])]


def model():
    """Of two components, one of points and one of their transforms."""
    rows = np.random.default_rng(0).gamma(2.0, size=(500, 2))
    mixture = gaussian_mixture_of(np.array([0.4, 0.6]), np.array([[0.0, 1], [3, 2]]), COVARIANCES)
    marginals = paramax.non_trainable(fit_marginals(rows))
    parts = [mixture, Transformed(mixture, Invert(marginals))]
    return EnergyModel(NoTilt(), Stack(parts, jnp.log(jnp.array([0.3, 0.7]))))


@pytest.fixture(scope="module")
def exact():
    return ClosedForm.of(model())


def line(first):
    """Points with the first coordinate given, the second along a fine grid."""
    second = np.linspace(-10, 40, 20_001)
    density = np.exp(log_probs(model().base, np.column_stack([np.full(20_001, first), second])))
    return second, density, np.cumsum(density) * (second[1] - second[0])


def test_the_density_of_what_is_there_is_the_integral_over_the_rest(exact):
    for first in (-0.5, 0.6, 2.0, 5.0):
        integral = line(first)[2][-1]
        assert np.exp(exact.log_prob(np.array([[first, np.nan]])))[0] == pytest.approx(
            integral, rel=1e-3
        )
    assert exact.log_prob(np.full((1, 2), np.nan))[0] == pytest.approx(0, abs=1e-6)
    whole = np.array([[0.3, 1.2], [2.0, 0.1]])
    np.testing.assert_allclose(exact.log_prob(whole), log_probs(model().base, whole), rtol=1e-6)


@pytest.mark.parametrize("first", [0.6, 3.0])
def test_draws_follow_the_conditional_distribution(exact, first):
    """False-alarm rate 2e-5 each."""
    second, _, cumulative = line(first)
    rows = np.tile([first, np.nan], (5000, 1))
    filled = exact.fill(np.random.default_rng(1), rows)
    np.testing.assert_array_equal(filled[:, 0], first)
    cdf = cumulative / cumulative[-1]
    assert kstest(filled[:, 1], lambda y: np.interp(y, second, cdf)).pvalue > 2e-5


def test_rows_are_taken_some_at_a_time(exact, monkeypatch):
    rows = np.column_stack([np.linspace(0, 3, 50), np.full(50, np.nan)])
    at_once = exact.log_prob(rows)
    monkeypatch.setattr("flowebm.samplers.closed_form.MOST_NUMBERS", 100)
    np.testing.assert_allclose(exact.log_prob(rows), at_once, rtol=1e-12)
    assert exact.fill(np.random.default_rng(0), rows).shape == (50, 2)
    assert exact.fill(np.random.default_rng(0), rows[:0]).shape == (0, 2)


def test_other_models_have_none():
    mixture = gaussian_mixture_of(np.array([1.0]), np.zeros((1, 2)), COVARIANCES[:1])
    assert ClosedForm.of(EnergyModel(NoTilt(), mixture)) is not None
    assert ClosedForm.of(EnergyModel(NoTilt(), Normal(jnp.zeros(2)))) is None
    tilted = EnergyModel(MLPTilt((2,), width=4, depth=1, key=jnp.zeros(2, jnp.uint32)), mixture)
    assert ClosedForm.of(tilted) is None
