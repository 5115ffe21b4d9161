"""Weights to start from: a key's own numbers, on the host and where JAX traces."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from scipy.stats import kstest, norm

from flowebm.models.random_start import Draws, seed_of
from flowebm.models.tilts import MLPTilt


def test_a_key_determines_them_and_another_one_others():
    first, same, other = (Draws(jr.key(number)) for number in (0, 0, 1))
    a, b, c = (draws.uniform((50,), 2.0) for draws in (first, same, other))
    np.testing.assert_array_equal(a, b)
    assert np.abs(np.asarray(a) - np.asarray(c)).max() > 0.1
    # One array after the other: no two are alike.
    assert np.abs(np.asarray(first.uniform((50,), 2.0)) - np.asarray(a)).max() > 0.1
    assert len({seed_of(jr.fold_in(jr.key(0), i)) for i in range(100)}) == 100


def test_they_have_their_law_in_a_trace_too():
    """False-alarm rate 2e-5 each."""

    def draw(key):
        draws = Draws(key)
        return draws.uniform((5000,), 2.0), draws.normal((5000,), 3.0)

    for uniform, normal in (draw(jr.key(0)), jax.jit(draw)(jr.key(0))):
        assert kstest(np.asarray(uniform) / 4 + 0.5, "uniform").pvalue > 2e-5
        assert kstest(np.asarray(normal), norm(0, 3).cdf).pvalue > 2e-5


def test_an_ensemble_of_tilts_is_made_under_vmap():
    tilts = eqx.filter_vmap(lambda key: MLPTilt((2,), width=4, depth=2, key=key))(
        jr.split(jr.key(0), 3)
    )
    weights = np.asarray(tilts.layers[0].weight)
    assert weights.shape == (3, 4, 2)
    assert np.abs(weights).max() <= 2**-0.5
    assert np.abs(weights[0] - weights[1]).max() > 0.01
