"""EBFlow's ten-dimensional comparison of linear layers."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.stats import norm

from flowebm.data.targets.target import AbstractTarget


class Multimodal10(AbstractTarget):
    r"""A chain of ten coordinates, each near plus or minus a centre set by the one before.

    $$y_0 = x_0, \qquad y_i = s_i \tanh(5 x_i), \quad s_i = y_{i-1} + 2 \cdot 2^i,
      \qquad x \sim \mathcal{N}(0, I_{10}).$$

    The map is triangular, so with $t_i = y_i / s_i$ and $x_i = \tfrac15 \operatorname{artanh} t_i$

    $$\log p(y) = \sum_{i=0}^{9} \log \mathcal{N}(x_i; 0, 1)
      - \sum_{i=1}^{9} \log\big(5\, |s_i|\, (1 - t_i^2)\big)
      \quad\text{for } |y_i| < |s_i|, \text{ and } -\infty \text{ elsewhere.}$$

    Half of the mass of a coordinate has $1 - |t_i|$ under 0.003, and what is within rounding of
    the edge is as good as on it: a ninth of it in single precision, 0.007% in double. Such points
    count as half a unit roundoff inside. Draw and evaluate in double precision where the value
    matters; `sample_and_log_prob` is exact in both, as it knows $x$.

    The $2^9$ modes have equal weights. They are not told apart here: 20,000 points have too few
    in each to measure them.

    Source: Chao et al. (2023), comparison of linear layers.
    """

    shape: ClassVar[tuple[int, ...]] = (10,)
    cond_shape: ClassVar[None] = None
    mode_weights: ClassVar[None] = None

    def _log_prob(self, y, condition=None):
        previous, y, shift = y[:-1], y[1:], self._shifts(y.dtype)
        eps = jnp.finfo(y.dtype).eps
        edge = jnp.maximum(jnp.abs(previous + shift), jnp.finfo(y.dtype).tiny)
        # 1 - |t| from the difference of near numbers, which is exact, and not from their ratio.
        gap = jnp.maximum((edge - jnp.abs(y)) / edge, eps / 2)
        log_gap, log_rest = jnp.log(gap), jnp.log(2 - gap)
        log_slope = jnp.log(5 * edge) + log_gap + log_rest
        log_prob = norm.logpdf((log_rest - log_gap) / 10) - log_slope
        # Rounding both ends of the interval can leave a sample's y beyond it by this much.
        slack = 4 * eps * (jnp.abs(previous) + shift)
        inside = jnp.all(jnp.abs(y) <= edge + slack)
        return jnp.where(inside, norm.logpdf(previous[0]) + log_prob.sum(), -jnp.inf)

    def _sample(self, key, condition=None):
        return self._sample_and_log_prob(key)[0]

    def _sample_and_log_prob(self, key, condition=None):
        x = jr.normal(key, self.shape)

        def coordinate(previous, step):
            t, shift = step
            edge = previous + shift
            return t * edge, (t * edge, edge)

        _, (y, edge) = jax.lax.scan(coordinate, x[0], (jnp.tanh(5 * x[1:]), self._shifts(x.dtype)))
        u = 5 * jnp.abs(x[1:])
        # log(1 - tanh(u)^2) without the cancellation.
        log_slope = jnp.log(5 * jnp.abs(edge)) + 2 * (jnp.log(2.0) - u - jnp.log1p(jnp.exp(-2 * u)))
        return jnp.concatenate([x[:1], y]), norm.logpdf(x).sum() - log_slope.sum()

    def _shifts(self, dtype):
        return 2.0 * 2.0 ** jnp.arange(1, 10, dtype=dtype)

    def mode(self, x):
        return jnp.zeros((), int)
