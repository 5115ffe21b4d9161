"""A number with its error, and the warning for errors that cannot be believed."""

import sys
import warnings
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
    """A fit or an estimate is not all that it looks, such as a standard error that is not to be
    believed."""


def warn(sentence: str) -> None:
    """Raise an `EstimateWarning` that points to the line outside of flowebm which led to it.

    Args:
        sentence: What the user is told.
    """
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _package_of(frame) == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, EstimateWarning, stacklevel=level)


def _package_of(frame) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
