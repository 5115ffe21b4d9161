"""The rows of a fit: those that train, those that choose, and how much each counts."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.training.row_weights import RowWeights, rows_in_proportion


class Rows(eqx.Module):
    """Training and validation points with their weights.

    Attributes:
        train: Training points, one a row.
        validation: Validation points, one a row.
        weights: How much both count; `None` where all count alike.
    """

    train: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    weights: RowWeights | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return self.train.shape[1:]

    def mean(self, values: Float[Array, " m"]) -> Estimate:
        """The weighted mean of one value a validation point, with its standard error."""
        return weighted_mean(values, self.weights and self.weights.validation)

    def log_likelihood(self, log_prob: Float[Array, " m"]) -> float:
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
