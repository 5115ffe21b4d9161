"""One layer of every kind, with random parameters far from the identity, in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

from flowebm.data import LogitPixels
from flowebm.layers import (
    ActNorm,
    AffineCoupling,
    Chain,
    CircularConv2d,
    Conv1x1,
    Conv2d,
    FullLinear,
    LogisticMixtureCoupling,
    LULinear,
    Preprocessing,
    Repeated,
    SmoothLeakyReLU,
    SplineCoupling,
    SplitPrior,
    Squeeze,
    TriangularLinear,
    Whitening,
    conv_conditioner,
    mlp_conditioner,
)

IMAGE = (2, 4, 4)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def randomized(layer, seed=0, scale=0.5):
    """The layer with `scale` times a standard normal added to every parameter."""
    arrays, static = eqx.partition(layer, eqx.is_inexact_array)
    rng = np.random.default_rng(seed)
    arrays = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a) + scale * rng.standard_normal(a.shape)), arrays
    )
    return eqx.combine(arrays, static)


def _normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def _mlp(n_in, n_out):
    return mlp_conditioner(jax.random.key(1), n_in, n_out, width=8, depth=1)


def _conv(n_in, n_out):
    return conv_conditioner(jax.random.key(1), n_in, n_out, width=4)


def _step(key):
    linear_key, coupling_key = jax.random.split(key)
    return (
        FullLinear(jax.random.normal(linear_key, (5, 5)), jnp.zeros(5)),
        AffineCoupling((5,), mlp_conditioner(coupling_key, 2, 6, width=8, depth=1)),
        ActNorm((5,)),
    )


LAYERS = {
    "full linear": lambda: FullLinear(_normal(6, 6), _normal(6)),
    "full linear on images": lambda: FullLinear(_normal(8, 8), _normal(8), (2, 2, 2)),
    "lower triangular": lambda: TriangularLinear(_normal(6, 6), _normal(6), _normal(6)),
    "upper triangular": lambda: TriangularLinear(
        _normal(6, 6), _normal(6), _normal(6), lower=False
    ),
    "LU linear": lambda: LULinear(_normal(6, 6), _normal(6), _normal(6)),
    "1x1 convolution": lambda: Conv1x1(_normal(3, 3), (3, 2, 2)),
    "3x3 convolution": lambda: Conv2d(_normal(2, 2, 3, 3), _normal(2), IMAGE, method="direct"),
    "5x5 convolution by rows": lambda: Conv2d(
        _normal(1, 1, 5, 5), _normal(1), (1, 5, 3), method="rows"
    ),
    "circular 3x3 convolution": lambda: CircularConv2d(_normal(2, 2, 3, 3), _normal(2), (2, 4, 3)),
    "circular convolution wider than the image": lambda: CircularConv2d(
        _normal(1, 1, 5, 5), _normal(1), (1, 3, 4)
    ),
    "act-norm": lambda: ActNorm((3, 2, 2), _normal(3), _normal(3)),
    "act-norm of features": lambda: ActNorm((4,), _normal(4), _normal(4)),
    "whitening": lambda: paramax.unwrap(
        Whitening((2, 2)).initialized(jnp.asarray(_normal(50, 4) @ _normal(4, 4)).reshape(-1, 2, 2))
    ),
    "squeeze": lambda: Squeeze((2, 4, 6)),
    "smooth leaky ReLU": lambda: SmoothLeakyReLU((8,), 0.1),
    "residual smooth leaky ReLU": lambda: SmoothLeakyReLU((8,), 0.3, residual=True),
    "affine coupling": lambda: randomized(AffineCoupling((5,), _mlp(2, 6))),
    "affine coupling of images": lambda: randomized(AffineCoupling((2, 3, 2), _conv(1, 2))),
    "spline coupling": lambda: randomized(
        SplineCoupling((3,), _mlp(1, 2 * SplineCoupling.n_parameters(4)), n_knots=4)
    ),
    "spline coupling of images": lambda: randomized(
        SplineCoupling((2, 2, 2), _conv(1, SplineCoupling.n_parameters(4)), n_knots=4)
    ),
    "logistic mixture coupling": lambda: randomized(
        LogisticMixtureCoupling((3,), _mlp(1, 2 * LogisticMixtureCoupling.n_parameters(3)), 3)
    ),
    "preprocessing": lambda: Preprocessing(LogitPixels((4,), 2, 0.5, 0.01)),
    "split prior": lambda: SplitPrior(
        randomized(AffineCoupling((4, 2, 2), _conv(2, 4))),
        Chain([Squeeze((2, 2, 2)), Conv1x1(_normal(8, 8), (8, 1, 1)), SmoothLeakyReLU((8, 1, 1))]),
    ),
    "repeated": lambda: randomized(Repeated(_step, jax.random.split(jax.random.key(2), 3)), 0, 0.2),
    "chain": lambda: Chain(
        [FullLinear(_normal(4, 4), _normal(4)), SmoothLeakyReLU((4,)), ActNorm((4,), _normal(4))]
    ),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]()


@pytest.fixture
def x(layer):
    """An input of the layer, where it is defined."""
    if isinstance(layer, Preprocessing):
        return jnp.array([0.001, 0.3, 0.5, 0.98])
    return jnp.asarray(3 * np.random.default_rng(7).standard_normal(layer.shape))
