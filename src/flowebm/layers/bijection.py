"""A layer where flowjax expects a bijection."""

from typing import ClassVar

from flowjax.bijections import AbstractBijection
from jaxtyping import Array

from flowebm.layers.chain import Chain
from flowebm.layers.layer import AbstractLayer
from flowebm.refusal import Refused


class LayerBijection(AbstractBijection):
    """A layer, or a `Chain` of them, as a flowjax bijection from data to latents.

    Args:
        layer: Any layer that keeps the shape of its input.

    Raises:
        ValueError: If the layer changes the shape.
    """

    chain: Chain
    cond_shape: ClassVar[None] = None

    def __init__(self, layer: AbstractLayer):
        self.chain = layer if isinstance(layer, Chain) else Chain([layer])
        if self.chain.shape != self.chain.out_shape:
            raise Refused(
                "flowjax bijections keep the shape of a point, but this layer maps "
                f"{self.chain.shape} to {self.chain.out_shape}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return self.chain.shape

    def transform_and_log_det(self, x: Array, condition: Array | None = None):
        y, log_det = self.chain.forward_and_data_dependent_log_det(x)
        return y, log_det + self.chain.constant_log_det()

    def inverse_and_log_det(self, y: Array, condition: Array | None = None):
        x = self.chain.inverse(y)
        return x, -self.transform_and_log_det(x)[1]
