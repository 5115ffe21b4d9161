"""A spline of one half of a point, set by the other half."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.utils import get_ravelled_pytree_constructor
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer
from flowebm.refusal import Refused


class SplineCoupling(AbstractDataDependentLayer):
    r"""$y = (x_1,\; f_{x_1}(x_2))$ with a rational quadratic spline for each entry of $x_2$.

    The splines are flowjax's, with slope 1 at both ends: the identity where the conditioner
    returns zero, and outside `[-interval, interval]`. Their slope has kinks at the knots, where
    the score jumps, and the trace of $\partial s / \partial x$ does not see jumps: `exact` and
    `ssm` are wrong for this layer, and their descent can make use of it. `fdssm` sees them in
    expectation, as differences of energies do; `dsm`, `ml` and `sml` have no such trace. For
    score matching take `LogisticMixtureCoupling`, which is smooth.

    Args:
        shape: Shape of one point, `(c, ...)`; $x_1$ is its first `c // 2` channels.
        conditioner: The network from $x_1$ to the splines' parameters: along its first axis
            `n_parameters(n_knots)` for each channel of $x_2$, channel by channel.
        n_knots: Inner knots of a spline.
        interval: Half-width of the interval that splines bend, in the units of $x$.

    Raises:
        ValueError: If there are not two channels to split.

    Source: Durkan et al. (2019), *Neural Spline Flows*.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    conditioner: Callable[[Array], Array]
    n_knots: int = eqx.field(static=True, default=8)
    interval: float = eqx.field(static=True, default=5.0)

    def __check_init__(self):
        if not self.shape or self.shape[0] < 2:
            raise Refused(
                f"A coupling needs at least two channels or features to split; got {self.shape}."
            )

    @staticmethod
    def n_parameters(n_knots: int) -> int:
        """Parameters of one spline: widths, heights and slopes (those at the ends unused)."""
        return 3 * n_knots + 4

    @property
    def n_kept(self) -> int:
        """How many channels pass unchanged."""
        return self.shape[0] // 2

    def _parameters(self, kept: Array) -> Float[Array, "entries parameters"]:
        n_moved = self.shape[0] - self.n_kept
        stacked = self.conditioner(kept).reshape(n_moved, -1, *self.shape[1:])
        return jnp.moveaxis(stacked, 1, -1).reshape(-1, self.n_parameters(self.n_knots))

    def _spline(self, parameters: Float[Array, " parameters"]) -> RationalQuadraticSpline:
        identity = RationalQuadraticSpline(knots=self.n_knots, interval=self.interval)
        constructor, _ = get_ravelled_pytree_constructor(identity, eqx.is_inexact_array)
        spline = paramax.unwrap(constructor(parameters))
        # flowjax leaves the slopes at the ends free, which would make the density jump there.
        ends = jnp.array([0, -1])
        return eqx.tree_at(lambda s: s.derivatives, spline, spline.derivatives.at[ends].set(1.0))

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        kept, moved = x[: self.n_kept], x[self.n_kept :]
        y, log_det = jax.vmap(lambda p, x: self._spline(p).transform_and_log_det(x))(
            self._parameters(kept), moved.ravel()
        )
        return jnp.concatenate([kept, y.reshape(moved.shape)]), log_det.sum()

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        kept, moved = y[: self.n_kept], y[self.n_kept :]
        x = jax.vmap(lambda p, y: self._spline(p).inverse(y))(self._parameters(kept), moved.ravel())
        return jnp.concatenate([kept, x.reshape(moved.shape)])
