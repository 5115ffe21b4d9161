"""Noise on training points, so that a density of few rows does not learn them by heart."""

from typing import NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.training.row_weights import RowWeights


class Noise(NamedTuple):
    """How much noise, and of what form.

    Attributes:
        scale: Its standard deviation $h$, in units of the data's; none at 0.
        like_data: Whether its covariance is $h^2$ times that of the data, so that it is narrow
            where they are; $h^2$ in all directions otherwise.
    """

    scale: float = 0.0
    like_data: bool = True


#: Points as they are.
NO_NOISE = Noise()


class NormalNoise(eqx.Module):
    r"""Points with normal noise, $x + h L^\top \varepsilon$ with $L^\top L = \hat\Sigma$ or $I$.

    A density that is fitted to them by maximum likelihood tends to the data's, smoothed: small
    noise comes to a penalty on its curvature at the data.

    Attributes:
        factor: $h L$, one row for each number that is drawn.

    Source: Bishop (1995), *Training with noise is equivalent to Tikhonov regularization*; Rothfuss
    et al. (2019), *Noise regularization for conditional density estimation*.
    """

    factor: Float[Array, "d d"]

    @classmethod
    def of(
        cls, noise: Noise, data: Float[Array, "n *shape"], weights: RowWeights | None = None
    ) -> Self:
        """The noise for points such as these.

        Args:
            noise: How much, and of what form.
            data: Points, one a row, of two rows or more.
            weights: How much they count; all alike by default.
        """
        rows = data.reshape(data.shape[0], -1)
        if not noise.like_data:
            return cls(noise.scale * jnp.eye(rows.shape[1], dtype=rows.dtype))
        covariance = jnp.cov(
            rows, rowvar=False, bias=True, aweights=None if weights is None else weights.train
        )
        variances, directions = jnp.linalg.eigh(jnp.atleast_2d(covariance))
        # Of fewer rows than coordinates some variances are zero, but for rounding.
        deviations = jnp.sqrt(jnp.maximum(variances, 0.0))
        return cls(noise.scale * deviations[:, None] * directions.T)

    def __call__(self, key: PRNGKeyArray, points: Float[Array, "m *shape"]) -> Array:
        """Points of a minibatch, each with noise of its own.

        Args:
            key: Random key.
            points: One a row.
        """
        drawn = jr.normal(key, (points.shape[0], self.factor.shape[0]), points.dtype)
        return points + (drawn @ self.factor).reshape(points.shape)
