"""The rings far out and at their centre."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.data.targets import Rings


@pytest.fixture(scope="module")
def score():
    return jax.jit(jax.grad(Rings()._log_prob))


def test_the_density_is_flat_at_the_centre(score):
    np.testing.assert_array_equal(score(jnp.zeros(2)), 0)


def test_the_score_points_inwards_and_is_finite_far_out(score):
    x = jnp.array([300.0, -400.0])
    np.testing.assert_allclose(score(x), -x / 500 * (500 - 3) / 0.04, rtol=1e-3)


def test_modes_are_the_inner_and_the_outer_ring():
    target = Rings()
    points = jnp.array([[0.0, 0.9], [-3.2, 0.0]])
    assert [int(target.mode(x)) for x in points] == [0, 1]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_rings_that_would_touch_are_refused(noise):
    with pytest.raises(ValueError, match="noise"):
        Rings(noise)
