"""Layers of one form, one after the other, as a loop that is compiled once."""

from collections.abc import Callable, Sequence
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PRNGKeyArray, Scalar

from flowebm.layers.chain import Chain
from flowebm.layers.layer import AbstractCompositeLayer, AbstractLayer
from flowebm.refusal import Refused


class Repeated(AbstractCompositeLayer):
    r"""The composition $g_n \circ \dots \circ g_1$ of layers that differ in their arrays alone.

    A `Chain` of them is as many programs written one behind the other, and derivatives of
    derivatives of it more than a compiler gets through: of a Glow of sixteen steps on 28×28 pixels
    none was compiled within two minutes.

    Args:
        step: Makes one step from a key: its layers, the first applied first.
        keys: As many random keys as there are to be steps.

    Raises:
        ValueError: If a step changes a point's shape.

    Source: Papamakarios et al. (2021), section 2.1, for the composition.
    """

    steps: Chain

    def __init__(
        self,
        step: Callable[[PRNGKeyArray], Sequence[AbstractLayer]],
        keys: Key[Array, " n"],
    ):
        self.steps = eqx.filter_vmap(lambda key: Chain(step(key)))(keys)
        if self.steps.shape != self.steps.out_shape:
            raise Refused(
                f"Repeated steps return points of the shape that they take; these take "
                f"{self.steps.shape} and return {self.steps.out_shape}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.steps.shape

    def forward_and_data_dependent_log_det(
        self, x: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], Scalar]:
        def apply(point_and_total, step):
            x, total = point_and_total
            x, log_det = step.forward_and_data_dependent_log_det(x)
            return (x, total + log_det), None

        (x, total), _ = self._scan(apply, (x, jnp.zeros((), x.dtype)))
        return x, total

    def constant_log_det(self) -> Scalar:
        return jnp.sum(eqx.filter_vmap(lambda step: step.constant_log_det())(self.steps))

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return self._scan(lambda y, step: (step.inverse(y), None), y, reverse=True)[0]

    def initialized(self, batch: Float[Array, "batch ..."]) -> Self:
        """Every step started from what the steps before it make of the batch."""

        def start(batch, step):
            started = step.initialized(batch)
            batch = jax.vmap(paramax.unwrap(started).forward)(batch)
            return batch, eqx.filter(started, eqx.is_array)

        _, arrays = self._scan(start, batch)
        return eqx.tree_at(lambda layer: layer.steps, self, eqx.combine(arrays, self.steps))

    def _scan(self, function, carry, *, reverse: bool = False):
        """`jax.lax.scan` of a function of what is carried and of a step."""
        arrays, static = eqx.partition(self.steps, eqx.is_array)
        return jax.lax.scan(
            lambda carry, arrays: function(carry, eqx.combine(arrays, static)),
            carry,
            arrays,
            reverse=reverse,
        )
