"""What an objective is, and what it asks of a model."""

from collections.abc import Callable
from typing import TypeAlias

from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.refusal import Refused

#: `(model, x, key) -> loss`: a model, points of shape `(batch, *shape)`, a PRNG key, and the
#: scalar to minimise over the model's parameters.
Objective: TypeAlias = Callable[[AbstractEnergyModel, Array, PRNGKeyArray], Scalar]


def check_energy_model(name: str, model: object, x: Float[Array, "batch *shape"]) -> None:
    """Refuse what is no energy model, and points of another shape than the model's.

    Args:
        name: The objective's name, for the message.
        model: The model.
        x: The batch.

    Raises:
        TypeError: If `model` is no energy model.
        ValueError: If the points of `x` are not of the model's shape.
    """
    if not isinstance(model, AbstractEnergyModel):
        raise TypeError(
            f"The objective {name} needs an energy model, but {type(model).__name__} is none: "
            "wrap a log-density with flowebm.models.as_energy_model."
        )
    if x.ndim == 0 or x.shape[1:] != model.shape:
        raise Refused(
            f"The objective {name} needs a batch of points of shape {model.shape}; got an array "
            f"of shape {x.shape}."
        )


def check_normalized(name: str, model: object, x: Float[Array, "batch *shape"]) -> None:
    """Refuse energy models without an exact `log_prob` and `sample`.

    Raises:
        TypeError: If `model` is no energy model, or its normaliser is unknown.
        ValueError: If the points of `x` are not of the model's shape.
    """
    check_energy_model(name, model, x)
    if not isinstance(model, AbstractDistribution):
        raise TypeError(
            f"The objective {name} needs a model with exact log_prob and sample, which "
            f"{type(model).__name__} does not have: use an EBFlow, or one of exact, ssm, dsm and "
            "fdssm, which need the energy only."
        )
