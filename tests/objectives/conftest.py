"""Models whose score-matching losses are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.layers import FullLinear, SmoothLeakyReLU
from flowebm.models.ebflow import EBFlow
from flowebm.models.energy import LogDensity

PRECISION = np.array([[2.0, 0.5, -0.3], [0.5, 1.0, 0.4], [-0.3, 0.4, 1.5]])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def precision():
    return PRECISION


@pytest.fixture
def gaussian():
    """E(x) = ½ xᵀ P x, without a normaliser."""
    return LogDensity(lambda x: -0.5 * x @ PRECISION @ x, (3,))


@pytest.fixture
def flow():
    """A smooth EBFlow in three dimensions, far from the identity."""
    rng = np.random.default_rng(0)
    first, last = (FullLinear(rng.standard_normal((3, 3)), rng.standard_normal(3)) for _ in "ab")
    activations = [
        SmoothLeakyReLU((3,)),
        SmoothLeakyReLU((3,), 0.5, residual=True),
    ]
    return EBFlow([first, *activations, last])


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng(1).standard_normal((5, 3)))


@pytest.fixture
def signs():
    """All sign vectors of three entries: their average is the exact expectation."""
    return jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))
