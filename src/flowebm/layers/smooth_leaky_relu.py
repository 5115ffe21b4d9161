"""The smooth leaky ReLU, the activation of EBFlow."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer
from flowebm.layers.monotone_inverse import invert_increasing
from flowebm.refusal import Refused


class SmoothLeakyReLU(AbstractDataDependentLayer):
    r"""$y = \alpha x + (1 - \alpha)\,\mathrm{softplus}(x)$, plus $x$ when residual.

    Its slope $\alpha + (1 - \alpha)\,\sigma(x)$ (plus 1) is positive and smooth. The inverse is
    Newton's method to float precision.

    Args:
        shape: Shape of one point.
        alpha: Slope $\alpha$ at $-\infty$, in (0, 1].
        residual: Whether $x$ is added.

    Raises:
        ValueError: If `alpha` is not in (0, 1].

    Source: Chao et al. (2023), appendix (experimental setups).
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    alpha: float = eqx.field(static=True, default=0.3)
    residual: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not 0 < self.alpha <= 1:
            raise Refused(f"SmoothLeakyReLU needs alpha in (0, 1]; got {self.alpha}.")

    @property
    def _slope(self) -> float:
        return self.alpha + self.residual

    def _activation(self, x: Array) -> Array:
        return self._slope * x + (1 - self.alpha) * softplus(x)

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        slope = self._slope + (1 - self.alpha) * jax.nn.sigmoid(x)
        return self._activation(x), jnp.log(slope).sum()

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        # relu(x) <= softplus(x) <= relu(x) + log 2 brackets the root between two leaky ReLUs.
        def leaky_inverse(y):
            return y / jnp.where(y < 0, self._slope, self._slope + 1 - self.alpha)

        lower = leaky_inverse(y - (1 - self.alpha) * jnp.log(2.0))
        return invert_increasing(self._activation, y, lower, leaky_inverse(y))


@jax.custom_jvp
def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\log(1 + e^x)$, whose derivative is the sigmoid that the layer has computed anyway.

    `jax.nn.softplus` differentiates through further exponentials, which doubles the time of the
    activations in a step of sliced score matching. Its `log1p` takes longer than a logarithm and
    is right to the last digit where $e^x$ is far below one; beside $\alpha x$ that is nothing.
    """
    return jnp.maximum(x, 0) + jnp.log(1 + jnp.exp(-jnp.abs(x)))


softplus.defjvps(lambda dx, y, x: jax.nn.sigmoid(x) * dx)
