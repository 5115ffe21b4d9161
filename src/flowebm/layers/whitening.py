"""Decorrelation of the data, as a fixed first layer."""

from math import prod
from typing import Self

import equinox as eqx
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Scalar

from flowebm.layers.full_linear import FullLinear
from flowebm.layers.layer import AbstractConstantJacobianLayer

#: Shrinkages of the correlation towards the identity, of which held-out points choose one.
SHRINKAGES = tuple(10.0**-exponent for exponent in (5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1, 0.5, 0.2, 0))

#: Share of the batch that chooses.
HELD_OUT = 0.2


class Whitening(AbstractConstantJacobianLayer):
    r"""Whitening by the correlation, $y = \hat P^{-1/2} \hat D^{-1} (x - \hat\mu)$.

    $\hat\mu$ and $\hat D$ are mean and standard deviations of the entries, $\hat P$ their
    correlations, shrunk towards the identity by as much as a fifth of the points asks for. The
    symmetric root keeps every output next to its own input. The map is the identity until
    `initialized(batch)`, and is not trained.

    A flow behind it starts as a Gaussian of the data's covariance. More than that, score matching
    behind it measures scores in the data's own metric: in the original one the directions in which
    the data hardly vary are all that counts.

    Args:
        shape: Shape of one point, flattened to $D$ entries inside.

    Source: Kessy, Lewin, Strimmer (2018), *Optimal whitening and decorrelation*, for the symmetric
    root of the correlation (ZCA-cor).
    """

    linear: FullLinear
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, shape: tuple[int, ...]):
        size = prod(shape)
        self.shape = tuple(shape)
        self.linear = paramax.non_trainable(FullLinear(jnp.eye(size), jnp.zeros(size), shape))

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.linear.forward(x)

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.linear.inverse(y)

    def log_det(self) -> Scalar:
        return self.linear.log_det()

    def initialized(self, batch: Float[Array, "batch ..."]) -> Self:
        """The whitening of a batch of at least ten points; the more, the better it is known."""
        rows = batch.reshape(batch.shape[0], -1)
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        # An entry that is constant in the batch has no scale to learn from it.
        std = jnp.where(std > 0, std, 1.0)
        rows = (rows - mean) / std
        n_held_out = max(1, int(HELD_OUT * rows.shape[0]))
        shrinkage = _best_shrinkage(rows[n_held_out:], rows[:n_held_out])
        variances, directions = jnp.linalg.eigh(rows.T @ rows / rows.shape[0])
        weight = (directions * _shrunk(variances, shrinkage) ** -0.5) @ directions.T / std
        linear = FullLinear(weight, -weight @ mean, self.shape)
        return eqx.tree_at(lambda layer: layer.linear, self, paramax.non_trainable(linear))


def _shrunk(variances: Array, shrinkage: Array | float) -> Array:
    return (1 - shrinkage) * jnp.maximum(variances, 0.0) + shrinkage


def _best_shrinkage(train: Float[Array, "n d"], held_out: Float[Array, "m d"]) -> Scalar:
    """The shrinkage whose Gaussian gives held-out points the largest likelihood."""
    variances, directions = jnp.linalg.eigh(train.T @ train / train.shape[0])
    seen = ((held_out @ directions) ** 2).mean(axis=0)
    candidates = jnp.asarray(SHRINKAGES, train.dtype)
    fitted = _shrunk(variances, candidates[:, None])
    return candidates[jnp.argmin((jnp.log(fitted) + seen / fitted).sum(axis=1))]
