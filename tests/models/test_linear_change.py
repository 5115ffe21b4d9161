"""Changes of coordinates, against what they say in dense matrices."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from flowebm.models.linear_change import LinearChange

MATRIX = jr.normal(jr.key(0), (5, 5)) + 2 * jnp.eye(5)
OFFSET = jnp.arange(5.0)
X = jr.normal(jr.key(1), (5,))


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_a_change_of_coordinates_and_its_inverse(shape):
    change = LinearChange.of(MATRIX, OFFSET, shape)
    y, log_det = change.transform_and_log_det(X.reshape(shape))
    np.testing.assert_allclose(y.ravel(), MATRIX @ X + OFFSET, rtol=1e-5)
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(MATRIX)[1], rtol=1e-5)
    x, inverse_log_det = change.inverse_and_log_det(y)
    np.testing.assert_allclose(x.ravel(), X, atol=1e-5)
    np.testing.assert_allclose(inverse_log_det, -log_det)


def test_a_change_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="two matrices of shape \\(6, 6\\)"):
        LinearChange.of(MATRIX, OFFSET, (6,))
