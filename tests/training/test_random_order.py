"""The random order of rows is a permutation, another for each key, and favours no row."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import chi2

from flowebm.training.random_order import random_order


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 100, 1013, 65_537])
def test_every_row_stands_at_one_place(n):
    rows = jax.jit(random_order, static_argnums=1)(jr.key(n), n, jnp.arange(n))
    np.testing.assert_array_equal(np.sort(rows), np.arange(n))


def test_a_place_is_that_of_the_whole_order():
    whole = random_order(jr.key(0), 1000, jnp.arange(1000))
    np.testing.assert_array_equal(
        random_order(jr.key(0), 1000, jnp.array([[7], [999]])), whole[jnp.array([[7], [999]])]
    )


@pytest.mark.parametrize("n", [6, 13])
def test_pairs_of_rows_stand_at_two_places_equally_often(n):
    """20,000 orders: all n(n - 1) pairs are equally likely at places 0 and 1, and at 2 and n - 1.
    Chi-square at a level of 1e-5 for each of four tests."""
    places = jnp.arange(n)
    orders = jax.jit(jax.vmap(lambda key: random_order(key, n, places)))(
        jr.split(jr.key(1), 20_000)
    )
    for first, second in ((0, 1), (2, n - 1)):
        pairs = np.asarray(orders[:, first] * n + orders[:, second])
        counts = np.bincount(pairs, minlength=n * n).reshape(n, n)
        assert not np.diag(counts).any()
        observed = counts[~np.eye(n, dtype=bool)]
        expected = 20_000 / observed.size
        statistic = np.sum((observed - expected) ** 2 / expected)
        assert chi2.sf(statistic, observed.size - 1) > 1e-5


def test_neighbouring_places_and_rows_have_nothing_in_common():
    """Correlations of place and row, and of rows at neighbouring places, have variance 1/n.
    |z| < 5.2 fails by chance with probability 2e-7 for each of forty keys' two."""
    n = 10_007
    orders = jax.vmap(lambda key: random_order(key, n, jnp.arange(n)))(jr.split(jr.key(2), 40))
    for rows in np.asarray(orders):
        for a, b in ((np.arange(n), rows), (rows[1:], rows[:-1])):
            assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(n) < 5.2
