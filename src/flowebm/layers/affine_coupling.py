"""An affine map of one half of a point, set by the other half."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer
from flowebm.refusal import Refused


class AffineCoupling(AbstractDataDependentLayer):
    r"""$y = (x_1,\; x_2\, e^{s(x_1)} + t(x_1))$, halves taken along the first axis.

    The log-scale is bounded smoothly, $s = m \tanh(\hat s / m)$, which keeps energies finite
    far from the data.

    Args:
        shape: Shape of one point, `(c, ...)`; $x_1$ is its first `c // 2` channels.
        conditioner: The network from $x_1$ to $(\hat s, t)$, stacked along the first axis.
        max_log_scale: The bound $m$.

    Raises:
        ValueError: If there are not two channels to split.

    Source: Dinh, Sohl-Dickstein, Bengio (2017), section 3.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    conditioner: Callable[[Array], Array]
    max_log_scale: float = eqx.field(static=True, default=2.0)

    def __check_init__(self):
        if not self.shape or self.shape[0] < 2:
            raise Refused(
                f"A coupling needs at least two channels or features to split; got {self.shape}."
            )

    @property
    def n_kept(self) -> int:
        """How many channels pass unchanged."""
        return self.shape[0] // 2

    def _log_scale_and_shift(self, kept: Array) -> tuple[Array, Array]:
        raw, shift = jnp.split(self.conditioner(kept), 2)
        return self.max_log_scale * jnp.tanh(raw / self.max_log_scale), shift

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        kept, moved = x[: self.n_kept], x[self.n_kept :]
        log_scale, shift = self._log_scale_and_shift(kept)
        return jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift]), log_scale.sum()

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        kept, moved = y[: self.n_kept], y[self.n_kept :]
        log_scale, shift = self._log_scale_and_shift(kept)
        return jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)])
