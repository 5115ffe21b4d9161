"""Shares of a stack: the posterior mean, against quadrature."""

import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal
from scipy.integrate import quad

from flowebm.training.candidate import Candidate, better_of, gain
from flowebm.training.row_weights import RowWeights
from flowebm.training.rows import Rows
from flowebm.training.stages.stacking import posterior_mean_shares, stack


def posterior_mean(of_one, of_other):
    def moment(power):
        def integrand(s):
            return s**power * np.prod((1 - s) * np.exp(of_one) + s * np.exp(of_other))

        return quad(integrand, 0, 1)[0]

    return moment(1) / moment(0)


@pytest.mark.parametrize("lead", [0.0, 0.3, -2.0])
def test_the_share_is_the_posterior_mean(lead):
    """Of 400 sweeps, whose error is a few hundredths of the posterior's width of about 0.2."""
    rng = np.random.default_rng(0)
    of_one = rng.normal(size=15)
    of_other = of_one + lead + rng.normal(size=15)
    shares = posterior_mean_shares(0, np.stack([of_one, of_other]))
    assert shares.sum() == pytest.approx(1)
    assert shares[1] == pytest.approx(posterior_mean(of_one, of_other), abs=0.08)


@pytest.mark.parametrize("components", [2, 3])
def test_all_points_of_one_density(components):
    """(n + 1) / (n + k), and what no density explains is left to the others alike."""
    log_probs = np.full((components, 20), -60.0)
    log_probs[0] = 0
    shares = posterior_mean_shares(0, log_probs)
    expected = np.array([21, *[1] * (components - 1)]) / (20 + components)
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def test_weighted_points_count_as_copies_do():
    of_one, of_other = np.array([0.0, 1.0, 0.5, 9.0]), np.array([1.5, 0.0, 2.0, -9.0])
    shares = posterior_mean_shares(
        0, np.stack([of_one, of_other]), np.array([0.5, 0.25, 0.25, 0.0])
    )
    copies = np.array([0, 0, 1, 2])
    assert shares[1] == pytest.approx(posterior_mean(of_one[copies], of_other[copies]), abs=0.05)


def test_points_without_weight_do_not_count():
    log_probs = np.zeros((2, 200))
    log_probs[1, :100], log_probs[1, 100:] = 30.0, -30.0
    weights = np.where(np.arange(200) < 100, 1 / 100, 0.0)
    assert posterior_mean_shares(0, log_probs, weights)[1] > 0.98


def rows():
    rng = np.random.default_rng(0)
    points = jnp.asarray(np.where(rng.random(2000) < 0.7, -2.0, 2.0) + rng.normal(size=2000))
    return Rows(points[:1000, None], points[1000:, None])


def candidates():
    parts = {"left": (-2.0, 1.0), "right": (2.0, 1.0), "nowhere": (50.0, 1.0)}
    return [
        Candidate.of(name, Normal(jnp.array([m]), jnp.array([s])), rows())
        for name, (m, s) in parts.items()
    ]


def test_a_stack_finds_its_shares_and_leaves_out_what_has_none():
    """The share's error is (0.7 × 0.3 / 1000)^½ = 0.015; five of them."""
    stacked = stack(0, candidates(), rows())
    assert len(stacked.density.components) == 2
    assert float(jnp.exp(stacked.density.log_shares[0])) == pytest.approx(0.7, abs=0.075)
    assert "left" in stacked.name
    assert "nowhere" not in stacked.name
    direct = stacked.density.log_prob(rows().validation)
    np.testing.assert_allclose(stacked.log_prob, direct, atol=1e-4)


def test_the_richer_must_gain_more_than_an_error():
    left, right, _ = candidates()
    value, stderr = gain(left, right, rows())
    assert value > 5 * stderr > 0
    assert better_of(right, left, rows()) is left
    assert better_of(left, right, rows()) is left
    same = left._replace(name="same")
    assert better_of(left, same, rows()) is left


def test_gains_are_weighted():
    left, right, _ = candidates()
    is_right = (rows().validation[:, 0] > 0).astype(float)
    weighted = Rows(rows().train, rows().validation, RowWeights.of(jnp.ones(1000), is_right))
    assert gain(left, right, weighted)[0] < 0 < gain(left, right, rows())[0]
