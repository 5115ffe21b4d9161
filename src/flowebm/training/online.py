"""Online estimates: smoothed over iterations, with a standard error."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Scalar


class OnlineEstimate(NamedTuple):
    r"""An exponentially smoothed estimate.

    Attributes:
        value: $\sum_t c_t v_t$ with weights $c_t$ that add up to one.
        variance: $\sum_t c_t^2 s_t^2$, its variance for independent $v_t$ of variance $s_t^2$.
        updates: Number of updates.
    """

    value: Scalar
    variance: Scalar
    updates: Scalar

    @property
    def stderr(self) -> Scalar:
        """The standard error."""
        return jnp.sqrt(self.variance)


def init() -> OnlineEstimate:
    """An estimate that has seen nothing."""
    return OnlineEstimate(jnp.array(0.0), jnp.array(0.0), jnp.array(0))


def update(
    estimate: OnlineEstimate, value: Scalar, variance: Scalar, *, memory: float = 50.0
) -> OnlineEstimate:
    """Take in one more value; the memory, in updates, bounds the lag behind a moving truth.

    Args:
        estimate: The estimate so far.
        value: The new value.
        variance: Its variance.
        memory: Updates over which the estimate forgets.
    """
    gain = jnp.maximum(1.0 / memory, 1.0 / (estimate.updates + 1))
    return OnlineEstimate(
        estimate.value + gain * (value - estimate.value),
        (1 - gain) ** 2 * estimate.variance + gain**2 * variance,
        estimate.updates + 1,
    )
