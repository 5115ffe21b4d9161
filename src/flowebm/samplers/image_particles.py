"""Images with gaps or noise, completed by particles of an autoregressive density."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.distributions import Transformed
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from flowebm.data.logit_pixels import LogitPixels
from flowebm.evaluation.importance import effective_sample_size
from flowebm.models.autoregressive_image import AutoregressiveImage, halved
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.stack import Stack
from flowebm.models.tilted import EnergyModel

#: Particles of an image, and how many there are for each of its draws at least.
N_PARTICLES, OF_EACH_DRAW = 256, 8


class ImageParticles(NamedTuple):
    r"""Draws of an image given some of its pixels, or all with noise, by sequential Monte Carlo.

    Particles are drawn as the density draws images, scale by scale and pixel by pixel; where a
    pixel is known, or a block's sum is known to lie within bounds, they are drawn within these and
    weighted by the probability of that. They are resampled where fewer than half are effective, and
    weighted by $e^{-U}$ at the end. A pixel with normal noise of variance $\tau$ weighs a particle
    by $N(y; x, \tau)$, and a block of pixels that are not drawn yet by what that says of their sum.
    With many particles the draws are those of the model.

    Attributes:
        model: A tilted autoregressive density of images.
        density: The density of dequantised pixels.
        pixels: From these to the model's points.

    Source: Doucet, de Freitas and Gordon (2001), *Sequential Monte Carlo methods in practice*,
    chapter 1.
    """

    model: EnergyModel
    density: AutoregressiveImage
    pixels: LogitPixels

    @classmethod
    def of(cls, model: AbstractEnergyModel) -> Self | None:
        """Those of a model.

        Args:
            model: Any model.

        Returns:
            `None` where its base is no autoregressive density of images.
        """
        plain = paramax.unwrap(model)
        if not isinstance(plain, EnergyModel):
            return None
        base = plain.base
        if isinstance(base, Stack) and len(base.components) == 1:
            base = base.components[0]
        if not isinstance(base, Transformed):
            return None
        density, pixels = base.base_dist, base.bijection
        if not isinstance(density, AutoregressiveImage) or not isinstance(pixels, LogitPixels):
            return None
        return cls(plain, density, pixels)

    def fill(
        self,
        key: PRNGKeyArray,
        rows: Float[np.ndarray, "n channels height width"],
        *,
        n_draws: int = 1,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Float[np.ndarray, "draws n channels height width"], Float[np.ndarray, " n"]]:
        """Complete images.

        Args:
            key: Random key.
            rows: Images of whole-number pixels, NaN where one is missing.
            n_draws: Draws of each.
            on_progress: Told the images done and the images in all, after each.

        Returns:
            The draws, and the share of the particles that were effective in the end.
        """
        given = (
            (np.where(np.isnan(row), 0.0, row), np.isnan(row), None)
            for row in np.asarray(rows, np.float64)
        )
        return self._completed(key, given, len(rows), n_draws, on_progress)

    def denoise(
        self,
        key: PRNGKeyArray,
        rows: Float[np.ndarray, "n channels height width"],
        sd: float,
        *,
        n_draws: int = 1,
    ) -> tuple[Float[np.ndarray, "draws n channels height width"], Float[np.ndarray, " n"]]:
        """Images of which noisy ones are known.

        Args:
            key: Random key.
            rows: Images of whole-number pixels with normal noise.
            sd: Standard deviation of the noise, in levels.
            n_draws: Draws of each.

        Returns:
            The draws, and the share of the particles that were effective in the end.
        """
        everything = np.ones(np.shape(rows)[1:], bool)
        given = ((0.0 * row, everything, (row, sd**2)) for row in np.asarray(rows, np.float64))
        return self._completed(key, given, len(rows), n_draws, None)

    def _completed(
        self,
        key: PRNGKeyArray,
        given: Iterable[tuple[np.ndarray, np.ndarray, tuple[np.ndarray, float] | None]],
        n: int,
        n_draws: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        n_particles = max(N_PARTICLES, OF_EACH_DRAW * n_draws)
        draws, effective = [], []
        for i, (row, missing, noisy) in enumerate(given):
            filled, share = _fill(self, jr.fold_in(key, i), row, missing, noisy, n_particles)
            # In random order: particles that lie side by side are near relatives.
            chosen = np.random.default_rng(i).permutation(n_particles)[:n_draws]
            draws.append(np.asarray(filled, np.float64)[chosen])
            effective.append(float(share))
            if on_progress:
                on_progress(i + 1, n)
        return np.stack(draws, axis=1), np.asarray(effective)


@eqx.filter_jit
def _fill(
    particles: ImageParticles,
    key: PRNGKeyArray,
    row: Float[ArrayLike, "channels height width"],
    missing: Bool[ArrayLike, "channels height width"],
    noisy: tuple[Any, Any] | None,
    n: int,
) -> tuple[Float[Array, "n channels height width"], Array]:
    """Equally weighted particles of whole levels, and the effective share before that."""
    density = particles.density
    top = density.scales[-1].levels - 1
    known = [(jnp.where(missing, 0.0, row), jnp.where(missing, float(top), row))]
    for _ in density.scales[1:]:
        known.append(cast(tuple[Array, Array], tuple(map(halved, known[-1]))))
    seen = [] if noisy is None else [noisy]
    for _ in density.scales[1:] if seen else ():
        # A sum of four pixels has four times the variance.
        seen.append((halved(seen[-1][0]), 4 * seen[-1][1]))
    pyramid: list[Array] = []
    log_weights = jnp.zeros(n)
    latent_key = jr.fold_in(key, len(density.scales) + 1)
    latents = jr.categorical(latent_key, density.log_shares, shape=(n,))
    for scale, network in enumerate(density.scales):
        limits = tuple(network.frame(bound) for bound in known[::-1][scale])

        of_scale = None
        if seen:
            of_scale = network.frame(seen[::-1][scale][0]), seen[::-1][scale][1]

        def advance(state, inputs, scale=scale, network=network, limits=limits, of_scale=of_scale):
            latents, pyramid, framed, log_weights = state
            place, key = inputs
            keys = jr.split(key, n + 1)
            resample_key, keys = keys[0], keys[1:]

            def extend(key, latent, pyramid, framed):
                context = density.context(pyramid, latent)
                grown, gained = density.extend(key, scale, framed, context, place, limits)
                if of_scale is not None:
                    parent = jnp.zeros(0)
                    if scale:
                        i, j = place // network.shape[2], place % network.shape[2]
                        parent = pyramid[-1][:, i // 2, j // 2]
                    gained += _log_likelihood_ratio(density, scale, grown, of_scale, parent, place)
                return grown, gained

            framed, gained = jax.vmap(extend)(keys, latents, pyramid, framed)
            log_weights = log_weights + gained
            kept = _resampled(resample_key, log_weights)
            is_few = effective_sample_size(log_weights) < n / 2
            kept = jnp.where(is_few, kept, jnp.arange(n))
            state = jax.tree.map(lambda a: a[kept], (latents, pyramid, framed))
            return (*state, jnp.where(is_few, 0.0, log_weights)), None

        empty = network.frame(jnp.zeros(network.shape))
        start = jnp.broadcast_to(empty, (n, *empty.shape))
        keys = jr.split(jr.fold_in(key, scale), len(network.places))
        inputs = jnp.asarray(network.places), keys
        (latents, pyramid, framed, log_weights), _ = jax.lax.scan(
            advance, (latents, pyramid, start, log_weights), inputs
        )
        pyramid = [*pyramid, jax.vmap(network.unframed)(framed)]
    images = pyramid[-1]
    points = jax.vmap(particles.pixels.transform)(images + 0.5)
    log_weights = log_weights - jax.vmap(particles.model.tilt)(points)
    share = effective_sample_size(log_weights) / n
    return images[_resampled(jr.fold_in(key, len(density.scales)), log_weights)], share


def _log_likelihood_ratio(
    density: AutoregressiveImage,
    scale: int,
    framed: Float[Array, "channels h w"],
    noisy: tuple[Float[Array, "channels h w"], Any],
    parent: Float[Array, " channels"],
    place: Array,
) -> Array:
    r"""What a pixel adds to the log-likelihood of the noisy image, its block's sum known before.

    $N(y; x, \tau)\, N(Y'; X', m \tau) / N(y + Y'; x + X', (m + 1) \tau)$, where $X'$ is what the
    pixel leaves of the sum to the $m$ that follow.
    """
    network, (of_noise, variance) = density.scales[scale], noisy
    (above, beside), c = network.margin, network.shape[0]
    i, j = place // network.shape[2], place % network.shape[2]

    def log_normal(error: Array, variance: Array) -> Array:
        return (-0.5 * (error**2 / variance + jnp.log(variance))).sum()

    if network.is_coarsest:
        own = jax.lax.dynamic_slice(of_noise - framed, (0, i + above, j + beside), (c, 1, 1))
        return log_normal(own.ravel(), variance)
    r = 2 * (i % 2) + j % 2
    corner = 0, i - i % 2 + above, j - j % 2 + beside
    size = c, 2, 2
    seen, drawn = (
        jax.lax.dynamic_slice(image, corner, size).reshape(c, 4) for image in (of_noise, framed)
    )
    # Of the pixels that follow only the sum is known, which is what the block's leaves to them.
    later = jnp.arange(4) > r
    sums = parent - jnp.where(later, 0.0, drawn).sum(axis=1)
    left = jnp.where(later, seen, 0.0).sum(axis=1) - sums
    own = (seen - drawn)[:, r]
    return (
        log_normal(own, variance)
        + log_normal(left, (3 - r) * variance)
        - log_normal(own + left, (4 - r) * variance)
    )


def _resampled(key: PRNGKeyArray, log_weights: Float[Array, " n"]) -> Array:
    from blackjax.smc.resampling import systematic

    return systematic(key, jax.nn.softmax(log_weights), log_weights.size)
