"""Spectral normalisation: a bound on a linear map's Lipschitz constant."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from paramax import AbstractUnwrappable

from flowebm.models.recipe import register


@register
class SpectralNormalization(AbstractUnwrappable[Array]):
    r"""A weight whose largest singular value is at most one, $W / \max(1, \sigma(W))$.

    $\sigma$ comes from power iteration on $W W^\top$, from a fixed start and without state,
    so that a model remains a pure function of its parameters. It approaches $\sigma$ from
    below; the singular vectors are held constant in gradients, which makes the gradient of
    $\sigma = u^\top W v$ exact at convergence.

    Args:
        weight: The weight; the first axis is the output's, the others are flattened.
        iterations: Steps of power iteration.

    Source: Miyato et al. (2018), *Spectral Normalization for Generative Adversarial Networks*,
    section 2.1.
    """

    weight: Float[Array, "out *rest"]
    iterations: int = 12

    def unwrap(self) -> Array:
        matrix = self.weight.reshape(self.weight.shape[0], -1)
        frozen = jax.lax.stop_gradient(matrix)
        tiny = jnp.finfo(matrix.dtype).tiny
        # A start with every component different: a constant vector is orthogonal to the
        # leading singular vector of too many structured matrices.
        u = jnp.cos(jnp.arange(matrix.shape[0], dtype=matrix.dtype))
        for _ in range(self.iterations):
            v = frozen.T @ u
            v = v / (jnp.linalg.norm(v) + tiny)
            u = frozen @ v
            u = u / (jnp.linalg.norm(u) + tiny)
        return self.weight / jnp.maximum(1.0, u @ matrix @ v)
