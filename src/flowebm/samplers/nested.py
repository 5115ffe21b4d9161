r"""Nested sampling by halving: two live sets at once, moved by slices inside their contours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar, UInt32
from scipy.special import logsumexp

from flowebm.models.energy import AbstractEnergyModel

#: Proposals after which a slice is given up, and the chain stays where it is.
MOST_SHRINKS = 40

#: Neighbours of a live point that local directions point to.
N_NEIGHBOURS = 8

#: Length of a bracket, in differences of two live points.
WIDTH_OF_PAIRS, WIDTH_OF_NEIGHBOURS = 2.5, 6.0

#: Share of log Z's estimate above the contour at which the bulk has been passed; how many nats of
#: volume further down narrow peaks are looked for; and what spread of log p - log b, in nats, is so
#: even that there are none, or that no contour can be told from another.
REMAINDER, DEPTH, EVEN, FLAT = 1e-3, 14.0, 0.5, 1e-3


OnLevel = Callable[[int, dict[str, float]], None]


class Live(NamedTuple):
    r"""Live points, of one run.

    Attributes:
        position: One a row, of shape `(n, d)`; a leading axis is one of runs.
        log_start: $\log b$ there, nats.
        log_ratio: $\log p - \log b$ there, the likelihood of the run.
        label: A uniform number a point, which orders points of the same likelihood.
    """

    position: Array | np.ndarray
    log_start: Array | np.ndarray
    log_ratio: Array | np.ndarray
    label: Array | np.ndarray


def evaluate(
    model: AbstractEnergyModel, start: AbstractDistribution, x: Float[Array, " d"]
) -> tuple[Scalar, Scalar]:
    r"""$\log b$ and $\log p - \log b$ of one point; where $p$ is no number it has no mass."""
    log_start = start.log_prob(x)
    ratio = model.unnormalized_log_prob(x) - log_start
    ratio = jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)
    return log_start.astype(x.dtype), ratio.astype(x.dtype)


def halve(
    seed: UInt32[Array, "4"],
    model: AbstractEnergyModel,
    start: AbstractDistribution,
    live: Live,
    n_moves: Int[Array, ""],
) -> tuple[Live, Live, int]:
    r"""Replace the less likely half of the live points of every run.

    Each point of the better half starts one chain, of `n_moves` slices through
    $\{x : \log p(x) - \log b(x) > \ell\}$ with $\ell$ the median; the volume
    $X = \int_{p/b > e^\ell} b$ is halved. A slice goes along the difference of two live points,
    drawn at random (which leads from mode to mode) or among neighbours (which has a mode's own
    scale), and is shrunk until a point is inside, with no stepping out. Every chain goes on to
    its next slice by itself, so that none waits for another's shrinking, as chains of
    `blackjax.nss` do, and the density stands in the program once.

    Args:
        seed: Four random numbers, of which all others are made.
        model: $p$, up to a constant.
        start: $b$, normalised.
        live: The live points of the runs, with a leading axis of runs.
        n_moves: Slices of a chain.

    Returns:
        The live points, those that died, and how often the density was evaluated.

    Source: Skilling (2006), *Nested sampling for general Bayesian computation*; Cérou and
    Guyader (2007), *Adaptive multilevel splitting*, for steps of half of the points; Neal (2003),
    *Slice sampling*; ter Braak (2006) for directions from differences.
    """
    # What is sorted on the host need not be compiled.
    live = jax.device_get(live)
    order = np.lexsort((live.label, live.log_ratio))
    rows = np.arange(len(order))[:, None]
    half = order.shape[1] // 2
    dead, best = (
        Live(*(leaf[rows, part] for leaf in live)) for part in (order[:, :half], order[:, half:])
    )
    neighbours = np.stack([_neighbours(points) for points in best.position])
    contour = (dead.log_ratio[:, -1:], dead.label[:, -1:])
    step = _slices(seed, model, start, jax.device_put(best), neighbours, contour, n_moves)
    moved, count = jax.device_get(step)
    live = Live(*(np.concatenate(leaves, axis=1) for leaves in zip(best, moved, strict=True)))
    return live, dead, int(count) * moved.label.size


@eqx.filter_jit
def _slices(seed, model, start, best, neighbours, contour, n_moves):
    """The chains of all runs, and how often each has evaluated the density."""
    n_runs, n, _ = best.position.shape
    floor, floor_label = contour

    def brackets(numbers, log_start):
        """The slices that chains begin: level, direction, ends."""
        first = (numbers[..., 0] * n).astype(int)
        other = (first + 1 + (numbers[..., 1] * (n - 1)).astype(int)) % n
        near = jnp.take_along_axis(
            jnp.take_along_axis(neighbours, first[..., None], axis=1),
            (numbers[..., 1:2] * neighbours.shape[-1]).astype(int),
            axis=2,
        )[..., 0]
        is_local = numbers[..., 2] < 0.5
        other = jnp.where(is_local, near, other)
        pick = jax.vmap(lambda points, rows: points[rows])
        width = jnp.where(is_local, WIDTH_OF_NEIGHBOURS, WIDTH_OF_PAIRS)
        # A factor of the width, for directions whose scale is not that of the contour.
        width = width * jnp.where(numbers[..., 5] < 0.25, 0.2, 1.0)
        direction = width[..., None] * (pick(best.position, first) - pick(best.position, other))
        level = log_start + jnp.log(numbers[..., 3])
        return level, direction, -numbers[..., 4], 1 - numbers[..., 4]

    def unfinished(carry):
        return jnp.any(carry[-3] < n_moves)

    def propose(carry):
        chain, level, direction, left, right, shrinks, moves, seed, count = carry
        seed, numbers = _uniform(seed, (n_runs, n, 8))
        t = left + (right - left) * numbers[..., 6]
        x = chain.position + t[..., None] * direction
        log_start, ratio = jax.vmap(jax.vmap(lambda x: evaluate(model, start, x)))(x)
        label = numbers[..., 7]
        above = (ratio > floor) | ((ratio == floor) & (label > floor_label))
        busy = moves < n_moves
        inside = above & (log_start >= level) & busy
        chain = jax.tree.map(
            lambda new, old: jnp.where(
                inside.reshape(inside.shape + (1,) * (old.ndim - 2)), new, old
            ),
            Live(x, log_start, ratio, label),
            chain,
        )
        ends = inside | (shrinks >= MOST_SHRINKS)
        fresh = brackets(numbers, chain.log_start)
        level = jnp.where(ends, fresh[0], level)
        direction = jnp.where(ends[..., None], fresh[1], direction)
        left = jnp.where(ends, fresh[2], jnp.where(t < 0, t, left))
        right = jnp.where(ends, fresh[3], jnp.where(t < 0, right, t))
        shrinks = jnp.where(ends, 0, shrinks + 1)
        moves = moves + (ends & busy)
        return chain, level, direction, left, right, shrinks, moves, seed, count + 1

    seed, numbers = _uniform(seed, (n_runs, n, 8))
    numbers = numbers.astype(best.position.dtype)
    zeros = jnp.zeros((n_runs, n), int)
    carry = (best, *brackets(numbers, best.log_start), zeros, zeros, seed, jnp.array(0))
    moved, *_, count = jax.lax.while_loop(unfinished, propose, carry)
    return moved, count


def _uniform(seed: UInt32[Array, "4"], shape: tuple[int, ...]):
    """Uniform numbers in (0, 1), and the next seed: much less to compile than JAX's own."""
    seed, bits = jax.lax.rng_bit_generator(seed, shape, jnp.uint32)
    mantissa = jax.lax.bitcast_convert_type((bits >> 9) | 0x3F800000, jnp.float32)
    return seed, mantissa - (1 - jnp.float32(2**-24))


