"""The library's standard energy-based model: a network that tilts a proper base density."""

from collections.abc import Callable
from itertools import zip_longest

import jax
import paramax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Scalar

from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.recipe import register
from flowebm.refusal import Refused


@register
class EnergyModel(AbstractEnergyModel):
    r"""A tilted base, $E(x) = U(x) - \log b(x)$.

    With a tilt $U$ whose last layer is zero the model *is* its base; with a tilt bounded
    below, $Z$ is finite.

    Args:
        tilt: The network $U$: one point to a scalar (nats).
        base: A proper density $b$ over points of the same shape, with `log_prob` and
            `sample`. Wrap it in `paramax.non_trainable` to keep it as it is in training.

    Raises:
        ValueError: If the base is conditional.

    Source: Grenioux, Moulines, Gabrié (2023), section 2.
    """

    tilt: Callable[[Array], Scalar]
    base: AbstractDistribution

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(self, tilt: Callable[[Array], Scalar], base: AbstractDistribution):
        self.tilt = tilt
        self.base = base

    def __check_init__(self):
        if self.base.cond_shape is not None:
            raise Refused("The base of an EnergyModel must be unconditional.")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def is_based_on(self, proposal: AbstractDistribution) -> bool:
        """Whether a proposal is the base itself, array by array.

        Args:
            proposal: A distribution.

        Returns:
            Whether draws of it are draws of the base.
        """
        leaves = (jax.tree.leaves(part) for part in (self.base, proposal))
        return all(a is b for a, b in zip_longest(*leaves))

    def energy(self, x: Float[Array, "..."]) -> Scalar:
        model = paramax.unwrap(self)
        return model.tilt(x) - model.base.log_prob(x)
