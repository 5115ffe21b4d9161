"""The exponential moving average of parameters along a run."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar


def update_average(
    average: PyTree[Array], params: PyTree[Array], iteration: Scalar, decay: float
) -> PyTree[Array]:
    r"""$\bar\theta \leftarrow \gamma_t \bar\theta + (1 - \gamma_t)\,\theta$.

    $\gamma_t = \min(\gamma, (1 + t) / (10 + t))$ shortens the memory at first, so that the
    average is not held back by where the run started.

    Args:
        average: The average $\bar\theta$.
        params: The parameters $\theta$, of the same structure.
        iteration: The number $t$ of updates so far.
        decay: The decay $\gamma$.
    """
    gamma = jnp.minimum(decay, (1.0 + iteration) / (10.0 + iteration))
    return jax.tree.map(lambda a, p: a + (1 - gamma) * (p - a), average, params)
