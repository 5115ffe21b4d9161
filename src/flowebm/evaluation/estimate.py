"""A number with its error, and the warning for errors that cannot be believed."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Estimate(NamedTuple):
    """A Monte Carlo estimate of a number.

    Attributes:
        value: The estimate.
        stderr: Its standard error, in the same unit.
    """

    value: float | Float[Array, "..."]
    stderr: float | Float[Array, "..."]


class EstimateWarning(UserWarning):
    """The reported standard error itself is not to be believed."""
