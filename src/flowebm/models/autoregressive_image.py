"""An autoregressive density of images of whole-number pixels, from coarse to fine."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from flowebm.models.batches import on_device
from flowebm.models.random_start import Draws
from flowebm.models.recipe import register
from flowebm.refusal import Refused

#: Least scale of a logistic distribution, in units of half a level, and largest, in units of half
#: the range.
LEAST_SCALE, LARGEST_SCALE = 0.1, 4.0

#: How far from the center a mean may be, in units of half the range: of one that is far beyond
#: every level their probabilities would be differences of huge numbers, and no longer add up.
FARTHEST = 3.0

#: Share of all levels alike in what is said of a pixel: what no component expects costs some
#: twenty nats at most, and no single pixel upsets a training.
UNIFORM = 1e-5

#: Sides up to which an image is not made coarser: so few pixels are seen all at once.
COARSEST = 8


class Glimpse(NamedTuple):
    """A pixel, and what a network is told before it.

    Attributes:
        before: Values in (-1, 1): earlier pixels, and those of coarser scales.
        row: Which row it is in, as one of all.
        column: Which column.
        value: Its level, channel by channel.
        low: The lowest level that it can have.
        high: The highest.
        center: The level to be expected: what is left of the block's sum, shared out.
    """

    before: Float[Array, " inputs"]
    row: Float[Array, " height"]
    column: Float[Array, " width"]
    value: Float[Array, " channels"]
    low: Float[Array, " channels"]
    high: Float[Array, " channels"]
    center: Float[Array, " channels"]


class PixelMixture(NamedTuple):
    r"""A mixture of logistic distributions of one pixel's channels, around its center.

    Attributes:
        log_weights: Of the components, adding up to one.
        means: Of each channel, in units of half the range, before what earlier channels add.
        log_scales: Logarithms of their scales.
        slopes: What a channel's mean gains by an earlier one, `[channel, earlier]`.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "channels k"]
    log_scales: Float[Array, "channels k"]
    slopes: Float[Array, "channels channels k"]


