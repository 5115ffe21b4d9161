"""A fixed linear change of coordinates, a matrix product in both directions."""

from math import prod
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, Scalar

from flowebm.refusal import Refused


class LinearChange(AbstractBijection):
    r"""The change of coordinates $x = M z + m$ of a flattened point, with its inverse kept.

    For changes that are fitted in closed form and stay as they are (`paramax.non_trainable`):
    neither direction solves or factorises anything.

    Args:
        matrix: $M$, shape `(D, D)`.
        inverse_matrix: $M^{-1}$.
        log_det: $\log|\det M|$.
        offset: $m$, shape `(D,)`.
        shape: Shape of one point, with $D$ entries.

    Raises:
        ValueError: If the shapes do not agree.
    """

    matrix: Float[Array, "d d"]
    inverse_matrix: Float[Array, "d d"]
    log_det: Scalar
    offset: Float[Array, " d"]
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: ClassVar[None] = None

    def __init__(
        self,
        matrix: Array,
        inverse_matrix: Array,
        log_det: Array,
        offset: Array,
        shape: tuple[int, ...],
    ):
        self.matrix = matrix
        self.inverse_matrix = inverse_matrix
        self.log_det = log_det
        self.offset = offset
        self.shape = tuple(shape)
        size = prod(self.shape)
        if not matrix.shape == inverse_matrix.shape == (size, size) or offset.shape != (size,):
            raise Refused(
                f"A LinearChange of points of shape {self.shape} needs two matrices of shape "
                f"{(size, size)} and an offset of shape {(size,)}; got {matrix.shape}, "
                f"{inverse_matrix.shape} and {offset.shape}."
            )

    @classmethod
    def of(cls, matrix: Array, offset: Array, shape: tuple[int, ...]) -> "LinearChange":
        """The change by a matrix, inverted once and for all.

        Args:
            matrix: $M$, shape `(D, D)`.
            offset: $m$, shape `(D,)`.
            shape: Shape of one point.

        Returns:
            The change of coordinates.
        """
        log_det = jnp.linalg.slogdet(matrix)[1]
        return cls(matrix, jnp.linalg.inv(matrix), log_det, offset, shape)

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> "LinearChange":
        """The change that changes nothing.

        Args:
            shape: Shape of one point.

        Returns:
            The identity.
        """
        size = prod(shape)
        return cls(jnp.eye(size), jnp.eye(size), jnp.array(0.0), jnp.zeros(size), shape)

    def transform_and_log_det(self, x: Array, condition: Array | None = None):
        return (self.matrix @ x.ravel() + self.offset).reshape(self.shape), self.log_det

    def inverse_and_log_det(self, y: Array, condition: Array | None = None):
        z = self.inverse_matrix @ (y.ravel() - self.offset)
        return z.reshape(self.shape), -self.log_det
