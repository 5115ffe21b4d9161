"""The hot deck draws from the density that it reports, and its donors resemble the point."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from flowebm.samplers.hot_deck import DONORS, choose, hot_deck

DRAWS = 40_000

POINT = np.array([4.0, np.nan, -4.0])


@pytest.fixture
def donors():
    """Points whose second entry has two narrow modes and follows the first."""
    rng = np.random.default_rng(0)
    first = 3 * rng.standard_normal(2000)
    second = 0.1 * first + rng.choice([-3.0, 3.0], 2000) + 0.2 * rng.standard_normal(2000)
    return jnp.asarray(np.stack([first, second, -first], axis=1))


@pytest.fixture
def missing():
    return jnp.isnan(POINT)


def test_candidates_follow_the_density_that_is_reported(donors, missing, p_value):
    """Against its quadrature over the missing entry; false-alarm rate 1e-5.

    A tenth of the candidates comes from the wide component; they do not pass for draws of the
    density without it.
    """
    grid = np.linspace(-40, 40, 20_001)

    @jax.jit
    def drawn(key):
        proposal = hot_deck(jr.key(1), jnp.where(missing, 0.0, POINT), missing, donors).proposal
        candidates, log_q = jax.vmap(proposal.sample_and_log_prob)(jr.split(key, DRAWS))
        log_prob = jax.vmap(proposal.log_prob)
        elsewhere = candidates[:50].at[:, 0].add(3.0)
        on_grid = jnp.zeros((len(grid), 3)).at[:, 1].set(grid)
        return candidates, log_q[:50], log_prob(elsewhere), jnp.exp(log_prob(on_grid))

    candidates, log_q, log_q_elsewhere, density = map(np.asarray, drawn(jr.key(2)))
    np.testing.assert_array_equal(candidates[:, ::2], np.tile(POINT[::2], (DRAWS, 1)))
    np.testing.assert_allclose(log_q, log_q_elsewhere, rtol=1e-12)
    edge = np.cumsum(density)
    uniform = np.interp(candidates[:, 1], grid, (edge - density / 2) / edge[-1])
    assert p_value(uniform) > 1e-5
    near = np.where(np.abs(np.abs(grid) - 3) < 1.5, density, 0.0).cumsum()
    assert p_value(np.interp(candidates[:, 1], grid, near / near[-1])) < 1e-6


def test_the_start_is_the_point_with_the_missing_part_of_a_donor(donors, missing):
    start = jax.jit(
        lambda key: hot_deck(key, jnp.where(missing, 0.0, POINT), missing, donors).start
    )(jr.key(1))
    np.testing.assert_array_equal(start[::2], POINT[::2])
    (row,) = np.flatnonzero(donors[:, 1] == start[1])
    assert abs(donors[row, 0] - 4) < 1


def test_donors_are_different_and_among_the_closest(donors, missing):
    choices = jax.jit(jax.vmap(lambda key: choose(key, jnp.nan_to_num(POINT), missing, donors)))
    chosen, again = np.asarray(choices(jr.split(jr.key(3), 2)))
    assert len(set(chosen.tolist())) == DONORS
    closeness = np.argsort(np.argsort(np.abs(np.asarray(donors[:, 0]) - 4)))
    assert closeness[chosen].max() < 4 * DONORS
    assert set(chosen.tolist()) != set(again.tolist())


def test_every_donor_is_as_likely_where_nothing_is_observed(donors, p_value):
    """First donors of 20,000 points; false-alarm rate 1e-5."""
    keys, nothing = jr.split(jr.key(5), 4_000), jnp.ones(3, bool)
    first = jax.lax.map(
        lambda key: choose(key, jnp.zeros(3), nothing, donors[:100])[0], keys, batch_size=2000
    )
    assert p_value((np.asarray(first) + 0.5) / 100) > 1e-5
