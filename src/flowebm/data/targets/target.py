"""What a synthetic data set with a known density promises."""

from abc import abstractmethod

from equinox import AbstractVar
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int


class AbstractTarget(AbstractDistribution):
    r"""A normalised density to fit and to measure against.

    A target is a flowjax distribution (`log_prob`, `sample`, `sample_and_log_prob`), so a fitted
    model can be compared with the truth. Its parameters are static: a target has no leaves to
    train, and its precision is that of the points it is given.

    Attributes:
        shape: Shape of one point.
        mode_weights: The probabilities $P(\text{mode}(x) = k)$ of the modes, shape `(K,)`, or
            None where the density has no separated modes.
    """

    mode_weights: AbstractVar[Float[Array, " K"] | None]

    @abstractmethod
    def mode(self, x: Float[Array, "..."]) -> Int[Array, ""]:
        """The index of the mode that one point most likely came from; 0 without modes."""
