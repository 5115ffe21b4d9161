"""The bijection into a box, against its definition and a dense Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.models.bounds import bounds_bijection

LOWER = np.array([-2.0, 1.0, -np.inf, -np.inf])
UPPER = np.array([0.5, np.inf, -3.0, np.inf])


@pytest.fixture(scope="module", autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def test_it_maps_all_of_space_into_the_box_and_back():
    bijection = bounds_bijection(LOWER, UPPER, 4)
    z = jnp.array([[0.3, -1.2, 2.0, 0.7], [-8.0, 30.0, -30.0, 5.0], [8.0, -12.0, 12.0, -5.0]])
    x = jax.vmap(bijection.transform)(z)
    assert np.all((x > LOWER) & (x < UPPER))
    np.testing.assert_allclose(jax.vmap(bijection.inverse)(x), z, rtol=1e-6)
    sigmoid, softplus = jax.nn.sigmoid, jax.nn.softplus
    expected = [-2 + 2.5 * sigmoid(0.3), 1 + softplus(-1.2), -3 - softplus(-2.0), 0.7]
    np.testing.assert_allclose(x[0], expected, rtol=1e-12)


def test_its_log_determinant_is_that_of_the_jacobian():
    bijection = bounds_bijection(LOWER, UPPER, 4)
    z = jnp.array([0.3, -1.2, 2.0, 0.7])
    _, log_det = bijection.transform_and_log_det(z)
    expected = jnp.linalg.slogdet(jax.jacobian(bijection.transform)(z))[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-12)


def test_one_number_bounds_all_coordinates():
    x = bounds_bijection(0.0, jnp.inf, 3).transform(jnp.array([-5.0, 0.0, 5.0]))
    np.testing.assert_allclose(x, jax.nn.softplus(jnp.array([-5.0, 0.0, 5.0])), rtol=1e-12)
