"""The bijection into a box, against its definition and a dense Jacobian."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import halfcauchy, norm

from flowebm.models.bounds import Rotation, bounds_bijection

LOWER = np.array([-2.0, 1.0, -np.inf, -np.inf])
UPPER = np.array([0.5, np.inf, -3.0, np.inf])


@pytest.fixture(scope="module", autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@eqx.filter_jit
def transform(bijection, z):
    """Points, their log-determinants, and the way back."""
    x, log_det = jax.vmap(bijection.transform_and_log_det)(z)
    return x, log_det, jax.vmap(bijection.inverse)(x)


def test_it_maps_all_of_space_into_the_box_and_back():
    bijection = bounds_bijection(LOWER, UPPER, 4)
    z = jnp.array([[0.3, -1.2, 2.0, 0.7], [-6.0, 9.0, -9.0, 5.0], [6.0, -7.0, 7.0, -5.0]])
    x, _, back = transform(bijection, z)
    assert np.all((x > LOWER) & (x < UPPER))
    np.testing.assert_allclose(back, z, rtol=1e-6)
    tangents = np.tan(np.pi / 2 * norm.cdf([-1.2, -2.0]))
    expected = [-2 + 2.5 * norm.cdf(0.3), 1 + tangents[0], -3 - tangents[1], 0.7]
    np.testing.assert_allclose(x[0], expected, rtol=1e-7)


def test_its_log_determinant_is_that_of_the_jacobian():
    bijection = bounds_bijection(LOWER, UPPER, 4)
    z = jnp.array([0.3, -1.2, 2.0, 0.7])
    _, (log_det,), _ = transform(bijection, z[None])
    expected = np.linalg.slogdet(jax.jit(jax.jacobian(bijection.transform))(z))[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-7)


def test_one_number_bounds_all_coordinates():
    (x,), *_ = transform(bounds_bijection(0.0, jnp.inf, 3), jnp.array([[-5.0, 0.0, 5.0]]))
    np.testing.assert_allclose(x, np.tan(np.pi / 2 * norm.cdf([-5.0, 0.0, 5.0])), rtol=1e-7)
    assert x[1] == pytest.approx(1)


def test_normal_numbers_become_uniform_and_half_cauchy():
    """Quantiles: exact, up to rounding."""
    bijection = bounds_bijection([0.0, 0.0], [2.0, jnp.inf], 2, scale=3.0)
    z = norm.ppf([0.01, 0.3, 0.5, 0.9])
    x, *_ = transform(bijection, jnp.asarray(np.stack([z, z], axis=1)))
    np.testing.assert_allclose(x[:, 0], [0.02, 0.6, 1.0, 1.8], rtol=1e-6)
    np.testing.assert_allclose(x[:, 1], halfcauchy.ppf([0.01, 0.3, 0.5, 0.9], scale=3), rtol=1e-6)


def test_no_draw_lies_on_a_bound_in_single_precision():
    """Where z is far out: log x is finite, and so is log(upper - x)."""
    with jax.enable_x64(False):
        bijection = bounds_bijection([0.0, 0.0, -5.0], [1.0, jnp.inf, 5.0], 3)
        x, *_ = transform(bijection, jnp.array([[-40.0] * 3, [40.0] * 3], jnp.float32))
        assert np.all(np.isfinite(jnp.log(x[:, :2])[0]))
        assert float(x[1, 0]) < 1
        assert -5 < float(x[0, 2]) < float(x[1, 2]) < 5


def test_a_rotation_turns_circular_coordinates_only():
    rotation = Rotation([0.0, -1.0], [2 * np.pi, np.inf])
    rotation = eqx.tree_at(lambda r: r.shift, rotation, jnp.array([1.0, 0.0]))
    x = jnp.array([6.0, 3.0])
    np.testing.assert_allclose(rotation.transform(x), [7 - 2 * np.pi, 3.0], rtol=1e-6)
    np.testing.assert_allclose(rotation.inverse(rotation.transform(x)), x, rtol=1e-6)
