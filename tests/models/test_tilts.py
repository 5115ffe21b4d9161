"""Tilts: zero at the start, smooth, one point of any shape to one number."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest

from flowebm.models.activations import ACTIVATIONS
from flowebm.models.tilts import ConvTilt, MLPTilt, sharper

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def read_out(tilt):
    """The tilt with a readout that is not zero."""
    ones = jnp.ones_like(tilt.readout.weight)
    return eqx.tree_at(lambda t: t.readout.weight, tilt, ones)


def mlp(shape=(3,), **options):
    return MLPTilt(shape, **{"width": 8, "depth": 3, "key": KEY} | options)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2, 2)])
def test_an_mlp_is_zero_at_the_start_and_then_not(shape):
    x = jnp.ones(shape)
    value, gradient = jax.value_and_grad(mlp(shape))(x)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(shape))
    assert read_out(mlp(shape))(x) != 0
    # The readout's gradient is not zero: training can begin.
    slope = eqx.filter_grad(lambda tilt: tilt(x))(mlp(shape))
    assert np.any(slope.readout.weight != 0)


@pytest.mark.parametrize(
    ("shape", "depth", "features"),
    [((1, 8, 8), None, 16), ((3, 7, 5), None, 24), ((2, 4, 4), 1, 8), ((1, 2, 2), None, 2)],
)
def test_a_convolution_halves_images_of_any_size(shape, depth, features):
    """Features at the end: channels doubled, sides halved (rounding up), at each convolution."""
    tilt = ConvTilt(shape, channels=2, depth=depth, key=KEY)
    assert tilt.readout.weight.shape == (1, features)
    x = jnp.ones(shape)
    assert tilt(x).shape == ()
    assert tilt(x) == 0
    assert read_out(tilt)(x) != 0


def test_a_convolutional_tilt_computes_its_layers():
    """With channels last inside, and the layers' own values out."""
    tilt = read_out(ConvTilt((2, 7, 6), channels=3, key=KEY))
    x = jax.random.normal(KEY, (2, 7, 6))
    hidden = x
    for layer in tilt.layers:
        hidden = tilt.activation(layer(hidden))
    assert abs(tilt(x)) > 0.1
    np.testing.assert_allclose(tilt(x), tilt.readout(hidden.ravel()), rtol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_scores_are_differentiable_also_where_a_rectifier_has_its_kink(name):
    """The second derivative exists at zero: both one-sided differences of the first agree."""
    slope = jax.grad(ACTIVATIONS[name])
    h = 1e-6
    left, right = ((slope(s * h) - slope(0.0)) / (s * h) for s in (-1, 1))
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_silenced_residual_blocks_change_nothing():
    tilt = read_out(mlp(residual=True))
    silent = eqx.tree_at(
        lambda t: t.layers[1:], tilt, jax.tree.map(jnp.zeros_like, tilt.layers[1:])
    )
    first_only = eqx.tree_at(lambda t: t.layers, tilt, tilt.layers[:1])
    x = jnp.array([0.5, -1.0, 2.0])
    np.testing.assert_array_equal(silent(x), first_only(x))
    assert tilt(x) != read_out(mlp(residual=False))(x)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_spectral_normalisation_bounds_every_hidden_layer(kind):
    """Weights a hundred times too large lose the factor; power iteration leaves 15% at most.

    By its bound (see the test of spectral normalisation) 12 steps leave less, unless the
    start's cosine with the leading vector is below 0.04.
    """
    options = {"spectral_normalization": True, "key": KEY}
    tilt = mlp(**options) if kind == "mlp" else ConvTilt((1, 8, 8), channels=2, **options)
    weights = [layer.weight.weight for layer in tilt.layers]
    tilt = eqx.tree_at(
        lambda t: [layer.weight.weight for layer in t.layers], tilt, [100 * w for w in weights]
    )
    for layer in paramax.unwrap(tilt.layers):
        matrix = layer.weight.reshape(layer.weight.shape[0], -1)
        assert 1 - 1e-12 <= np.linalg.norm(matrix, 2) <= 1.15
    assert np.isfinite(read_out(tilt)(jnp.ones((3,) if kind == "mlp" else (1, 8, 8))))


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 0}])
def test_an_empty_network_is_refused(options):
    with pytest.raises(ValueError, match="width and depth of 1 or more; got"):
        mlp(**options)


def test_unknown_activations_and_points_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match="Unknown activation 'relu': choose one of silu"):
        mlp(activation="relu")
    with pytest.raises(ValueError, match=r"\(channels, height, width\); got \(4,\)"):
        ConvTilt((4,), key=KEY)


@pytest.mark.parametrize(("columns", "factor"), [(2, 3.0), (4, 1.5), (9, 1.0)])
def test_of_few_columns_a_sharper_tilt_has_a_larger_first_layer(columns, factor):
    tilt = MLPTilt((columns,), width=8, depth=2, key=jr.key(0))
    first, second = sharper(tilt, columns).layers
    np.testing.assert_allclose(first.weight, factor * tilt.layers[0].weight, rtol=1e-6)
    np.testing.assert_allclose(first.bias, factor * tilt.layers[0].bias, rtol=1e-6)
    np.testing.assert_array_equal(second.weight, tilt.layers[1].weight)
