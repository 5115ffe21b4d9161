"""Layers applied one after the other."""

from typing import Self

import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import (
    AbstractCompositeLayer,
    AbstractConstantJacobianLayer,
    AbstractDataDependentLayer,
    AbstractLayer,
)
from flowebm.refusal import Refused


class Chain(AbstractCompositeLayer):
    r"""The composition $g = g_L \circ \dots \circ g_1$.

    Args:
        layers: $g_1, \dots, g_L$, the first applied to the data first.

    Raises:
        TypeError: If a layer is of none of the three kinds.
        ValueError: If there is no layer, or if a layer does not take the shape that the one
            before it returns.

    Source: Papamakarios et al. (2021), *Normalizing flows for probabilistic modeling and
    inference*, section 2.1; Chao et al. (2023), section 4.1, for the two kinds kept apart.
    """

    layers: tuple[AbstractLayer, ...]

    def __init__(self, layers):
        self.layers = tuple(layers)

    def __check_init__(self):
        if not self.layers:
            raise Refused("A chain needs at least one layer; got none.")
        kinds = (AbstractConstantJacobianLayer, AbstractDataDependentLayer, AbstractCompositeLayer)
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, kinds):
                raise TypeError(
                    f"Layer {i} is a {type(layer).__name__}, not a flowebm layer: derive it from "
                    "AbstractConstantJacobianLayer or AbstractDataDependentLayer."
                )
            if i and layer.shape != self.layers[i - 1].out_shape:
                raise Refused(
                    f"Layer {i} ({type(layer).__name__}) takes shape {layer.shape}, but layer "
                    f"{i - 1} returns {self.layers[i - 1].out_shape}: make them equal."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layers[0].shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.layers[-1].out_shape

    def forward_and_data_dependent_log_det(
        self, x: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], Scalar]:
        total = jnp.zeros((), x.dtype)
        for layer in self.layers:
            if isinstance(layer, AbstractDataDependentLayer):
                x, log_det = layer.forward_and_log_det(x)
                total = total + log_det
            elif isinstance(layer, AbstractCompositeLayer):
                x, log_det = layer.forward_and_data_dependent_log_det(x)
                total = total + log_det
            else:
                x = layer.forward(x)
        return x, total

    def constant_log_det(self) -> Scalar:
        total = jnp.zeros(())
        for layer in self.layers:
            if isinstance(layer, AbstractConstantJacobianLayer):
                total += layer.log_det()
            elif isinstance(layer, AbstractCompositeLayer):
                total += layer.constant_log_det()
        return total

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        for layer in reversed(self.layers):
            y = layer.inverse(y)
        return y

    def initialized(self, batch: Float[Array, "batch ..."]) -> Self:
        """Every layer started from what the layers before it make of the batch."""
        layers = []
        for layer in self.layers:
            started = layer.initialized(batch)
            batch = jax.vmap(paramax.unwrap(started).forward)(batch)
            layers.append(started)
        return type(self)(layers)
