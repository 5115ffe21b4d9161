"""Autoregressive densities of images, by maximum likelihood."""

from collections.abc import Iterator
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.distributions import AbstractDistribution, Transformed
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Scalar, UInt

from flowebm.data.logit_pixels import LogitPixels
from flowebm.models.autoregressive_image import (
    AutoregressiveImage,
    Glimpse,
    halvings,
    make_image_density,
)
from flowebm.models.batches import SIZES, on_device
from flowebm.objectives.objective import Objective
from flowebm.training.budget import Budget
from flowebm.training.candidate import Candidate
from flowebm.training.driver import Callbacks, StoppingCriteria, drive
from flowebm.training.joint_options import JointOptions
from flowebm.training.objective import ObjectiveTrainer
from flowebm.training.row_weights import rows_in_proportion
from flowebm.training.rows import Rows, batch_size_of
from flowebm.training.stages.network import clipped_adamw

#: Share of the pixels that are taken wherever they lie; the others where images differ most.
EVERYWHERE = 0.1

#: Images that there are for each latent class at least.
ROWS_OF_A_CLASS = 100

#: Share of a validation image's pixels that an evaluation takes, and the least number.
EVALUATED, EVALUATED_LEAST = 1 / 8, 32


class _Scale(AbstractDistribution):
    """One scale of an image's log-density, estimated by some of its pixels.

    Attributes:
        density: The density, whose other scales are not trained.
        scale: Number of the scale, from the coarsest.
        frequencies: How frequent each free pixel is among those that are taken.
        centers: Of the latent classes, among the roots of the coarsest scale's levels: images are
            fitted as of the class of the nearest.
    """

    density: AutoregressiveImage
    scale: int = eqx.field(static=True)
    frequencies: paramax.NonTrainable
    centers: paramax.NonTrainable
    cond_shape = None

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(
        self, density: AutoregressiveImage, scale: int, frequencies: ArrayLike, centers: ArrayLike
    ):
        self.density, self.scale = density, scale
        self.frequencies = paramax.NonTrainable(on_device(frequencies))
        self.centers = paramax.NonTrainable(on_device(centers))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.density.shape

    def glimpses(
        self, x: Array, start: Scalar, n: int
    ) -> tuple[Glimpse, Float[Array, " n"], Int[Array, ""]]:
        """Some pixels, by systematic sampling, how frequent each is, and the latent class.

        Source: Cochran (1977), *Sampling techniques*, chapter 8.
        """
        frequencies = paramax.unwrap(self.frequencies)
        levels = (start + jnp.arange(n)) / n
        chosen = jnp.searchsorted(jnp.cumsum(frequencies), levels)
        chosen = jnp.minimum(chosen, frequencies.size - 1)
        places = jnp.asarray(self.density.scales[self.scale].places)[chosen]
        pyramid = self.density.pyramid(x)
        away = jnp.sqrt(pyramid[0]).ravel() - paramax.unwrap(self.centers)
        latent = jnp.argmin(jnp.sum(away**2, axis=1))
        glimpses = self.density.glimpses(pyramid, self.scale, latent, places)
        return glimpses, jnp.asarray(frequencies)[chosen], latent

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        n = paramax.unwrap(self.frequencies).size
        n = max(min(n, EVALUATED_LEAST), int(n * EVALUATED))
        # A place to begin that is the image's own, so that evaluations differ by the model alone.
        glimpses, frequencies, latent = self.glimpses(x, jnp.mod(x.sum() * 0.618, 1.0), n)
        each = jax.vmap(self.density.scales[self.scale].pixel_log_prob)(glimpses)
        of_latent = self.density.log_shares[latent] if self.scale == 0 else 0.0
        return jnp.mean(each / frequencies) + of_latent

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        return self.density._sample(key)


class _Likelihood(eqx.Module):
    """The negative log-likelihood by some pixels, of a network without some of its units."""

    pixels: int = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __call__(self, model: _Scale, points: Array, key: PRNGKeyArray) -> Scalar:
        start_key, dropout_key = jr.split(key)
        model = paramax.unwrap(model)
        network, starts = model.density.scales[model.scale], jr.uniform(start_key, (len(points),))
        glimpses = jax.vmap(lambda x, start: model.glimpses(x, start, self.pixels)[:2])
        # As one long batch, which is faster than pixels within images.
        flat, frequencies = jax.tree.map(
            lambda a: a.reshape(-1, *a.shape[2:]), glimpses(points, starts)
        )
        each = jax.vmap(lambda g, k: network.pixel_log_prob(g, k, self.dropout))(
            flat, jr.split(dropout_key, frequencies.size)
        )
        return -jnp.mean(each / frequencies)


def _middles(key: PRNGKeyArray, levels: Array) -> Float[Array, "batch *shape"]:
    return levels.astype(float) + 0.5


