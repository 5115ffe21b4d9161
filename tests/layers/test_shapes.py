"""Layers refuse parameters and shapes that do not agree."""

import jax.numpy as jnp
import pytest

from flowebm.layers import (
    AffineCoupling,
    Chain,
    CircularConv2d,
    Conv1x1,
    Conv2d,
    FullLinear,
    LULinear,
    SmoothLeakyReLU,
    SplineCoupling,
    SplitPrior,
    Squeeze,
    TriangularLinear,
)

Z = jnp.zeros
REFUSED = {
    "FullLinear of shape": lambda: FullLinear(Z((2, 3)), Z(2)),
    "TriangularLinear of shape": lambda: TriangularLinear(Z((2, 2)), Z(3), Z(2)),
    "LULinear of shape": lambda: LULinear(Z((2, 2)), Z(2), Z(2), (3,)),
    "Conv1x1 needs": lambda: Conv1x1(Z((2, 2)), (3, 4, 4)),
    "needs an image shape": lambda: Conv2d(Z((2, 1, 3, 3)), Z(2), (2, 4, 4)),
    "odd kernel side": lambda: CircularConv2d(Z((1, 1, 2, 2)), Z(1), (1, 4, 4)),
    "divisible by 2": lambda: Squeeze((1, 3, 4)),
    "alpha in": lambda: SmoothLeakyReLU((2,), 0.0),
    "two channels or features": lambda: AffineCoupling((1, 4, 4), abs),
    "channels or features to split": lambda: SplineCoupling((1,), abs),
    "its rest takes": lambda: SplitPrior(
        AffineCoupling((4, 2, 2), abs), Chain([SmoothLeakyReLU((4, 2, 2))])
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_disagreeing_arguments_are_refused_with_a_sentence(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
