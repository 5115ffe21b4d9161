"""The rows of a fit: those that train, those that choose, and how much each counts."""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.models.batches import on_device
from flowebm.training.row_weights import RowWeights, rows_in_proportion

#: Rows of the shortest arrays of rows, and of those from which arrays double.
FEWEST_ROWS, MANY_ROWS = 256, 65_536


class Rows(eqx.Module):
    """Training and validation points with their weights.

    Attributes:
        train: Training points, one a row.
        validation: Validation points, one a row.
        weights: How much both count; `None` where all count alike.
        redrawn: The training points again, with other noise for what is not known of them.
    """

    train: Float[np.ndarray, "n *shape"]
    validation: Float[np.ndarray, "m *shape"]
    weights: RowWeights | None = None
    redrawn: tuple[Float[np.ndarray, "n *shape"], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return self.train.shape[1:]

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """What a function of points makes of them.

        Args:
            function: Of points, one a row.
        """
        redrawn = tuple(function(points) for points in self.redrawn)
        return Rows(function(self.train), function(self.validation), self.weights, redrawn)

    def with_all_noise(self) -> "Rows":
        """The rows with each training point as often as there is noise for it."""
        if not self.redrawn:
            return self
        weights = self.weights
        if weights is not None:
            shares = np.tile(weights.train, 1 + len(self.redrawn))
            weights = RowWeights.of(shares, weights.validation)
        return Rows(np.concatenate([self.train, *self.redrawn]), self.validation, weights)

    def mean(self, values: Float[np.ndarray, " m"]) -> Estimate:
        """The weighted mean of one value a validation point, with its standard error."""
        return weighted_mean(np.asarray(values), self.weights and self.weights.validation)

    def mean_of_train(self, values: Float[np.ndarray, " n"]) -> float:
        """The weighted mean of one value a training point."""
        return float(np.average(values, weights=self.weights and self.weights.train))

    def filled(self) -> tuple[Array, Array, RowWeights]:
        """The rows on the device, filled up to one of few numbers by rows of weight zero.

        Programs for them serve tables of other lengths.

        Returns:
            Training points, validation points, and weights.
        """
        n, m = (filled_number(len(points)) for points in (self.train, self.validation))
        weights = self.weights or RowWeights.of(
            np.ones(len(self.train)), np.ones(len(self.validation))
        )
        assert weights is not None
        keep, alias, of_validation = (
            np.asarray(part) for part in (weights.keep, weights.alias, weights.validation)
        )
        return (
            on_device(fill(self.train, n)),
            on_device(fill(self.validation, m)),
            RowWeights(
                on_device(fill(keep, n)),
                on_device(fill(alias, n)),
                on_device(np.pad(of_validation, (0, m - len(of_validation)))),
                weights.n,
            ),
        )

    def log_likelihood(self, log_prob: Float[np.ndarray, " m"]) -> float:
        """Of the validation points, as many of them as the weights leave effective, nats."""
        m = log_prob.shape[0]
        if self.weights is not None:
            m = 1 / float((np.asarray(self.weights.validation, np.float64) ** 2).sum())
        return m * float(self.mean(log_prob).value)

    def in_proportion(self) -> Float[np.ndarray, "n d"]:
        """Training points in double precision, each as often as its weight says."""
        points = np.asarray(self.train, np.float64).reshape(self.train.shape[0], -1)
        if self.weights is None:
            return points
        return points[rows_in_proportion(self.weights.train)]


def filled_number(rows: int) -> int:
    """The number of rows that programs are compiled for: 256 times the least power of four.

    From 65,536 on powers of two, so that a large table is not held four times.
    """
    number = FEWEST_ROWS
    while number < rows:
        number *= 4 if number < MANY_ROWS else 2
    return number


def fill(values: Float[np.ndarray, "n *shape"], n: int) -> Float[np.ndarray, "n *shape"]:
    """Values with as many copies of the last as make `n`."""
    values = np.asarray(values)
    return np.concatenate([values, np.repeat(values[-1:], n - len(values), axis=0)])


def batch_size_of(most: int, rows: int) -> int:
    """Rows of a minibatch: the most, or where there are fewer rows the power of two below."""
    return most if rows >= most else 1 << (rows.bit_length() - 1)