def _neighbours(points: Float[np.ndarray, "n d"]) -> Int[np.ndarray, "n k"]:
    """Some of the nearest others of each point, in units of the coordinates' spread."""
    scaled = points / (np.std(points, axis=0) + 1e-30)
    squares = np.sum(scaled**2, axis=1)
    distances = squares[:, None] + squares - 2 * scaled @ scaled.T
    np.fill_diagonal(distances, np.inf)
    n_nearest = min(N_NEIGHBOURS, len(points) - 1)
    nearest = np.argpartition(distances, n_nearest - 1, axis=1)[:, :n_nearest]
    return nearest.astype(np.int32)


class Exploration(NamedTuple):
    r"""What runs of nested sampling found.

    Attributes:
        position: All points that they visited, one a row.
        log_density: $\log p$ there, nats.
        log_weights: Their weights as draws of $p$, adding up to $\hat Z$ of the runs together.
        run: Which run each is of.
        log_partitions: $\log \hat Z$ of each run.
        stderr: Standard error of each, nats.
        top: The live points at the end, of all runs.
        n_evaluations: How often the density was evaluated, beside the sweep.
        finished: Whether the top was reached.
    """

    position: Float[np.ndarray, "n d"]
    log_density: Float[np.ndarray, " n"]
    log_weights: Float[np.ndarray, " n"]
    run: Int[np.ndarray, " n"]
    log_partitions: list[float]
    stderr: float
    top: Float[np.ndarray, "m d"]
    n_evaluations: int
    finished: bool


@dataclass
class Progress:
    """How far an exploration is: the points that died in each halving, and those that live.

    Attributes:
        kept: The dead points; the first are the draws of the start that are no live points.
        live: The leaves of the live ones.
        n_evaluations: How often the density was evaluated.
    """

    kept: list[Live]
    live: list[Any]
    n_evaluations: int


