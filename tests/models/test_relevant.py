"""Models turned to relevant directions, against what they say in dense matrices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowebm.models.relevant import IDLE_SCALE, relevant_flow, shrink_idle
from jax.scipy.stats import norm

from flowebm.models import MLPTilt, make_flow, partition_trainable
from flowebm.models.linear_change import LinearChange

MATRIX = jr.normal(jr.key(0), (5, 5)) + 2 * jnp.eye(5)
OFFSET = jnp.arange(5.0)
X = jr.normal(jr.key(1), (5,))


@pytest.fixture(scope="module")
def change():
    return LinearChange.of(MATRIX, OFFSET, (5,))


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


def test_a_relevant_flow_is_a_flow_beside_a_normal(change):
    few = make_flow("affine-coupling", (2,), layers=2, width=4, depth=1, key=jr.key(2))
    flow = relevant_flow(few, change)
    z = jnp.linalg.solve(MATRIX, X - OFFSET)
    expected = few.log_prob(z[:2]) + norm.logpdf(z[2:]).sum() - jnp.linalg.slogdet(MATRIX)[1]
    np.testing.assert_allclose(flow.log_prob(X), expected, rtol=1e-4)
    sample, log_prob = flow.sample_and_log_prob(jr.key(3))
    np.testing.assert_allclose(flow.log_prob(sample), log_prob, rtol=1e-4)


def test_the_change_of_a_relevant_flow_is_not_trained(change):
    few = make_flow("affine-coupling", (2,), layers=2, width=4, depth=1, key=jr.key(2))
    trained = partition_trainable(relevant_flow(few, change))[0]
    shapes = {leaf.shape for leaf in jax.tree.leaves(trained)}
    assert (5, 5) not in shapes
    assert shapes == {leaf.shape for leaf in jax.tree.leaves(partition_trainable(few)[0])}


def test_a_relevant_flow_of_images_has_their_shape():
    few = make_flow("affine-coupling", (3,), layers=2, width=4, depth=1, key=jr.key(2))
    flow = relevant_flow(few, LinearChange.identity((1, 2, 3)))
    assert flow.sample(jr.key(0), (4,)).shape == (4, 1, 2, 3)
    assert flow.log_prob(jnp.zeros((1, 2, 3))).shape == ()


def test_a_tilt_sees_idle_coordinates_shrunken(change):
    tilt = MLPTilt((5,), width=8, depth=2, key=jr.key(4))
    readout = jr.normal(jr.key(5), tilt.readout.weight.shape)
    tilt = eqx.tree_at(lambda t: t.readout.weight, tilt, readout)
    scale = jnp.array([1.0, 1.0, IDLE_SCALE, IDLE_SCALE, IDLE_SCALE])
    seen = MATRIX @ (scale * jnp.linalg.solve(MATRIX, X))
    shrunken = shrink_idle(tilt, change, 2)
    np.testing.assert_allclose(shrunken(X), tilt(seen), rtol=1e-4)
    params, _ = partition_trainable(shrunken)
    # The matrix is none of the parameters, the weight is.
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert shapes.count((8, 5)) == 1
    assert (5, 5) not in shapes
    assert paramax.unwrap(shrunken).layers[0].weight.shape == (8, 5)


def test_a_tilt_of_all_coordinates_is_the_tilt_itself(change):
    tilt = MLPTilt((5,), width=8, depth=2, key=jr.key(4))
    weight = paramax.unwrap(shrink_idle(tilt, change, 5)).layers[0].weight
    np.testing.assert_allclose(weight, tilt.layers[0].weight, atol=1e-4)


def test_a_blind_tilt_can_be_made_to_see(change):
    """The same function at first, whose idle part can be trained again."""
    tilt = MLPTilt((5,), width=8, depth=2, key=jr.key(4))
    readout = jr.normal(jr.key(5), tilt.readout.weight.shape)
    tilt = eqx.tree_at(lambda t: t.readout.weight, tilt, readout)
    blind = shrink_idle(tilt, change, 2, 0.0)
    idle = MATRIX[:, 2:] @ jnp.array([1.0, -2.0, 3.0])
    assert float(blind(X + idle)) == pytest.approx(float(blind(X)), abs=1e-4)
    # As wide as with two inputs instead of five.
    np.testing.assert_allclose(blind.layers[0].weight.weight, 2.5**0.5 * tilt.layers[0].weight)
    seeing = shrink_idle(blind, change, 2)
    assert float(seeing(X)) == pytest.approx(float(blind(X)), abs=1e-4)

    def along_idle(weight):
        moved = eqx.tree_at(lambda t: t.layers[0].weight.weight, seeing, weight)
        return moved(X + idle) - moved(X)

    gradient = jax.grad(along_idle)(seeing.layers[0].weight.weight)
    assert float(jnp.abs(gradient).max()) > 1e-3
