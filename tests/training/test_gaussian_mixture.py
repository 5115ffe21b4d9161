"""The mixture that cross-validation chooses, and its share beside a flow."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowebm.training.gaussian_mixture import fit_gaussian_mixture, share_of_mixture
from flowjax.distributions import Normal
from scipy.integrate import quad

from flowebm.training import gaussian_mixture


def rows_of(n, centres, sd=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.asarray(centres, float)
    rows = centres[rng.integers(len(centres), size=n)]
    return jnp.asarray(rows + sd * rng.normal(size=rows.shape), float)


THREE = [[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]]


def n_components(mixture):
    return paramax.unwrap(mixture).log_normalized_weights.size


def test_as_many_components_as_there_are():
    """300 rows of three far Gaussians. Fits of other numbers are worse in every fold but for a
    fourth Gaussian, which costs next to nothing and gains nothing."""
    mixture = fit_gaussian_mixture(jr.key(0), rows_of(300, THREE))
    assert n_components(mixture) in (3, 4)
    fresh = rows_of(4000, THREE, seed=1)
    truth = jnp.log(
        jnp.mean(
            jnp.stack([jnp.exp(Normal(jnp.array(c), 0.3).log_prob(fresh)) for c in THREE]), axis=0
        )
    )
    # 17 parameters of 300 rows cost 17 / 600 = 0.028 nats; 0.1 is twice as many and more.
    assert float(jnp.mean(truth - mixture.log_prob(fresh))) < 0.1


def test_one_gaussian_where_there_is_one():
    assert n_components(fit_gaussian_mixture(jr.key(0), rows_of(60, [[0.0, 0.0, 0.0]], 1.0))) == 1


def test_rows_that_count_more():
    """Those of one Gaussian ten times: its share is ten elevenths."""
    left, right = rows_of(50, [[-2.0, 0.0]]), rows_of(50, [[2.0, 0.0]])
    data = jnp.concatenate([left, right])
    rows = np.repeat(np.arange(100), np.where(np.arange(100) < 50, 10, 1))
    mixture = paramax.unwrap(fit_gaussian_mixture(jr.key(0), data, rows))
    weights = np.exp(np.asarray(mixture.log_normalized_weights))
    points = jnp.array([[-2.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    ratio = np.exp(np.diff(np.asarray(mixture.log_prob(points))))
    assert ratio == pytest.approx(0.1, rel=0.5)


def test_copies_of_a_row_are_in_one_fold():
    """Few rows of noise, each a hundred times: copies on both sides would be learned by heart, by
    as many Gaussians as there may be."""
    data = rows_of(12, [[0.0, 0.0]], 1.0)
    assert n_components(fit_gaussian_mixture(jr.key(0), data, np.repeat(np.arange(12), 100))) == 1


@pytest.mark.parametrize("n", [2, 3, 8])
def test_very_few_rows(n):
    data = rows_of(n, [[0.0, 0.0, 0.0, 0.0]], 1.0)
    assert np.isfinite(fit_gaussian_mixture(jr.key(0), data).log_prob(data)).all()


def test_points_of_any_shape():
    data = rows_of(50, THREE)
    flat, shaped = (
        fit_gaussian_mixture(jr.key(0), rows).log_prob(rows) for rows in (data, data[:, :, None])
    )
    np.testing.assert_allclose(shaped, flat, rtol=1e-6)


def test_the_first_is_fitted_when_no_time_is_left(monkeypatch):
    monkeypatch.setattr(gaussian_mixture, "RIDGES", (1e-3,))
    mixture = fit_gaussian_mixture(jr.key(0), rows_of(300, THREE), out_of_time=lambda: True)
    assert n_components(mixture) == 1


def posterior_mean(of_flow, of_mixture):
    def moment(power):
        def integrand(s):
            return s**power * np.prod((1 - s) * np.exp(of_flow) + s * np.exp(of_mixture))

        return quad(integrand, 0, 1)[0]

    return moment(1) / moment(0)


@pytest.mark.parametrize("lead", [0.0, 0.3, -2.0])
def test_the_share_is_the_posterior_mean(lead):
    rng = np.random.default_rng(0)
    of_flow = rng.normal(size=15)
    of_mixture = of_flow + lead + rng.normal(size=15)
    share = share_of_mixture(jnp.asarray(of_flow), jnp.asarray(of_mixture))
    assert share == pytest.approx(posterior_mean(of_flow, of_mixture), abs=0.012)


def test_weighted_points_count_for_the_share_as_copies_do():
    of_flow, of_mixture = jnp.array([0.0, 1.0]), jnp.array([2.0, 0.0])
    weights = jnp.array([0.75, 0.25])
    copies = jnp.array([0, 0, 0, 1])
    weighted = share_of_mixture(jnp.tile(of_flow, 2), jnp.tile(of_mixture, 2), jnp.tile(weights, 2))
    assert weighted == share_of_mixture(of_flow[copies], of_mixture[copies])


def test_neither_is_given_up():
    far = jnp.full(1000, 50.0)
    assert share_of_mixture(far, 0 * far) == 0.01
    assert share_of_mixture(0 * far, far) == 0.99