def explore(
    key: PRNGKeyArray,
    model: AbstractEnergyModel,
    start: AbstractDistribution,
    sweep: Live,
    *,
    n_live: int = 512,
    n_moves: int | None = None,
    on_level: OnLevel = lambda level, row: None,
    out_of_time: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    most_levels: int = 1000,
) -> Exploration:
    r"""Runs of nested sampling from a start density to the top of another, independent and abreast.

    The live points of a run are the most likely of many draws of $b$, so that what $b$ covers is
    found without any move. Then they are halved until what is above the contour has less than
    `REMAINDER` of $\hat Z$ and either $\log p - \log b$ is even among the live points or their
    volume has shrunk by `DEPTH` more nats: a narrow peak at the top of a broad mode, of which
    nothing can be known below it, is reached as well. A temperature path $b^{1-\beta} p^\beta$
    does not get there where its mass appears at once.

    Args:
        key: Random key.
        model: $p$, up to a constant.
        start: $b$, normalised.
        sweep: Independent draws of $b$, of shape `(runs, draws, d)`, with their densities.
        n_live: Live points of a run, an even number.
        n_moves: Slices of a chain; $2 d + 8$ by default.
        on_level: Receives the number of halvings and what is known then.
        out_of_time: Asked before each halving whether to end.
        progress: What an earlier call had done, to go on from; it is added to.
        most_levels: Halvings at most.

    Returns:
        The points, their weights and each run's $\log Z$.

    Source: as `halve`.
    """
    n_runs, n_sweep, d = sweep.position.shape
    moves = jnp.asarray(n_moves or 2 * d + 8)
    n_live = min(n_live, n_sweep - n_sweep % 2)
    progress = Progress([], [], 0) if progress is None else progress
    if not progress.kept:
        order = np.lexsort((sweep.label, sweep.log_ratio))
        rows = np.arange(n_runs)[:, None]
        pool = [leaf[rows, order] for leaf in sweep]
        progress.kept.append(Live(*(leaf[:, :-n_live] for leaf in pool)))
        progress.live[:] = [leaf[:, -n_live:] for leaf in pool]
    bulk_volume = 0.0
    while True:
        level = len(progress.kept) - 1
        live = Live(*progress.live)
        log_volume = np.log(n_live / n_sweep) - level * np.log(2)
        dead = np.concatenate([points.log_ratio for points in progress.kept], axis=1)
        log_z = _log_sums(dead + _log_shares(progress.kept, n_live, n_sweep))
        ratio = np.asarray(live.log_ratio, float)
        log_top = log_volume - np.log(n_live) + _log_sums(ratio)
        if np.any(log_top > np.logaddexp(log_z, log_top) + np.log(REMAINDER)):
            bulk_volume = log_volume
        spread = np.max(ratio.max(axis=1) - np.median(ratio, axis=1))
        is_deep = bulk_volume - log_volume > DEPTH or spread < EVEN
        is_done = (bulk_volume > log_volume and is_deep) or spread < FLAT
        if is_done or level >= most_levels or out_of_time():
            break
        live, dead, count = halve(_seed(key, level), model, start, live, moves)
        progress.kept.append(dead)
        progress.live[:] = live
        progress.n_evaluations += count
        on_level(level + 1, {"log_likelihood": float(np.median(live.log_ratio))})
    finished = bool(is_done)
    return _weighted(progress, n_live, n_sweep, finished)


def _log_sums(values: np.ndarray) -> np.ndarray:
    return np.asarray(logsumexp(values, axis=1))


def _seed(key: PRNGKeyArray, level: int) -> Array:
    entropy = [*np.asarray(jr.key_data(key)).ravel(), level]
    return jnp.asarray(np.random.SeedSequence(entropy).generate_state(4))


def _log_shares(kept, n_live, n_sweep):
    """The log-volume that each dead point stands for."""
    log_volume = np.log(n_live / n_sweep) - np.arange(len(kept)) * np.log(2)
    # The volume before the points died.
    before = np.concatenate([[-np.log(n_sweep)], log_volume[:-1] - np.log(n_live)])
    return np.repeat(before, [points.label.shape[1] for points in kept])


def _weighted(progress: Progress, n_live: int, n_sweep: int, finished: bool) -> Exploration:
    kept = progress.kept
    n_runs = kept[0].label.shape[0]
    last = np.log(n_live / n_sweep) - (len(kept) - 1) * np.log(2) - np.log(n_live)
    log_share = np.append(_log_shares(kept, n_live, n_sweep), np.full(n_live, last))
    position, log_start, log_ratio, _ = (
        np.concatenate(leaves, axis=1) for leaves in zip(*kept, progress.live, strict=True)
    )
    log_ratio = log_ratio.astype(float)
    log_weights = log_ratio + log_share
    log_partitions = _log_sums(log_weights)
    shares = np.exp(log_weights - log_partitions[:, None])
    mean_ratio = np.sum(shares * np.where(shares > 0, log_ratio, 0), axis=1)
    information = max(0.0, float(np.mean(mean_ratio - log_partitions)))
    n_effective = 1 / np.sum(shares**2, axis=1).max()
    stderr = np.sqrt(information / np.log(2) / n_live + 1 / n_effective)
    return Exploration(
        position=position.reshape(-1, position.shape[-1]),
        log_density=(log_ratio + log_start).ravel(),
        log_weights=(log_weights - np.log(n_runs)).ravel(),
        run=np.repeat(np.arange(n_runs), log_weights.shape[1]),
        log_partitions=[float(value) for value in log_partitions],
        stderr=float(stderr),
        top=progress.live[0].reshape(-1, position.shape[-1]),
        n_evaluations=progress.n_evaluations,
        finished=finished,
    )
