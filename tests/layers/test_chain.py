"""Chains refuse layers that do not fit."""

import equinox as eqx
import jax
import pytest

from flowebm.layers import Chain, SmoothLeakyReLU, Squeeze


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        Chain([])
    with pytest.raises(ValueError, match=r"Layer 1 .* takes shape \(1, 4, 4\), but layer 0"):
        Chain([Squeeze((1, 4, 4)), SmoothLeakyReLU((1, 4, 4))])
    with pytest.raises(TypeError, match="Layer 0 is a Linear, not a flowebm layer"):
        Chain([eqx.nn.Linear(2, 2, key=jax.random.key(0))])
