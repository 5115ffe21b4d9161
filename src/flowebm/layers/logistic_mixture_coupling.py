"""A smooth monotone map of one half of a point, set by the other half."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax.nn import log_sigmoid, log_softmax, logsumexp
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer
from flowebm.layers.monotone_inverse import invert_increasing
from flowebm.refusal import Refused


class LogisticMixtureCoupling(AbstractDataDependentLayer):
    r"""$y = (x_1,\; f_{x_1}(x_2))$ with the quantile map of a logistic mixture for each entry.

    $$f(x) = e^{a}\,\mathrm{logit}\,\Big(\sum_k \pi_k\, \sigma\big((x - \mu_k) e^{-s_k}\big)\Big)
      + b$$

    It bends as freely as a spline and has all derivatives, so that score matching sees its
    whole curvature; far out it is linear. Means start spread over `[-spread, spread]`, so that
    the components are told apart when the conditioner returns zero. The inverse is Newton's
    method to float precision.

    Args:
        shape: Shape of one point, `(c, ...)`; $x_1$ is its first `c // 2` channels.
        conditioner: The network from $x_1$ to the parameters: along its first axis
            `n_parameters(n_components)` for each channel of $x_2$, channel by channel.
        n_components: Components of a mixture.
        spread: Half-width of the interval of the means at the start, in the units of $x$.

    Raises:
        ValueError: If there are not two channels to split, or no component.

    Source: Ho et al. (2019), *Flow++*, section 3.2.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    conditioner: Callable[[Array], Array]
    n_components: int = eqx.field(static=True, default=8)
    spread: float = eqx.field(static=True, default=2.0)

    def __check_init__(self):
        if not self.shape or self.shape[0] < 2:
            raise Refused(
                f"A coupling needs at least two channels or features to split; got {self.shape}."
            )
        if self.n_components < 1:
            raise Refused(
                f"A logistic mixture needs at least one component; got {self.n_components}."
            )

    @staticmethod
    def n_parameters(n_components: int) -> int:
        """Parameters of one map: weights, means and scales, and the line after it."""
        return 3 * n_components + 2

    @property
    def n_kept(self) -> int:
        """How many channels pass unchanged."""
        return self.shape[0] // 2

    def _parameters(self, kept: Array) -> tuple[Array, ...]:
        """Log-weights, means and log-scales, components first, and the line, entries last."""
        n, entries = self.n_components, self.shape[0] - self.n_kept
        stacked = self.conditioner(kept).reshape(entries, -1, *self.shape[1:])
        by_parameter = jnp.moveaxis(stacked, 1, 0).reshape(self.n_parameters(n), -1)
        weights, offsets, narrowing, line = jnp.split(by_parameter, [n, 2 * n, 3 * n])
        means = jnp.linspace(-self.spread, self.spread, n)[:, None] + offsets
        log_scales = jnp.log(2 * self.spread / n) - narrowing
        return log_softmax(weights, axis=0), means, log_scales, line[0], line[1]

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        kept, moved = x[: self.n_kept], x[self.n_kept :]
        *mixture, log_slope, shift = self._parameters(kept)
        logit, log_derivative = _logit_and_log_derivative(moved.ravel(), *mixture)
        y = jnp.exp(log_slope) * logit + shift
        return jnp.concatenate([kept, y.reshape(moved.shape)]), (log_derivative + log_slope).sum()

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        kept, moved = y[: self.n_kept], y[self.n_kept :]
        *mixture, log_slope, shift = self._parameters(kept)
        logit = (moved.ravel() - shift) * jnp.exp(-log_slope)
        # A quantile of a mixture lies between those of its components.
        _, means, log_scales = mixture
        quantiles = means + jnp.exp(log_scales) * logit
        x = invert_increasing(
            lambda x: _logit_and_log_derivative(x, *mixture)[0],
            logit,
            quantiles.min(axis=0),
            quantiles.max(axis=0),
        )
        return jnp.concatenate([kept, x.reshape(moved.shape)])


def _logit_and_log_derivative(
    x: Float[Array, " entries"],
    log_weights: Float[Array, "components entries"],
    means: Float[Array, "components entries"],
    log_scales: Float[Array, "components entries"],
) -> tuple[Float[Array, " entries"], Float[Array, " entries"]]:
    """The logit of a mixture's distribution function, and the log of its derivative."""
    z = (x - means) * jnp.exp(-log_scales)
    below, above = log_sigmoid(z), log_sigmoid(-z)
    log_cdf = logsumexp(log_weights + below, axis=0)
    log_survival = logsumexp(log_weights + above, axis=0)
    log_density = logsumexp(log_weights - log_scales + below + above, axis=0)
    return log_cdf - log_survival, log_density - log_cdf - log_survival
