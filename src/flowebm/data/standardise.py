"""Columns to mean zero and standard deviation one, as a bijection."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, ArrayLike, Float


class Standardise(AbstractBijection):
    r"""The elementwise map $z = (x - m) / s$, whose log-determinant is $-\sum_i \log s_i$.

    It is a flowjax bijection from data to standardised space, so a density of standardised points
    becomes one of the data by `Transformed(density, Invert(standardise))`. Its arrays are frozen.

    Args:
        mean: $m$, of the shape of one point, in the units of the data.
        sd: $s$, positive, of the same shape and units.

    Raises:
        ValueError: If the shapes differ or an `sd` is not positive.
    """

    mean: Array  # Held frozen, by paramax: flowjax unwraps it before each method.
    sd: Array
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: ClassVar[None] = None

    def __init__(self, mean: ArrayLike, sd: ArrayLike):
        mean, sd = jnp.asarray(mean, float), jnp.asarray(sd, float)
        if mean.shape != sd.shape:
            raise ValueError(f"mean and sd differ in shape: {mean.shape} and {sd.shape}.")
        if not np.all(np.asarray(sd) > 0):
            raise ValueError("Every sd must be positive.")
        self.mean, self.sd = paramax.non_trainable(mean), paramax.non_trainable(sd)
        self.shape = mean.shape

    @classmethod
    def fit(cls, X: Float[np.ndarray, "n ..."]) -> "Standardise":
        """The map that gives every column of the data mean 0 and standard deviation 1.

        Args:
            X: The training points, shape `(n, *shape)`.

        Raises:
            ValueError: If a column is constant, or varies too little beside its mean for the
                single precision that models compute in.
        """
        X = np.asarray(X, np.float64)
        mean, sd = X.mean(axis=0), X.std(axis=0)
        narrow = np.argwhere(~(sd > 1e-6 * np.abs(mean)))
        if len(narrow):
            index = tuple(narrow[0].tolist())
            raise ValueError(
                f"Column {', '.join(str(i + 1) for i in index)} has standard deviation "
                f"{sd[index]:.3g} about the mean {mean[index]:.6g}, too little to be told from a "
                "constant: drop it, or subtract its offset."
            )
        return cls(mean, sd)

    def transform_and_log_det(self, x, condition=None):
        return (x - self.mean) / self.sd, -jnp.log(self.sd).sum()

    def inverse_and_log_det(self, y, condition=None):
        return y * self.sd + self.mean, jnp.log(self.sd).sum()

    def standardise_rows(self, X: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """`transform` for many points in double precision on the host, before any rounding."""
        mean, sd = (np.asarray(paramax.unwrap(a), np.float64) for a in (self.mean, self.sd))
        return (np.asarray(X, np.float64) - mean) / sd

    def restore_rows(self, Z: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """`inverse` for many points in double precision on the host."""
        mean, sd = (np.asarray(paramax.unwrap(a), np.float64) for a in (self.mean, self.sd))
        return np.asarray(Z, np.float64) * sd + mean
