"""Learning-rate schedules over the progress of a run, from 0 to 1."""

import jax.numpy as jnp
from jaxtyping import Scalar


def constant(progress: Scalar) -> Scalar:
    """No change: a factor of one."""
    return jnp.ones_like(progress)


def warmup_cosine(progress: Scalar, *, warmup: float = 0.02) -> Scalar:
    r"""Linear warm-up, then half a cosine to zero.

    $\min(1, t/w) \cdot \tfrac12 (1 + \cos \pi t)$ at progress $t$ with warm-up $w$. The
    decay to zero is what brings mode weights from their stationary noise to the noise of
    the data.

    Source: Loshchilov and Hutter (2017), *SGDR*.
    """
    progress = jnp.clip(progress, 0.0, 1.0)
    return jnp.minimum(1.0, (progress + 1e-3) / warmup) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def late_cosine(progress: Scalar, *, start: float = 0.6) -> Scalar:
    r"""One until `start`, then half a cosine to zero.

    For runs that usually end before their last iteration.
    """
    late = jnp.clip((progress - start) / (1 - start), 0.0, 1.0)
    return 0.5 * (1 + jnp.cos(jnp.pi * late))
