"""A linear map with a triangular matrix."""

from math import prod

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class TriangularLinear(AbstractConstantJacobianLayer):
    r"""The linear map $y = T x + b$ with a triangular $T$ of positive diagonal.

    The diagonal is stored as its logarithm, so that the map stays invertible whatever an
    optimizer does; inverse and log-determinant cost $O(D^2)$ and $O(D)$.

    Args:
        off_diagonal: Shape `(D, D)`; only its strict lower (or upper) triangle is read.
        log_diagonal: Logarithm of the diagonal of $T$, shape `(D,)`.
        bias: $b$, shape `(D,)`.
        lower: Whether $T$ is lower triangular.
        shape: Shape of one point, with $D$ entries; `(D,)` if not given.

    Raises:
        ValueError: If the shapes do not agree.

    Source: Chao et al. (2023), section 5 (comparison of linear layers).
    """

    off_diagonal: Float[Array, "d d"]
    log_diagonal: Float[Array, " d"]
    bias: Float[Array, " d"]
    lower: bool = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        off_diagonal: Array,
        log_diagonal: Array,
        bias: Array,
        *,
        lower: bool = True,
        shape: tuple[int, ...] | None = None,
    ):
        self.off_diagonal = jnp.asarray(off_diagonal)
        self.log_diagonal = jnp.asarray(log_diagonal)
        self.bias = jnp.asarray(bias)
        self.lower = lower
        self.shape = self.bias.shape if shape is None else tuple(shape)
        size = prod(self.shape)
        shapes = (self.off_diagonal.shape, self.log_diagonal.shape, self.bias.shape)
        if shapes != ((size, size), (size,), (size,)):
            raise Refused(
                f"A TriangularLinear of shape {self.shape} needs an off_diagonal, log_diagonal "
                f"and bias of shapes {(size, size)}, {(size,)} and {(size,)}; got {shapes}."
            )

    def matrix(self) -> Float[Array, "d d"]:
        """The matrix $T$."""
        strict = jnp.tril(self.off_diagonal, -1) if self.lower else jnp.triu(self.off_diagonal, 1)
        return strict + jnp.diag(jnp.exp(self.log_diagonal))

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (self.matrix() @ x.ravel() + self.bias).reshape(self.shape)

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        x = solve_triangular(self.matrix(), y.ravel() - self.bias, lower=self.lower)
        return x.reshape(self.shape)

    def log_det(self) -> Scalar:
        return self.log_diagonal.sum()