def fit_image(
    key: PRNGKeyArray,
    rows: Rows,
    pixels: LogitPixels,
    *,
    options: JointOptions,
    max_steps: int | None = None,
    time_budget: Budget | None = None,
    callbacks: Callbacks | None = None,
) -> Candidate:
    """An autoregressive density of images, scale by scale.

    A step takes some pixels of some images: every pixel is a term of the likelihood by itself, and
    every scale has a network of its own.

    Args:
        key: Random key.
        rows: The rows, of images behind `pixels`.
        pixels: From dequantised pixels to the points of the rows.
        options: How the networks are made and trained.
        max_steps: Iterations of a scale at most.
        time_budget: Seconds at most.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The density of the rows' points, at its best on some pixels of the validation points.

    Raises:
        ValueError: If the points are no images.
        TrainingDiverged: If training diverges again and again.
    """
    make_key, fit_key = jr.split(key)
    train, validation = (whole_levels(pixels, x) for x in (rows.train, rows.validation))
    counted = train if rows.weights is None else train[rows_in_proportion(rows.weights.train)]
    centers, shares = _latent_classes(make_key, counted, options.image_latent_classes)
    density = make_image_density(
        rows.shape,
        pixels.levels,
        shares,
        width=options.network_width,
        blocks=options.network_blocks,
        key=make_key,
    )
    spreads = [_spread(counted, 2**i) for i in range(len(density.scales))][::-1]
    history: list[dict[str, Any]] = []
    budget = Budget.of(time_budget)
    for scale, (network, spread) in enumerate(zip(density.scales, spreads, strict=True)):
        places = spread.ravel()[network.places]
        frequencies = EVERYWHERE / len(places)
        frequencies = frequencies + (1 - EVERYWHERE) * places / max(places.sum(), 1e-12)
        frozen = tuple(
            part if i == scale else paramax.non_trainable(part)
            for i, part in enumerate(density.scales)
        )
        taken = min(len(places), options.image_pixels)
        batch_size = batch_size_of(options.image_batch_pixels // taken, len(train))
        epoch = len(train) * len(places) / (batch_size * taken)
        steps = round(max(options.image_epochs * epoch, min(options.image_steps, 60 * epoch)))
        steps = min(steps, options.image_most_steps)
        trainer = ObjectiveTrainer(
            model=_Scale(
                AutoregressiveImage(frozen, paramax.non_trainable(density.log_shares)),
                scale,
                frequencies / frequencies.sum(),
                centers,
            ),
            data=jax.device_put(train),
            validation=on_device(validation + 0.5),
            validation_log_det=on_device(np.zeros(len(validation))),
            objective=cast(Objective, _Likelihood(taken, options.image_dropout)),
            optimizer=clipped_adamw(options.image_learning_rate, options.network_weight_decay),
            weights=rows.weights,
            prepare=_middles,
            batch_size=batch_size,
            schedule_name="cosine",
            loss_name="train_nll",
            stage=f"{network.shape[1]}x{network.shape[2]}",
        )
        part = budget.part(0.25 if scale < len(spreads) - 1 else 0.9)
        stopping = StoppingCriteria(steps if max_steps is None else min(steps, max_steps), part)
        outcome = drive(jr.fold_in(fit_key, scale), trainer, stopping, callbacks)
        if int(outcome.state.iteration) == 0:
            (callbacks or Callbacks()).warn(
                f"The time budget ended before the pixels at {trainer.stage} were trained at all: "
                "the density knows nothing of them; give it more seconds."
            )
        fitted = paramax.unwrap(trainer.with_params(outcome.state.best)).density
        density = AutoregressiveImage(
            (*density.scales[:scale], fitted.scales[scale], *density.scales[scale + 1 :]),
            density.log_shares,
        )
        history += outcome.history
    return Candidate.of("pixels", Transformed(density, pixels), rows, tuple(history))


def _latent_classes(
    key: PRNGKeyArray, images: UInt[np.ndarray, "n c h w"], most: int
) -> tuple[Float[np.ndarray, "classes pixels"], Float[np.ndarray, " classes"]]:
    """Centers of clusters of images, among the roots of their coarsest levels, and their shares."""
    # Imported here: it takes a while, and other methods have no use for it.
    from sklearn.cluster import KMeans

    blocks = _block_sums(images, 2 ** halvings(images.shape[1:]))
    roots = np.sqrt(np.concatenate(list(blocks))).reshape(len(images), -1)
    n = max(1, min(most, len(images) // ROWS_OF_A_CLASS, len(np.unique(roots, axis=0))))
    seed = int(jr.randint(key, (), 0, 2**31 - 1))
    found = KMeans(n, random_state=seed).fit(roots)
    # A class that is empty may still be drawn.
    counts = np.bincount(found.predict(roots), minlength=n) + 0.5
    return found.cluster_centers_, counts / counts.sum()


def _spread(images: UInt[np.ndarray, "n c h w"], block: int) -> Float[np.ndarray, "h2 w2"]:
    """The standard deviation of sums over blocks of pixels, averaged over the channels."""
    total = squares = 0.0
    for sums in _block_sums(images, block):
        total, squares = total + sums.sum(axis=0), squares + (sums**2).sum(axis=0)
    variance = squares / len(images) - (total / len(images)) ** 2
    return np.sqrt(np.maximum(variance, 0)).mean(axis=0)


def _block_sums(
    images: UInt[np.ndarray, "n c h w"], block: int
) -> Iterator[Float[np.ndarray, "m c h2 w2"]]:
    """Sums over blocks of pixels, some images at a time."""
    c, height, width = images.shape[1:]
    for start in range(0, len(images), SIZES[0]):
        part = images[start : start + SIZES[0]].astype(float)
        part = part.reshape(len(part), c, height // block, block, width // block, block)
        yield part.sum(axis=(3, 5))


def whole_levels(
    pixels: LogitPixels, points: Float[ArrayLike, "n *shape"]
) -> UInt[np.ndarray, "n *shape"]:
    """The levels that points lie in, in as few bytes as they take.

    Args:
        pixels: From dequantised pixels to points.
        points: One a row.
    """
    kind = np.uint8 if pixels.levels <= 256 else np.uint16
    points, levels = np.asarray(points), np.empty(np.shape(points), kind)
    # Some at a time: in double precision all of them would be eight times as large as the pixels.
    for start in range(0, len(points), SIZES[0]):
        part = slice(start, start + SIZES[0])
        found = np.floor(pixels.inverse_rows(points[part]))
        levels[part] = np.clip(found, 0, pixels.levels - 1)
    return levels
