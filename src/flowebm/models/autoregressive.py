"""An autoregressive density whose conditionals are mixtures of logistic distributions."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from flowebm.models.batches import in_batches, on_device
from flowebm.models.random_start import Draws
from flowebm.models.recipe import register

#: Least and largest scale of a logistic distribution, in units of the coordinate.
LEAST_SCALE, LARGEST_SCALE = 1e-5, 10.0

#: Distance from zero at which hidden units see every coordinate that is further out: what they make
#: of points beyond all data would grow from coordinate to coordinate of a draw, to infinity.
FARTHEST = 8.0

#: Ridge of the regressions that the network starts from.
RIDGE = 1e-6

#: Periods on either side over which the density of a circular coordinate is added up.
WINDINGS = 2


class Conditional(NamedTuple):
    """A mixture of logistic distributions in one coordinate, or in each.

    Attributes:
        log_weights: Of the components, adding up to one.
        means: Of the components.
        log_scales: Logarithms of their scales.
    """

    log_weights: Float[Array, "*d k"]
    means: Float[Array, "*d k"]
    log_scales: Float[Array, "*d k"]


@register
class AutoregressiveMixture(AbstractDistribution):
    r"""$p(x) = \prod_i \sum_k w_{ik}\, \mathrm{Logistic}(x_i; \mu_{ik}, s_{ik})$.

    Weights, means and scales of coordinate $i$ are functions of the coordinates before it in
    `order`, computed for all $i$ at once by one masked residual network: a density costs one
    pass, and a sample as many as there are coordinates. The means contain a linear function of
    those coordinates. The density of a circular coordinate, of period $2\pi$, is wrapped, and the
    network sees its cosine and sine.

    Args:
        order: Rank of each coordinate: conditionals depend on coordinates of lower rank.
        width: Units of a hidden layer.
        blocks: Residual blocks of two layers.
        components: Components $k$ of each conditional.
        circular: Coordinates of period $2\pi$, as one truth value each; none by default.
        key: Random key of the initial weights.

    Source: Germain et al. (2015), *MADE*, for the masks; Nash and Durkan (2019), *Autoregressive
    energy machines*, section 4, for residual ones; Uria et al. (2013), *RNADE*, for mixtures.
    """

    order: Int[Array, " d"]
    embed: Float[Array, "inputs width"]
    embed_bias: Float[Array, " width"]
    hidden: Float[Array, "blocks 2 width width"]
    hidden_bias: Float[Array, "blocks 2 width"]
    readout: Float[Array, "width d 3 k"]
    readout_bias: Float[Array, "d 3 k"]
    linear: Float[Array, "inputs d"]
    circular: tuple[bool, ...] = eqx.field(static=True)
    cond_shape = None

    def __init__(
        self,
        order: Int[np.ndarray, " d"],
        *,
        width: int = 256,
        blocks: int = 2,
        components: int = 10,
        circular: tuple[bool, ...] | None = None,
        key: PRNGKeyArray,
    ):
        d = len(order)
        self.circular = (False,) * d if circular is None else circular
        ranks = np.tile(order, 2 if any(self.circular) else 1)
        highest = np.arange(width) % max(1, d - 1)
        sees, passes = ranks[:, None] <= highest, highest[:, None] <= highest
        draws = Draws(key)

        def scales(mask):
            return np.maximum(mask.sum(axis=0), 1) ** -0.5

        # A block's second layer starts small, so that the block starts near the identity.
        of_blocks = scales(passes) * np.array([1.0, 0.1])[:, None, None]
        spread = np.linspace(-1.5, 1.5, components)
        start = np.stack([np.zeros(components), spread, np.full(components, -1.0)])
        self.order = jax.device_put(np.asarray(order, np.int32))
        self.embed = draws.normal(sees.shape, scales(sees))
        self.embed_bias = on_device(np.zeros(width))
        self.hidden = draws.normal((blocks, 2, width, width), of_blocks)
        self.hidden_bias = on_device(np.zeros((blocks, 2, width)))
        self.readout = on_device(np.zeros((width, d, 3, components)))
        self.readout_bias = on_device(np.broadcast_to(start, (d, 3, components)))
        self.linear = on_device(np.zeros((len(ranks), d)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.order.shape

    def _masks(self, width: int) -> tuple[Array, Array, Array]:
        """What hidden units see of the inputs, of one another, and outputs of them."""
        d = self.order.size
        ranks = jnp.tile(self.order, 2 if any(self.circular) else 1)
        highest = jnp.arange(width) % max(1, d - 1)
        sees = ranks[:, None] <= highest
        return sees, highest[:, None] <= highest, highest[:, None] < self.order

    def _inputs(self, x: Float[Array, " d"]) -> Float[Array, " inputs"]:
        if not any(self.circular):
            return x
        is_circular = jnp.asarray(self.circular)
        first = jnp.where(is_circular, jnp.cos(x), x)
        return jnp.concatenate([first, jnp.where(is_circular, jnp.sin(x), 0.0)])

    def _features(
        self, x: Float[Array, " d"], key: PRNGKeyArray | None, dropout: float
    ) -> Float[Array, " width"]:
        """The last hidden layer."""
        sees, passes, _ = self._masks(self.embed.shape[1])
        near = jnp.clip(self._inputs(x), -FARTHEST, FARTHEST)
        h = near @ (self.embed * sees) + self.embed_bias
        for i in range(self.hidden.shape[0]):
            (first, second), (b1, b2) = self.hidden[i] * passes, self.hidden_bias[i]
            update = jax.nn.silu(jax.nn.silu(h) @ first + b1)
            if key is not None and dropout > 0:
                kept = jr.bernoulli(jr.fold_in(key, i), 1 - dropout, update.shape)
                update = update * kept / (1 - dropout)
            h = h + update @ second + b2
        return jax.nn.silu(h)

    def conditionals(
        self, x: Float[Array, " d"], key: PRNGKeyArray | None = None, dropout: float = 0.0
    ) -> Conditional:
        """Every coordinate's distribution given those before it.

        Args:
            x: A point.
            key: Random key of the dropout; none without.
            dropout: Probability with which a hidden unit is left out.

        Returns:
            One mixture a coordinate.
        """
        width, d = self.readout.shape[:2]
        read = (self.readout * self._masks(width)[2][:, :, None, None]).reshape(width, -1)
        out = (self._features(x, key, dropout) @ read).reshape(d, 3, -1) + self.readout_bias
        earlier = jnp.tile(self.order, self.linear.shape[0] // d)[:, None] < self.order
        return self._conditional(out, self._inputs(x) @ (self.linear * earlier))

    @staticmethod
    def _conditional(out: Float[Array, "*d 3 k"], shift: Float[Array, "*d"]) -> Conditional:
        log_scales = jnp.log(LEAST_SCALE) + jax.nn.softplus(out[..., 2, :] - jnp.log(LEAST_SCALE))
        log_scales = jnp.minimum(log_scales, jnp.log(LARGEST_SCALE))
        log_weights = jax.nn.log_softmax(out[..., 0, :], axis=-1)
        return Conditional(log_weights, out[..., 1, :] + shift[..., None], log_scales)

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        return self.log_prob_with_dropout(x, None, 0.0)

    def log_prob_with_dropout(
        self, x: Float[Array, " d"], key: PRNGKeyArray | None, dropout: float
    ) -> Scalar:
        r"""$\log p(x)$ of the network without some of its hidden units, for training.

        Args:
            x: A point.
            key: Random key of the dropout.
            dropout: Probability with which a hidden unit is left out.

        Returns:
            Nats.

        Source: Srivastava et al. (2014), *Dropout*.
        """
        log_weights, means, log_scales = self.conditionals(x, key, dropout)
        distance = x[:, None] - means
        plain = _logistic_log_pdf(distance, log_scales)
        if any(self.circular):
            distance = _wrap(distance)
            turns = 2 * jnp.pi * jnp.arange(-WINDINGS, WINDINGS + 1)[:, None, None]
            wrapped = jax.nn.logsumexp(_logistic_log_pdf(distance + turns, log_scales), axis=0)
            plain = jnp.where(jnp.asarray(self.circular)[:, None], wrapped, plain)
        return jax.nn.logsumexp(log_weights + plain, axis=-1).sum()

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        width, d = self.readout.shape[:2]
        readable = self._masks(width)[2]
        coordinates = jnp.argsort(self.order)
        is_circular = jnp.asarray(self.circular)

        def draw(x, inputs):
            i, key = inputs
            out = (self._features(x, None, 0.0) * readable[:, i]) @ self.readout[:, i].reshape(
                width, -1
            )
            earlier = jnp.tile(self.order, self.linear.shape[0] // d) < self.order[i]
            shift = self._inputs(x) @ (self.linear[:, i] * earlier)
            out = out.reshape(3, -1) + self.readout_bias[i]
            log_weights, means, log_scales = self._conditional(out, shift)
            choice_key, noise_key = jr.split(key)
            k = jr.categorical(choice_key, log_weights)
            value = means[k] + jnp.exp(log_scales[k]) * jr.logistic(noise_key)
            return x.at[i].set(jnp.where(is_circular[i], _wrap(value), value)), None

        return jax.lax.scan(draw, jnp.zeros(d), (coordinates, jr.split(key, d)))[0]


def _logistic_log_pdf(distance: Array, log_scale: Array) -> Array:
    z = distance * jnp.exp(-log_scale)
    return -jax.nn.softplus(z) - jax.nn.softplus(-z) - log_scale


def _wrap(angle: Array) -> Array:
    return jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi


def started_at(
    model: AutoregressiveMixture, points: Float[np.ndarray, "n d"]
) -> AutoregressiveMixture:
    r"""The network that starts as linear regressions with the distributions of their residuals.

    Means are spread over the residuals' quantiles around $\hat x_i = A x_{<i}$, so that linear
    relations between columns, however narrow, are there before the first step.

    Args:
        model: A network with a zero readout.
        points: Training points, one a row.

    Returns:
        The same network with another linear part and other readout biases.
    """
    points = np.asarray(points, np.float64)
    n, d = points.shape
    inputs = points
    if any(model.circular):
        of_many = jax.jit(lambda rows: jax.vmap(model._inputs)(rows))
        inputs = in_batches(of_many, points).astype(np.float64)
    order, components = np.asarray(model.order), model.readout.shape[-1]
    ranks = np.tile(order, inputs.shape[1] // d)
    linear, bias = np.zeros((inputs.shape[1], d)), np.array(model.readout_bias, np.float64)
    levels = (np.arange(components) + 0.5) / components
    for i in range(d):
        residual = points[:, i]
        seen = inputs[:, ranks < order[i]]
        if seen.shape[1] and not model.circular[i]:
            design = np.column_stack([seen, np.ones(n)])
            ridge = RIDGE * n * np.eye(design.shape[1])
            slopes = np.linalg.solve(design.T @ design + ridge, design.T @ residual)[:-1]
            linear[ranks < order[i], i] = slopes
            residual = residual - seen @ slopes
        spread = max(float(residual.std()), 10 * LEAST_SCALE)
        bias[i, 1] = np.quantile(residual, levels)
        bias[i, 2] = np.log(spread * max(0.06, 0.9 / components))
    return eqx.tree_at(
        lambda m: (m.linear, m.readout_bias),
        model,
        (on_device(linear), on_device(bias)),
    )


__all__ = ["AutoregressiveMixture", "Conditional", "started_at"]
