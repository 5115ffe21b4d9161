"""Random numbers of a key, drawn on the host: no program is compiled for their shapes."""

import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.models.batches import on_device


def seed_of(key: PRNGKeyArray) -> int:
    """A seed for NumPy, below 2³¹, from a random key.

    Args:
        key: Random key, of numbers: JAX must not be tracing.
    """
    words = np.random.SeedSequence(np.asarray(jr.key_data(key)).tolist())
    return int(words.generate_state(1)[0] >> 1)


class Draws:
    """Arrays of random numbers, one after the other, that a key determines.

    They are NumPy's, and JAX's where a network is made under one of its transformations. A network
    of a few layers took a second to compile where JAX drew its weights.

    Args:
        key: Random key.
    """

    def __init__(self, key: PRNGKeyArray):
        self._key, self._number = key, 0
        self._rng = None if isinstance(key, Tracer) else np.random.default_rng(seed_of(key))

    def uniform(self, shape: tuple[int, ...], bound: float) -> Float[Array, "*shape"]:
        """Numbers between minus and plus a bound."""
        if self._rng is None:
            return jr.uniform(self._next_key(), shape, minval=-bound, maxval=bound)
        return on_device(self._rng.uniform(-bound, bound, shape))

    def normal(self, shape: tuple[int, ...], scale: float | np.ndarray) -> Float[Array, "*shape"]:
        """Normal numbers of mean zero.

        Args:
            shape: Shape of the array.
            scale: Their standard deviations, of a shape that goes with it.
        """
        if self._rng is None:
            return jr.normal(self._next_key(), shape) * scale
        return on_device(self._rng.standard_normal(shape) * scale)

    def _next_key(self) -> PRNGKeyArray:
        self._number += 1
        return jr.fold_in(self._key, self._number)