@register
class PixelNetwork(eqx.Module):
    r"""The pixels of one scale, one by one from the top left, given those of the coarser scales.

    Args:
        shape: `(channels, height, width)` of the scale.
        levels: Number of levels of its pixels.
        overview: Numbers that the network is told of what the whole image shows.
        is_coarsest: Whether there is no coarser scale.
        above: Rows above a pixel that the network sees.
        beside: Columns on either side of it.
        around: Pixels of the next coarser scale that it sees in every direction.
        width: Units of a hidden layer.
        blocks: Residual blocks of two layers.
        components: Components of a pixel's mixture.
        key: Random key of the initial weights.
    """

    embed: Float[Array, "inputs width"]
    of_row: Float[Array, "height width"]
    of_column: Float[Array, "columns width"]
    hidden: Float[Array, "blocks 2 width width"]
    hidden_bias: Float[Array, "blocks 2 width"]
    readout: Float[Array, "width outputs"]
    readout_bias: Float[Array, " outputs"]
    shape: tuple[int, ...] = eqx.field(static=True)
    levels: int = eqx.field(static=True)
    above: int = eqx.field(static=True)
    beside: int = eqx.field(static=True)
    around: int = eqx.field(static=True)
    is_coarsest: bool = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        overview: int,
        *,
        is_coarsest: bool = True,
        above: int = 4,
        beside: int = 4,
        around: int = 2,
        width: int = 256,
        blocks: int = 2,
        components: int = 8,
        key: PRNGKeyArray,
    ):
        channels, height, columns = shape
        self.shape, self.levels, self.around = tuple(shape), levels, around
        self.above, self.beside = min(above, height - 1), min(beside, columns - 1)
        self.is_coarsest = is_coarsest
        inputs = overview + channels * (self.above * (2 * self.beside + 1) + self.beside)
        if is_coarsest:
            inputs += int(np.prod(shape))
        else:
            inputs += channels * (2 * around + 1) ** 2 + 4 + channels
        draws = Draws(key)
        # A block's second layer starts small, so that the block starts near the identity.
        of_blocks = width**-0.5 * np.array([1.0, 0.1])[:, None, None]
        spread = np.broadcast_to(np.linspace(-0.5, 0.5, components), (channels, components))
        scales, slopes = np.full(spread.size, -2.0), np.zeros(channels * spread.size)
        bias = np.concatenate([np.zeros(components), spread.ravel(), scales, slopes])
        self.embed = draws.normal((inputs, width), inputs**-0.5)
        self.of_row = on_device(np.zeros((height, width)))
        self.of_column = on_device(np.zeros((columns, width)))
        self.hidden = draws.normal((blocks, 2, width, width), of_blocks)
        self.hidden_bias = on_device(np.zeros((blocks, 2, width)))
        self.readout = on_device(np.zeros((width, bias.size)))
        self.readout_bias = on_device(bias)

    @property
    def places(self) -> Int[np.ndarray, " n"]:
        """Numbers of the pixels that are free, row by row.

        The last of each block of four is what the others leave of the block's sum.
        """
        number = np.arange(self.shape[1] * self.shape[2]).reshape(self.shape[1:])
        if self.is_coarsest:
            return number.ravel()
        return np.delete(number.ravel(), number[1::2, 1::2].ravel())

    def frame(self, x: Float[Array, "channels height width"]) -> Float[Array, "channels h w"]:
        """Levels with a margin, of the middle of the range, that windows reach into.

        Args:
            x: The levels of this scale's pixels.
        """
        pads = (0, 0), (self.margin[0],) * 2, (self.margin[1],) * 2
        return jnp.pad(x, pads, constant_values=(self.levels - 1) / 2)

    def unframed(self, framed: Float[Array, "channels h w"]) -> Float[Array, "channels h2 w2"]:
        """What `frame` put a margin around."""
        above, beside = self.margin
        return framed[:, above : above + self.shape[1], beside : beside + self.shape[2]]

    @property
    def margin(self) -> tuple[int, int]:
        """Rows and columns of the margin of `frame`."""
        return max(self.above, self.around), max(self.beside, self.around)

    def _values(self, levels: Array) -> Array:
        """Levels as values in (-1, 1), zero in the middle."""
        return ((2 * levels + 1) / self.levels - 1).ravel()

    def window(self, framed: Array, i: Array, j: Array) -> Float[Array, " inputs"]:
        """The values around a pixel, as the next finer scale sees them."""
        r = self.around
        at = i + self.margin[0] - r, j + self.margin[1] - r
        size = self.shape[0], 2 * r + 1, 2 * r + 1
        return self._values(jax.lax.dynamic_slice(framed, (0, *at), size))

    def glimpse(
        self,
        framed: Float[Array, "channels h w"],
        coarser: "tuple[PixelNetwork, Array] | None",
        overview: Float[Array, " overview"],
        place: Int[Array, ""],
    ) -> Glimpse:
        """A pixel and what comes before it.

        Args:
            framed: The pixels of this scale, from `frame`.
            coarser: The network of the next coarser scale and its framed pixels; `None` if there
                is none.
            overview: What the whole image shows: values of the coarsest scale, or where this is
                it, the latent class, one of all.
            place: Number of the pixel, row by row.
        """
        c, height, width = self.shape
        margin = self.margin
        i, j = place // width, place % width
        at = i + margin[0] - self.above, j + margin[1] - self.beside
        size = c, self.above + 1, 2 * self.beside + 1
        near = jax.lax.dynamic_slice(framed, (0, *at), size)
        own = near[:, self.above, self.beside]
        before = [
            self._values(near[:, : self.above]),
            self._values(near[:, self.above, : self.beside]),
            overview,
        ]
        if coarser is None:
            inside = framed[:, margin[0] : margin[0] + height, margin[1] : margin[1] + width]
            seen = self._values(inside).reshape(c, -1)
            before.append(jnp.where(jnp.arange(height * width) < place, seen, 0.0).ravel())
            low, high = jnp.zeros(c), jnp.full(c, self.levels - 1.0)
            center = high / 2
        else:
            # The block's pixels before this one, and how many are left with it.
            network, coarse = coarser
            r = 2 * (i % 2) + j % 2
            corner = i - i % 2 + margin[0], j - j % 2 + margin[1]
            block = jax.lax.dynamic_slice(framed, (0, *corner), (c, 2, 2)).reshape(c, 4)
            used = jnp.where(jnp.arange(4) < r, block, 0.0).sum(axis=1)
            above, beside = network.margin
            parent = jax.lax.dynamic_slice(coarse, (0, i // 2 + above, j // 2 + beside), (c, 1, 1))
            left = parent.ravel() - used
            low = jnp.maximum(0.0, left - (3 - r) * (self.levels - 1))
            high = jnp.minimum(self.levels - 1.0, left)
            center = left / (4 - r)
            before += [
                network.window(coarse, i // 2, j // 2),
                jax.nn.one_hot(r, 4),
                self._values(center),
            ]
        rows, columns = jax.nn.one_hot(i, height), jax.nn.one_hot(j, width)
        return Glimpse(jnp.concatenate(before), rows, columns, own, low, high, center)

    def mixture(
        self, glimpse: Glimpse, key: PRNGKeyArray | None = None, dropout: float = 0.0
    ) -> PixelMixture:
        """What the network says of a pixel.

        Args:
            glimpse: What comes before it.
            key: Random key of the dropout; none without.
            dropout: Probability with which a hidden unit is left out.
        """
        # Rows and columns as products: gradients of what is picked by number are slow on a CPU.
        h = glimpse.before @ self.embed
        h = h + glimpse.row @ self.of_row + glimpse.column @ self.of_column
        for block in range(self.hidden.shape[0]):
            (first, second), (b1, b2) = self.hidden[block], self.hidden_bias[block]
            update = jax.nn.silu(jax.nn.silu(h) @ first + b1)
            if key is not None and dropout > 0:
                kept = jr.bernoulli(jr.fold_in(key, block), 1 - dropout, update.shape)
                update = update * kept / (1 - dropout)
            h = h + update @ second + b2
        out = jax.nn.silu(h) @ self.readout + self.readout_bias
        c = self.shape[0]
        k = out.size // (1 + 2 * c + c * c)
        logits, means, scales, slopes = jnp.split(out, [k, k * (1 + c), k * (1 + 2 * c)])
        least = jnp.log(LEAST_SCALE / self.levels)
        log_scales = least + jax.nn.softplus(scales.reshape(c, k) - least)
        earlier = jnp.tril(jnp.ones((c, c)), -1)[:, :, None]
        return PixelMixture(
            jax.nn.log_softmax(logits),
            FARTHEST * jnp.tanh(means.reshape(c, k) / FARTHEST),
            jnp.minimum(log_scales, jnp.log(LARGEST_SCALE)),
            jnp.tanh(slopes.reshape(c, c, k)) * earlier,
        )

    def pixel_log_prob(
        self, glimpse: Glimpse, key: PRNGKeyArray | None = None, dropout: float = 0.0
    ) -> Scalar:
        """Log-probability of a pixel's levels, its channels together.

        Args:
            glimpse: The pixel and what comes before it.
            key: Random key of the dropout; none without.
            dropout: Probability with which a hidden unit is left out.

        Returns:
            Nats.
        """
        mixture, value = self.mixture(glimpse, key, dropout), self._around(glimpse, glimpse.value)
        means = mixture.means + jnp.einsum("cek,e->ck", mixture.slopes, value)
        of_levels = self._log_mass(glimpse, means, mixture.log_scales, glimpse.value, glimpse.value)
        of_all = self._log_mass(glimpse, means, mixture.log_scales, glimpse.low, glimpse.high)
        log_mixture = jax.nn.logsumexp(mixture.log_weights + (of_levels - of_all).sum(axis=0))
        log_uniform = -jnp.log(glimpse.high - glimpse.low + 1).sum()
        return jnp.logaddexp(np.log1p(-UNIFORM) + log_mixture, np.log(UNIFORM) + log_uniform)

    def draw(
        self,
        key: PRNGKeyArray,
        glimpse: Glimpse,
        low: Float[Array, " channels"],
        high: Float[Array, " channels"],
    ) -> tuple[Float[Array, " channels"], Scalar]:
        """A pixel's levels, drawn between two bounds, and an unbiased weight for these.

        Args:
            key: Random key.
            glimpse: What comes before it.
            low: The lowest level of each channel that is allowed, not below that of the glimpse.
            high: The highest.

        Returns:
            The levels, and the logarithm of a weight whose mean is the probability of the bounds.
        """
        mixture, c = self.mixture(glimpse), self.shape[0]
        choice_key, key = jr.split(key)

        def log_share(channel, means):
            """Of what every component has between the bounds."""
            one = jax.tree.map(lambda part: part[channel : channel + 1], glimpse[3:])
            part = glimpse._replace(**dict(zip(glimpse._fields[3:], one, strict=True)))
            scales = mixture.log_scales[channel : channel + 1]
            inside, of_all = (
                self._log_mass(part, means[None], scales, *bounds)[0]
                for bounds in (
                    (low[channel : channel + 1], high[channel : channel + 1]),
                    (part.low, part.high),
                )
            )
            return inside - of_all

        of_uniform = jnp.log(high - low + 1) - jnp.log(glimpse.high - glimpse.low + 1)
        odds = jnp.append(
            np.log1p(-UNIFORM) + mixture.log_weights + log_share(0, mixture.means[0]),
            np.log(UNIFORM) + of_uniform[0],
        )
        k, log_weight = jr.categorical(choice_key, odds), jax.nn.logsumexp(odds)
        is_uniform, k = k == odds.size - 1, jnp.minimum(k, odds.size - 2)
        levels, values = [], jnp.zeros(c)
        lowest, highest = self._around(glimpse, low - 0.5), self._around(glimpse, high + 0.5)
        for channel in range(c):
            means = mixture.means[channel] + mixture.slopes[channel].T @ values
            if channel:
                share = log_share(channel, means)[k]
                log_weight = log_weight + jnp.where(is_uniform, of_uniform[channel], share)
            mean, scale = means[k], jnp.exp(mixture.log_scales[channel, k])
            a, b = (lowest[channel] - mean) / scale, (highest[channel] - mean) / scale
            value = mean + scale * _truncated_logistic(jr.fold_in(key, channel), a, b)
            level = jnp.round(value * self.levels / 2 + glimpse.center[channel])
            u = jr.uniform(jr.fold_in(jr.fold_in(key, channel), 1))
            anywhere = jnp.floor(low[channel] + u * (high[channel] - low[channel] + 1))
            level = jnp.where(is_uniform, anywhere, level)
            levels.append(jnp.clip(level, low[channel], high[channel]))
            values = values.at[channel].set(
                2 * (levels[-1] - glimpse.center[channel]) / self.levels
            )
        return jnp.stack(levels), log_weight

    def _around(self, glimpse: Glimpse, levels: Float[Array, " c"]) -> Float[Array, " c"]:
        """Levels relative to the center, in units of half the range."""
        return 2 * (levels - glimpse.center) / self.levels

    def _log_mass(
        self,
        glimpse: Glimpse,
        means: Float[Array, "c k"],
        log_scales: Float[Array, "c k"],
        low: Float[Array, " c"],
        high: Float[Array, " c"],
    ) -> Float[Array, "c k"]:
        """Of the levels from one to another, under each component before it is truncated."""
        steps = jnp.exp(-log_scales)
        a, b = (
            (self._around(glimpse, levels)[:, None] - means) * steps
            for levels in (low - 0.5, high + 0.5)
        )
        return _log_difference(a, b)


@register
class AutoregressiveImage(AbstractDistribution):
    r"""$p(x) = \sum_k w_k \prod_s \prod_{ij} p(x^s_{ij} \mid x^s_{<ij}, x^{s+1}, \dots, k)$.

    Scales are sums over blocks of 2×2 pixels of the next finer one: sums of four pixels, of
    sixteen, while sides are even and longer than eight. The coarsest is drawn first, pixel by pixel
    from the top left; then the pixels of the next finer one, three of each block, for the fourth is
    what is left of the sum. A network of each scale sees the pixels before, the coarser ones
    around, and the coarsest scale as a whole; the coarsest scale is given one of a few latent
    classes, which is drawn first of all and summed over in the density, so that what an image shows
    is settled early. What a network says of a pixel is a mixture of logistic distributions over the
    levels that are left to it, and to a hundred-thousandth all of these alike.
    The density is constant over each unit cell $[k, k + 1)$ of dequantised pixels and *is* the
    probability of the whole numbers.

    Args:
        scales: The networks, the coarsest first.
        log_shares: $\log w_k$ of the latent classes, adding up to one.

    Source: Van den Oord et al. (2016), *Pixel recurrent neural networks*, for the factors and the
    scales; Salimans et al. (2017), *PixelCNN++*, for mixtures of logistic distributions; Reed et
    al. (2017), *Parallel multiscale autoregressive density estimation*.
    """

    scales: tuple[PixelNetwork, ...]
    log_shares: Float[Array, " classes"]
    cond_shape = None

    # Written out because type checkers take the abstract attributes for the first fields.
    def __init__(self, scales: tuple[PixelNetwork, ...], log_shares: Float[Array, " classes"]):
        self.scales, self.log_shares = scales, log_shares

    @property
    def shape(self) -> tuple[int, ...]:
        return self.scales[-1].shape

    def pyramid(self, x: Float[Array, "channels height width"]) -> list[Array]:
        """The levels of every scale, the coarsest first.

        Args:
            x: Dequantised pixels.
        """
        levels = [jnp.clip(jnp.floor(x), 0, self.scales[-1].levels - 1)]
        for _ in self.scales[1:]:
            levels.append(halved(levels[-1]))
        return levels[::-1]

    def glimpses(
        self, pyramid: Sequence[Array], scale: int, latent: Int[Array, ""], places: Int[Array, " n"]
    ) -> Glimpse:
        """Some pixels of a scale and what comes before each.

        Args:
            pyramid: The levels of this scale and the coarser ones, the coarsest first.
            scale: Number of the scale, from the coarsest.
            latent: The latent class.
            places: Numbers of the pixels.
        """
        network = self.scales[scale]
        framed, context = network.frame(pyramid[scale]), self.context(pyramid[:scale], latent)
        return jax.vmap(lambda place: network.glimpse(framed, *context, place))(places)

    def context(
        self, coarser: Sequence[Array], latent: Int[Array, ""]
    ) -> tuple[tuple[PixelNetwork, Array] | None, Array]:
        """What a scale is told of the coarser ones, as `PixelNetwork.glimpse` takes it.

        Args:
            coarser: Their levels, the coarsest first.
            latent: The latent class.
        """
        if not coarser:
            return None, jax.nn.one_hot(latent, self.log_shares.size)
        network = self.scales[len(coarser) - 1]
        overview = self.scales[0]._values(coarser[0])
        return (network, network.frame(coarser[-1])), overview

    def extend(
        self,
        key: PRNGKeyArray,
        scale: int,
        framed: Float[Array, "channels h w"],
        context: tuple[tuple[PixelNetwork, Array] | None, Array],
        place: Int[Array, ""],
        limits: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "channels h w"], Scalar]:
        """An image with another pixel drawn, and the last of its block after the third.

        Args:
            key: Random key.
            scale: Number of the scale, from the coarsest.
            framed: Its pixels so far, framed.
            context: What `context` says of the coarser scales.
            place: Number of the pixel.
            limits: The lowest and the highest level that every pixel of the scale may have, framed
                alike; all levels by default.

        Returns:
            The framed pixels, and the logarithm of an unbiased weight for the limits.
        """
        network = self.scales[scale]
        (above, beside), c = network.margin, network.shape[0]
        i, j = place // network.shape[2], place % network.shape[2]
        glimpse = network.glimpse(framed, *context, place)
        low, high = glimpse.low, glimpse.high
        r = 2 * (i % 2) + j % 2
        # Shared out among three it has lost its last digit.
        left = jnp.round(glimpse.center * (4 - r))
        if limits is not None:
            size, corner = (c, 2, 2), (0, i - i % 2 + above, j - j % 2 + beside)
            if network.is_coarsest:
                size, corner, r = (c, 1, 1), (0, i + above, j + beside), 0
            least, most = (
                jax.lax.dynamic_slice(limit, corner, size).reshape(c, -1) for limit in limits
            )
            low, high = jnp.maximum(low, least[:, r]), jnp.minimum(high, most[:, r])
            if not network.is_coarsest:
                # Those of the block that come later need room within their own limits.
                later = jnp.arange(4) > r
                low = jnp.maximum(low, left - jnp.where(later, most, 0.0).sum(axis=1))
                high = jnp.minimum(high, left - jnp.where(later, least, 0.0).sum(axis=1))
        levels, log_weight = network.draw(key, glimpse, low, high)
        at = i + above, j + beside
        framed = jax.lax.dynamic_update_slice(framed, levels[:, None, None], (0, *at))
        if not network.is_coarsest:
            rest = (left - levels)[:, None, None]
            whole = jax.lax.dynamic_update_slice(framed, rest, (0, at[0], at[1] + 1))
            framed = jnp.where(r == 2, whole, framed)
        return framed, log_weight

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        pyramid = self.pyramid(x)
        latents = jnp.arange(self.log_shares.size)
        of_each = jax.lax.map(lambda latent: self._of_scale(pyramid, 0, latent), latents)
        total = jax.nn.logsumexp(self.log_shares + of_each)
        for scale in range(1, len(self.scales)):
            total += self._of_scale(pyramid, scale, latents[0])
        return total

    def _of_scale(self, pyramid: Sequence[Array], scale: int, latent: Int[Array, ""]) -> Scalar:
        """Log-probability of a scale's pixels, given what is coarser."""
        network = self.scales[scale]
        places = network.places
        # A row's worth at a time: all at once would not fit a processor's cache.
        rows = np.array_split(places, max(1, len(places) // network.shape[2]))
        longest = max(map(len, rows))
        filled = np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows])

        def of_row(total, row):
            places, count = row
            each = jax.vmap(network.pixel_log_prob)(self.glimpses(pyramid, scale, latent, places))
            return total + jnp.where(jnp.arange(longest) < count, each, 0.0).sum(), None

        counts = jnp.asarray([len(row) for row in rows])
        return jax.lax.scan(of_row, jnp.zeros(()), (jnp.asarray(filled), counts))[0]

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        latent = jr.categorical(jr.fold_in(key, len(self.scales)), self.log_shares)
        pyramid: list[Array] = []
        for scale, network in enumerate(self.scales):
            context = self.context(pyramid, latent)

            def draw(framed, inputs, scale=scale, context=context):
                place, key = inputs
                return self.extend(key, scale, framed, context, place)[0], None

            keys = jr.split(jr.fold_in(key, scale), len(network.places))
            framed, _ = jax.lax.scan(
                draw,
                network.frame(jnp.zeros(network.shape)),
                (jnp.asarray(network.places), keys),
            )
            pyramid.append(network.unframed(framed))
        return pyramid[-1] + 0.5


def make_image_density(
    shape: tuple[int, ...],
    levels: int,
    shares: Sequence[float] | Float[np.ndarray, " classes"] = (1.0,),
    *,
    key: PRNGKeyArray,
    **sizes: int,
) -> AutoregressiveImage:
    """An autoregressive density of images that knows nothing yet.

    Args:
        shape: `(channels, height, width)` of an image.
        levels: Number of levels of a pixel.
        shares: Of the latent classes.
        key: Random key of the initial weights.
        sizes: Those of each `PixelNetwork`.

    Raises:
        ValueError: If `shape` is not that of an image.
    """
    if len(shape) != 3:
        raise Refused(f"An image has channels, height and width; got points of shape {shape}.")
    channels, height, width = shape
    n_halvings = halvings(shape)
    networks = []
    for i, network_key in enumerate(jr.split(key, n_halvings + 1)):
        side = 2 ** (n_halvings - i)
        of_scale = channels, height // side, width // side
        overview = int(np.prod(networks[0].shape)) if i else np.size(shares)
        most = side**2 * (levels - 1) + 1
        network = PixelNetwork(
            of_scale, most, overview, is_coarsest=i == 0, key=network_key, **sizes
        )
        networks.append(network)
    return AutoregressiveImage(tuple(networks), on_device(np.log(shares)))


def halvings(shape: tuple[int, ...]) -> int:
    """How often an image is made coarser.

    Args:
        shape: Its channels, height and width.
    """
    sides = np.asarray(shape[1:])
    if min(sides) <= COARSEST or (sides % 2).any():
        return 0
    return 1 + halvings((shape[0], *(sides // 2)))


def halved(levels: Float[Array, "channels height width"]) -> Float[Array, "channels h w"]:
    """Sums over blocks of 2×2 pixels."""
    c, height, width = levels.shape
    return levels.reshape(c, height // 2, 2, width // 2, 2).sum(axis=(2, 4))


def _log_difference(a: Array, b: Array) -> Array:
    r"""$\log(\sigma(b) - \sigma(a))$ of $b > a$, as $\log \sigma(b) \sigma(-a) (1 - e^{a - b})$."""
    return jax.nn.log_sigmoid(b) + jax.nn.log_sigmoid(-a) + jnp.log(-jnp.expm1(a - b))


def _truncated_logistic(key: PRNGKeyArray, a: Array, b: Array) -> Array:
    """A standard logistic variable between two bounds, by inversion."""
    # In the left half, where the distribution function keeps its digits.
    is_mirrored = a + b > 0
    a, b = jnp.where(is_mirrored, -b, a), jnp.where(is_mirrored, -a, b)
    log_u = jnp.log(jr.uniform(key, jnp.shape(a), minval=jnp.finfo(float).tiny))
    log_p = jnp.logaddexp(jax.nn.log_sigmoid(a), log_u + _log_difference(a, b))
    z = log_p - jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-7)))
    return jnp.where(is_mirrored, -z, z)


__all__ = [
    "AutoregressiveImage",
    "Glimpse",
    "PixelMixture",
    "PixelNetwork",
    "halvings",
    "make_image_density",
]
