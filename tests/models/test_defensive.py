"""The defensive mixture: exact draws, exact densities, bounded weights, a wide part that stays."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flowjax.distributions import Normal, StandardNormal
from scipy.stats import binomtest, kstest, norm

from flowebm.models.defensive import DefensiveMixture, draw
from flowebm.models.trainable import partition_trainable

FRACTION = 0.05


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@eqx.filter_jit
def log_prob(q, x):
    return q.log_prob(x)


def mixture(distance, fraction=FRACTION):
    """A narrow part at the origin and a wide one, `distance` away in both coordinates."""
    wide = Normal(jnp.full(2, distance), jnp.full(2, 3.0))
    return DefensiveMixture(Normal(jnp.zeros(2), jnp.full(2, 0.5)), wide, fraction)


def test_density_is_the_mixture_of_the_densities():
    q = mixture(1.0)
    x = jax.random.normal(jax.random.key(0), (50, 2))
    narrow, wide = norm(0, 0.5).pdf(x).prod(axis=1), norm(1, 3).pdf(x).prod(axis=1)
    expected = np.log((1 - FRACTION) * narrow + FRACTION * wide)
    np.testing.assert_allclose(log_prob(q, x), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [7, 4000])
def test_every_draw_has_its_own_log_density(n):
    q = mixture(1.0)
    x, of_draws = jax.jit(lambda key: q.draw(key, n))(jax.random.key(n))
    assert x.shape == (n, 2)
    np.testing.assert_allclose(of_draws, log_prob(q, x), rtol=1e-13)


def few_at_a_time(q, key, n):
    """Draws by five: many batches have more wide draws than the mean."""
    return jax.vmap(lambda key: q.draw(key, 5)[0])(jax.random.split(key, n // 5)).reshape(n, 2)


@pytest.mark.parametrize(
    "method",
    [lambda q, key, n: q.draw(key, n)[0], few_at_a_time, lambda q, key, n: q.sample(key, (n,))],
    ids=["draw", "few at a time", "sample"],
)
def test_draws_follow_the_mixture(method):
    """Number and law of the draws of either part; false-alarm rate 6 × 1.5e-5 < 1e-4."""
    q, n = mixture(100.0, fraction=0.2), 20_000
    sample = jax.jit(lambda key: method(q, key, n))
    x = np.asarray(sample(jax.random.key(1)))
    is_wide = x[:, 0] > 50
    assert binomtest(is_wide.sum(), n, 0.2).pvalue > 1.5e-5
    for column in x.T:
        assert kstest(column[~is_wide], norm(0, 0.5).cdf).pvalue > 1.5e-5
        assert kstest(column[is_wide], norm(100, 3).cdf).pvalue > 1.5e-5
    # The order says nothing: wide draws are as frequent in the first half.
    assert binomtest(is_wide[: n // 2].sum(), is_wide.sum()).pvalue > 1.5e-5


def test_importance_weights_of_the_wide_density_are_bounded():
    q = mixture(1.0)
    x = 100 * jax.random.normal(jax.random.key(2), (1000, 2))
    assert np.max(log_prob(q.wide, x) - log_prob(q, x)) <= -np.log(FRACTION) + 1e-12


def test_a_frozen_wide_part_has_no_trainable_leaves():
    q = mixture(1.0)
    frozen = DefensiveMixture(q.flow, paramax.non_trainable(q.wide), FRACTION)
    params, _ = partition_trainable(frozen)
    assert jax.tree.leaves(params.wide) == []
    assert len(jax.tree.leaves(params)) == len(jax.tree.leaves(params.flow)) > 0
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(log_prob(frozen, x), log_prob(q, x))


def test_draw_takes_the_cheapest_way_of_any_proposal():
    draw_five = eqx.filter_jit(lambda key, proposal: draw(key, proposal, 5))
    x, of_draws = draw_five(jax.random.key(0), StandardNormal((2,)))
    np.testing.assert_allclose(of_draws, norm.logpdf(x).sum(axis=1), rtol=1e-12)
    q = mixture(1.0)
    key = jax.random.key(3)
    drawn = eqx.filter_jit(lambda key, q: q.draw(key, 5))(key, q)
    np.testing.assert_array_equal(draw_five(key, q)[0], drawn[0])


def test_bad_mixtures_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\).*must be the same"):
        DefensiveMixture(StandardNormal((2,)), StandardNormal((3,)))
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"inside \(0, 1\); got {fraction}"):
            mixture(1.0, fraction)
