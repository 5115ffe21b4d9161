"""The swirl's exact density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.data.targets import Swirl


@pytest.fixture(scope="module")
def evaluated():
    """Points on and about the band with their log-density and score, in double precision."""
    with jax.enable_x64(True):
        target = Swirl()
        x = target.sample(jax.random.key(3), (100,))
        x = jnp.concatenate([x, jax.random.uniform(jax.random.key(4), (100, 2)) * 12 - 6])
        run = jax.jit(jax.vmap(jax.value_and_grad(target._log_prob)))
        log_prob, score = run(x)
        step = jnp.array([1e-7, 0.0])
        ahead, behind = run(x + step)[0], run(x - step)[0]
        single = run(x.astype(jnp.float32))[1]
        return tuple(map(np.asarray, (x, log_prob, score, ahead, behind, single)))


def test_density_is_the_mass_of_the_spiral_within_reach(evaluated):
    """Against a count over the quantiles of t: off by one per end of an interval."""
    x, log_prob, *_ = evaluated
    count = 200_000
    t = 3 * np.pi * np.sqrt((np.arange(count) + 0.5) / count)
    spiral = np.stack([t * np.cos(t) + 0.75, -t * np.sin(t) + 1.75]) * 2.5 / 3
    half_side = 0.25 * 2.5 / 3
    within = [np.all(np.abs(spiral - p[:, None]) <= half_side, axis=0).mean() for p in x]
    density = np.array(within) / (2 * half_side) ** 2
    np.testing.assert_allclose(np.exp(log_prob), density, atol=8 / count / (2 * half_side) ** 2)


def test_off_the_band_the_density_is_zero_and_the_score_finite(evaluated):
    _, log_prob, score, _, _, single = evaluated
    assert np.isneginf(log_prob).sum() > 50
    assert np.isfinite(score).all()
    assert np.isfinite(single).all()


def test_score_is_the_derivative_of_the_log_density(evaluated):
    _, log_prob, score, ahead, behind, single = (a[:100] for a in evaluated)
    # At a kink the one-sided differences disagree and there is no derivative to compare.
    right, left = (ahead - log_prob) / 1e-7, (log_prob - behind) / 1e-7
    smooth = np.abs(right - left) < 1e-3
    assert smooth.sum() > 75
    np.testing.assert_allclose(
        score[:, 0][smooth], ((right + left) / 2)[smooth], rtol=1e-4, atol=1e-5
    )
    # Rounding x to single precision moves it by 5e-7 of a density that bends within 1e-2.
    np.testing.assert_allclose(single[smooth], score[smooth], rtol=1e-2, atol=1e-2)
