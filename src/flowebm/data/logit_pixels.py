"""Pixels to the real line, as a bijection."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection
from jaxtyping import Float

from flowebm.refusal import Refused


class LogitPixels(AbstractBijection):
    r"""Dequantised pixels to the line, $z = \mathrm{logit}(m + (1 - 2m)\, x / n) / \tau$.

    A pixel of the level $k \in \{0, \dots, n - 1\}$ takes the unit interval $[k, k + 1)$ by
    uniform noise. In these units a density bounds the log-probability of the whole numbers
    as it stands: bits per dimension need no further $\ln n$.

    Args:
        shape: Shape of one point.
        levels: Number of levels $n$.
        smoothness: $\tau > 0$.
        margin: $m$, by which points are kept from the interval's ends.

    Raises:
        ValueError: If the smoothness is not positive, the margin not in [0, 1/2), or there are
            fewer than two levels.

    Source: Dinh, Sohl-Dickstein, Bengio (2017), section 4.1; Chao et al. (2023), appendix.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    levels: int = eqx.field(static=True, default=256)
    smoothness: float = eqx.field(static=True, default=1.0)
    margin: float = eqx.field(static=True, default=1e-6)
    cond_shape: ClassVar[None] = None

    def __check_init__(self):
        if not self.smoothness > 0:
            raise Refused(f"LogitPixels needs a positive smoothness; got {self.smoothness}.")
        if not 0 <= self.margin < 0.5:
            raise Refused(f"LogitPixels needs a margin in [0, 1/2); got {self.margin}.")
        if self.levels < 2:
            raise Refused(f"LogitPixels needs at least two levels; got {self.levels}.")

    def transform_and_log_det(self, x, condition=None):
        x = jnp.asarray(x)
        p = self.margin + (1 - 2 * self.margin) * x / self.levels
        log_p, log_q = jnp.log(p), jnp.log1p(-p)
        return (log_p - log_q) / self.smoothness, self._log_slope() * x.size - jnp.sum(
            log_p + log_q
        )

    def inverse_and_log_det(self, y, condition=None):
        y = jnp.asarray(y)
        p = jax.nn.sigmoid(self.smoothness * y)
        log_p, log_q = (jax.nn.log_sigmoid(sign * self.smoothness * y) for sign in (1, -1))
        x = (p - self.margin) * self.levels / (1 - 2 * self.margin)
        return x, jnp.sum(log_p + log_q) - self._log_slope() * y.size

    def transform_rows(self, X: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """`transform` for many points in double precision on the host."""
        p = self.margin + (1 - 2 * self.margin) * np.asarray(X, np.float64) / self.levels
        return (np.log(p) - np.log1p(-p)) / self.smoothness

    def log_det_rows(self, X: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, " n"]:
        """The log-determinant of `transform` at many points, in double precision on the host."""
        p = self.margin + (1 - 2 * self.margin) * np.asarray(X, np.float64) / self.levels
        log_slopes = self._log_slope() - np.log(p) - np.log1p(-p)
        return log_slopes.reshape(len(X), -1).sum(axis=1)

    def inverse_rows(self, Z: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """`inverse` for many points in double precision on the host."""
        # The logistic function in the form that cannot overflow.
        p = 0.5 * (1 + np.tanh(0.5 * self.smoothness * np.asarray(Z, np.float64)))
        return (p - self.margin) * self.levels / (1 - 2 * self.margin)

    def _log_slope(self) -> float:
        r"""$\log \frac{1 - 2m}{n\tau}$: a pixel's log-derivative less its $-\log p(1-p)$."""
        return float(np.log((1 - 2 * self.margin) / (self.levels * self.smoothness)))
