"""A density that was fitted, with what validation points say of it, and the rule of choice."""

from typing import Any, NamedTuple

import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Float

from flowebm.models.stack import log_probs
from flowebm.training.rows import Rows


class Candidate(NamedTuple):
    """A fitted density.

    Attributes:
        name: What it is, in a word.
        density: The density, over points.
        log_prob: Its log-density at every validation point, nats.
        history: A row of metrics a block of its training.
    """

    name: str
    density: AbstractDistribution
    log_prob: Float[np.ndarray, " m"]
    history: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        density: AbstractDistribution,
        rows: Rows,
        history: tuple[dict[str, Any], ...] = (),
    ) -> "Candidate":
        """A density, evaluated at the validation points.

        Args:
            name: What it is.
            density: The density.
            rows: The rows.
            history: Metrics of its training.
        """
        return cls(name, density, log_probs(density, rows.validation), history)


def gain(candidate: Candidate, other: Candidate, rows: Rows) -> tuple[float, float]:
    """By how much a candidate's log-density of validation points is above another's.

    Args:
        candidate: The one.
        other: The other.
        rows: The rows.

    Returns:
        The weighted mean of the paired differences and its standard error, nats.
    """
    difference = rows.mean(candidate.log_prob - other.log_prob)
    return float(difference.value), float(difference.stderr)


def better_of(simple: Candidate, rich: Candidate, rows: Rows) -> Candidate:
    """The richer candidate if its gain on validation points is more than one standard error.

    Args:
        simple: The candidate to keep otherwise.
        rich: The candidate that must prove itself.
        rows: The rows.

    Source: Breiman et al. (1984), *Classification and regression trees*, section 3.4.3, for the
    rule of one standard error.
    """
    value, stderr = gain(rich, simple, rows)
    return rich if value > stderr else simple
