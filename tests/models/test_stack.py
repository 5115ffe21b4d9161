"""Stacks of densities."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowjax.bijections import Invert
from flowjax.distributions import Normal, Transformed
from scipy.stats import kstest, norm

from flowebm.models.gaussian_mixture import gaussian_mixture_of
from flowebm.models.marginals import fit_marginals
from flowebm.models.stack import AT_ONCE, Stack, draw, log_probs

pytestmark = pytest.mark.optimised

SHARES = np.array([0.2, 0.5, 0.3])
MEANS, SDS = np.array([-3.0, 0.0, 2.0]), np.array([0.5, 1.0, 0.2])


@pytest.fixture
def stack():
    parts = [Normal(jnp.array([m]), jnp.array([s])) for m, s in zip(MEANS, SDS, strict=True)]
    return Stack(parts, jnp.log(SHARES))


def cdf(x):
    return norm(MEANS, SDS).cdf(np.asarray(x)[:, None]) @ SHARES


def test_the_density_is_the_mean_of_its_parts(stack):
    x = jnp.linspace(-5, 5, 101)
    expected = norm(MEANS, SDS).pdf(np.asarray(x)[:, None]) @ SHARES
    np.testing.assert_allclose(jnp.exp(stack.log_prob(x[:, None])), expected, rtol=1e-4)
    np.testing.assert_allclose(log_probs(stack, x[:, None]), jnp.log(expected), rtol=1e-4)


@pytest.mark.parametrize("at_once", [True, False])
def test_draws_follow_it(stack, at_once):
    """By parts, and one by one; false-alarm rate 2e-5 each."""
    n = 2 * AT_ONCE + 100
    draws = draw(jr.key(0), stack, n) if at_once else stack.sample(jr.key(0), (n,))
    assert draws.shape == (n, 1)
    assert len(np.unique(np.asarray(draws))) > 0.99 * n
    assert kstest(np.asarray(draws)[:, 0], cdf).pvalue > 2e-5
    # In random order: the first half is no other than the second.
    assert kstest(np.asarray(draws)[: n // 2, 0], cdf).pvalue > 2e-5


def test_mixtures_are_computed_on_the_host():
    """Of points and of their transforms: to rounding what JAX computes, with no program for it."""
    rows = np.random.default_rng(0).gamma(2.0, size=(500, 2))
    marginals = fit_marginals(rows)
    mixture = gaussian_mixture_of([0.4, 0.6], [[0, 1], [1, 0]], [np.eye(2), 0.5 * np.eye(2)])
    of_transforms = Transformed(mixture, Invert(paramax.non_trainable(marginals)))
    both = Stack([mixture, of_transforms], jnp.log(jnp.array([0.3, 0.7])))
    np.testing.assert_allclose(log_probs(both, rows), both.log_prob(rows), rtol=1e-4, atol=1e-4)
    x = np.asarray(draw(jr.key(0), of_transforms, 20_000), np.float64)
    z = marginals.transform_rows(x)[0][:, 0]
    # False-alarm rate 2e-5.
    assert kstest(z, lambda v: 0.4 * norm.cdf(v) + 0.6 * norm(1, 0.5**0.5).cdf(v)).pvalue > 2e-5


def test_few_draws(stack):
    assert draw(jr.key(0), stack, 1).shape == (1, 1)
    assert draw(jr.key(0), Normal(jnp.zeros(2)), 3).shape == (3, 2)


def test_parts_that_do_not_fit_are_refused(stack):
    with pytest.raises(ValueError, match="as many shares as components"):
        Stack(stack.components, jnp.log(SHARES[:2]))
    with pytest.raises(ValueError, match="as many shares as components"):
        Stack([], jnp.zeros(0))
    with pytest.raises(ValueError, match="points of one shape"):
        Stack([Normal(jnp.zeros(1)), Normal(jnp.zeros(2))], jnp.log(jnp.ones(2) / 2))


def test_log_densities_of_any_number_of_points(stack):
    x = jr.normal(jr.key(1), (AT_ONCE + 1, 1))
    np.testing.assert_allclose(log_probs(stack, x), jax.vmap(stack.log_prob)(x), rtol=1e-4)
