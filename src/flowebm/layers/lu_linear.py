"""A linear map given by its LU factors."""

from math import prod

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class LULinear(AbstractConstantJacobianLayer):
    r"""The linear map $y = L U x + b$, $L$ unit lower and $U$ upper triangular.

    The factors are the parameters, so that inverse and log-determinant cost $O(D^2)$ and
    $O(D)$. The diagonal of $U$ is positive and stored as its logarithm. Rows are
    never exchanged.

    Args:
        factors: Both strict triangles in one array of shape `(D, D)`: $L$'s below the
            diagonal, $U$'s above it; the diagonal is not read.
        log_diagonal: Logarithm of the diagonal of $U$, shape `(D,)`.
        bias: $b$, shape `(D,)`.
        shape: Shape of one point, with $D$ entries; `(D,)` if not given.

    Raises:
        ValueError: If the shapes do not agree.

    Source: Kingma, Dhariwal (2018), section 3.2; Chao et al. (2023), section 5.
    """

    factors: Float[Array, "d d"]
    log_diagonal: Float[Array, " d"]
    bias: Float[Array, " d"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        factors: Array,
        log_diagonal: Array,
        bias: Array,
        shape: tuple[int, ...] | None = None,
    ):
        self.factors = jnp.asarray(factors)
        self.log_diagonal = jnp.asarray(log_diagonal)
        self.bias = jnp.asarray(bias)
        self.shape = self.bias.shape if shape is None else tuple(shape)
        size = prod(self.shape)
        shapes = (self.factors.shape, self.log_diagonal.shape, self.bias.shape)
        if shapes != ((size, size), (size,), (size,)):
            raise Refused(
                f"An LULinear of shape {self.shape} needs factors, a log_diagonal and a bias of "
                f"shapes {(size, size)}, {(size,)} and {(size,)}; got {shapes}."
            )

    def lower(self) -> Float[Array, "d d"]:
        """The factor $L$."""
        return jnp.tril(self.factors, -1) + jnp.eye(self.bias.size, dtype=self.factors.dtype)

    def upper(self) -> Float[Array, "d d"]:
        """The factor $U$."""
        return jnp.triu(self.factors, 1) + jnp.diag(jnp.exp(self.log_diagonal))

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (self.lower() @ (self.upper() @ x.ravel()) + self.bias).reshape(self.shape)

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        z = solve_triangular(self.lower(), y.ravel() - self.bias, lower=True, unit_diagonal=True)
        return solve_triangular(self.upper(), z, lower=False).reshape(self.shape)

    def log_det(self) -> Scalar:
        return self.log_diagonal.sum()
