"""Rows that count differently: drawn, and averaged over, in proportion to their weights."""

from typing import Self

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Scalar

from flowebm.models.batches import on_device
from flowebm.refusal import Refused


class RowWeights(eqx.Module):
    r"""Weights of training and of validation rows.

    Training rows are drawn by the alias method: a row that was drawn evenly is kept with
    probability $k_i$ and replaced by its alias $a_i$ otherwise. Probabilities are then
    $\frac1n \{k_i + \sum_{j: a_j = i} (1 - k_j)\} = \omega_i$, to the last digit, at the price of
    one comparison; rows of even weights are always kept, so that an epoch takes every row once,
    as it does without weights.

    Attributes:
        keep: $k_i$.
        alias: $a_i$.
        validation: $\omega_i$ of the validation rows, adding up to one.
        n: How many of the training rows there are; those after them only fill an array up.

    Source: Walker (1977), *An efficient method for generating discrete random variables with
    general distributions*; Vose (1991) for the tables in linear time.
    """

    keep: Float[Array, " n"]
    alias: Int[Array, " n"]
    validation: Float[Array, " m"]
    n: Int[Array, ""]

    @classmethod
    def of(
        cls,
        train: Float[ArrayLike, " n"] | None,
        validation: Float[ArrayLike, " m"] | None,
    ) -> Self | None:
        """The tables of weights; `None` where there are none.

        Args:
            train: Weights of the training rows, of any scale.
            validation: Weights of the validation rows, of any scale.

        Raises:
            ValueError: If only one of them is given, or weights are negative, not finite or all
                zero.
        """
        if train is None and validation is None:
            return None
        if train is None or validation is None:
            raise Refused(
                "Give weights for training and validation rows, or for neither: a model that is "
                "fitted to one distribution must not be chosen by another."
            )
        shares = []
        for weights, whose in ((train, "training"), (validation, "validation")):
            weights = np.asarray(weights, np.float64)
            if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
                raise Refused(
                    f"The weights of the {whose} rows must be finite and not negative, and at "
                    "least one must not be zero."
                )
            shares.append(weights / weights.sum())
        keep, alias = _alias_table(shares[0])
        parts = (on_device(part) for part in (keep, alias, shares[1], np.array(len(keep))))
        return cls(*parts)

    @property
    def train(self) -> Float[np.ndarray, " n"]:
        r"""$\omega_i$ of the training rows, adding up to one."""
        keep = np.asarray(self.keep, np.float64)
        shares = keep.copy()
        np.add.at(shares, np.asarray(self.alias), 1 - keep)
        return shares / int(self.n)

    def draw(self, key: PRNGKeyArray, rows: Int[Array, "..."]) -> Int[Array, "..."]:
        """Rows in proportion to their weights, from rows that were drawn evenly.

        Args:
            key: Random key.
            rows: Numbers of training rows, each as likely as any.
        """
        is_kept = jr.uniform(key, rows.shape) < self.keep[rows]
        return jnp.where(is_kept, rows, self.alias[rows])

    def mean(self, values: Float[Array, " n"]) -> Scalar:
        r"""$\sum_i \omega_i v_i$: what the mean over drawn rows tends to.

        Args:
            values: One value a training row.
        """
        return jnp.mean(self.keep * values + (1 - self.keep) * values[self.alias])


def draw_rows(
    weights: RowWeights | None, key: PRNGKeyArray, rows: Int[Array, "..."]
) -> Int[Array, "..."]:
    """`RowWeights.draw`, or the rows as they are where none counts for more than another."""
    return rows if weights is None else weights.draw(key, rows)


def rows_in_proportion(weights: Float[ArrayLike, " n"]) -> Int[np.ndarray, " n"]:
    r"""As many rows as there are weights, each $n \omega_i$ times, rounded up or down.

    What is fitted in closed form and knows no weights, such as a Gaussian, is fitted to them.

    Args:
        weights: One a row, of any scale.
    """
    shares = np.cumsum(np.asarray(weights, np.float64))
    n = len(shares)
    return np.searchsorted(shares / shares[-1], (np.arange(n) + 0.5) / n)


def _alias_table(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vose's tables: light rows are filled up by heavy ones."""
    n = len(shares)
    keep, alias = shares * n, np.arange(n)
    light = np.flatnonzero(keep < 1).tolist()
    heavy = np.flatnonzero(keep >= 1).tolist()
    while light and heavy:
        small, large = light.pop(), heavy.pop()
        alias[small] = large
        keep[large] -= 1 - keep[small]
        (light if keep[large] < 1 else heavy).append(large)
    # What is left is one but for rounding.
    keep[light + heavy] = 1.0
    return keep, alias
