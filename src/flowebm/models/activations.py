"""Smooth activation functions, by the name under which a saved model records them."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal

import jax
from jaxtyping import Array

from flowebm.refusal import Refused

#: Their names.
Activation = Literal["silu", "softplus", "gelu", "tanh"]

#: Energies are differentiated twice (a gradient of a score), so only smooth functions serve.
ACTIVATIONS = MappingProxyType(
    {
        "silu": jax.nn.silu,
        "softplus": jax.nn.softplus,
        "gelu": jax.nn.gelu,
        "tanh": jax.numpy.tanh,
    }
)


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function called `name`.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise Refused(f"Unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
