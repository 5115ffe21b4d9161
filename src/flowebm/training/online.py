"""Online estimates of what moves while it is measured, with a standard error."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

#: Updates over which an estimate forgets: within so few, a model in training moves in a line.
MEMORY = 10.0

#: Share of what a trend makes of an estimate that is taken for its error: the truth bends.
BEND = 0.3


class OnlineEstimate(NamedTuple):
    r"""The present end of a line through the past values.

    The line is that of least squares, in which a value of $k$ updates ago counts $\beta^k$, with
    $\beta = 1 - 1/\text{memory}$. A mean of past values would tell what was: while a
    model is trained its $\log Z$ may move by many standard errors of such a mean.

    Attributes:
        value: The line's end, $\sum_t c_t v_t$ with weights $c_t$ that add up to one.
        variance: $\sum_t c_t^2 s_t^2$, its variance for independent $v_t$ of variance $s_t^2$,
            and the square of 0.3 times what the line differs there from the values' mean.
        updates: Number of updates.
        weights: $\sum_k \beta^k (-k)^j$ for $j = 0, 1, 2$.
        residuals: The same sums of the values less `value`, for $j = 0, 1$.
        variances: The same sums of $\beta^{2k}$ and the values' variances, for $j = 0, 1, 2$.
    """

    value: Scalar
    variance: Scalar
    updates: Scalar
    weights: Float[Array, " 3"]
    residuals: Float[Array, " 2"]
    variances: Float[Array, " 3"]

    @property
    def stderr(self) -> Scalar:
        """The standard error."""
        return jnp.sqrt(self.variance)


def init() -> OnlineEstimate:
    """An estimate that has seen nothing."""
    zero = jnp.array(0.0)
    return OnlineEstimate(zero, zero, jnp.array(0), jnp.zeros(3), jnp.zeros(2), jnp.zeros(3))


def update(
    estimate: OnlineEstimate, value: Scalar, variance: Scalar, *, memory: float = MEMORY
) -> OnlineEstimate:
    """Take in one more value.

    Args:
        estimate: The estimate so far.
        value: The new value.
        variance: Its variance.
        memory: Updates over which the estimate forgets, above 1.

    Returns:
        The estimate with it.

    Source: Brown (1963), *Smoothing, forecasting and prediction*, discounted least squares.
    """
    kept = 1 - 1 / memory
    # Relative to the last estimate: sums of large values would lose its digits.
    new = value - estimate.value
    weights = kept * _one_update_ago(estimate.weights) + jnp.array([1.0, 0.0, 0.0])
    residuals = kept * _one_update_ago(estimate.residuals) + jnp.array([1.0, 0.0]) * new
    variances = (
        kept**2 * _one_update_ago(estimate.variances) + jnp.array([1.0, 0.0, 0.0]) * variance
    )

    determinant = weights[0] * weights[2] - weights[1] ** 2
    is_line = estimate.updates > 0
    safe = jnp.where(is_line, determinant, 1.0)
    # What a value of k updates ago counts in the line's end is a + b (-k), times its weight.
    a = jnp.where(is_line, weights[2] / safe, 1.0)
    b = jnp.where(is_line, -weights[1] / safe, 0.0)
    step = a * residuals[0] + b * residuals[1]
    bend = BEND * (step - residuals[0] / weights[0])
    return OnlineEstimate(
        estimate.value + step,
        a**2 * variances[0] + 2 * a * b * variances[1] + b**2 * variances[2] + bend**2,
        estimate.updates + 1,
        weights,
        residuals - step * weights[:2],
        variances,
    )


def _one_update_ago(sums: Float[Array, " n"]) -> Float[Array, " n"]:
    """Sums over powers of the time, whose zero has moved on by one."""
    shifted = [sums[0], sums[1] - sums[0]]
    if len(sums) == 3:
        shifted.append(sums[2] - 2 * sums[1] + sums[0])
    return jnp.stack(shifted)
