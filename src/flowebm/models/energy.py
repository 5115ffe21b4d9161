"""What every objective, sampler and evaluator takes: a density known up to its constant."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
from equinox import AbstractVar
from jaxtyping import Array, Float, Scalar

from flowebm.refusal import Refused


class AbstractEnergyModel(eqx.Module):
    r"""A density known up to a constant, $p(x) = e^{-E(x)} / Z$.

    Everything is written for one point; `jax.vmap` belongs to the caller.

    Attributes:
        shape: Shape of one point.

    Source: LeCun et al. (2006), *A tutorial on energy-based learning*.
    """

    shape: AbstractVar[tuple[int, ...]]

    @abstractmethod
    def energy(self, x: Float[Array, "..."]) -> Scalar:
        """The energy $E(x)$ of one point, in nats: low energy is high probability."""

    def unnormalized_log_prob(self, x: Float[Array, "..."]) -> Scalar:
        """$-E(x)$, the log-density of one point up to the constant $-\\log Z$."""
        return -self.energy(x)

    def score(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        r"""$\nabla_x \log p(x) = -\nabla_x E(x)$ at one point; the same shape as `x`."""
        return jax.grad(self.unnormalized_log_prob)(x)


class LogDensity(AbstractEnergyModel):
    """A user's function of one point, read as an unnormalised log-density.

    Args:
        log_density: Maps one point of shape `shape` to its log-density up to a constant.
        shape: Shape of one point.
    """

    log_density: Callable[[Array], Scalar]
    shape: tuple[int, ...] = eqx.field(static=True)

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(self, log_density: Callable[[Array], Scalar], shape: tuple[int, ...]):
        self.log_density = log_density
        self.shape = tuple(shape)

    def energy(self, x: Float[Array, "..."]) -> Scalar:
        return -self.log_density(x)


def as_energy_model(
    model: AbstractEnergyModel | Callable[[Array], Scalar], shape: tuple[int, ...] | None = None
) -> AbstractEnergyModel:
    """Return an energy model as it is, and wrap a plain log-density.

    Args:
        model: An energy model, or a function of one point that returns its
            log-density up to a constant.
        shape: Shape of one point; needed for a function.

    Returns:
        The model itself, or a `LogDensity`.

    Raises:
        TypeError: If `model` is neither.
        ValueError: If `model` is a function and `shape` is missing.
    """
    if isinstance(model, AbstractEnergyModel):
        return model
    if not callable(model):
        raise TypeError(
            f"Expected an energy model or a log-density function; got {type(model).__name__}."
        )
    if shape is None:
        raise Refused("A log-density function needs the shape of a point: pass shape=(d,).")
    return LogDensity(model, shape)
