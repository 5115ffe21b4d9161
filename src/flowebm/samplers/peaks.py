"""Where a density has its peaks, and which of them are one mode."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

#: Inner points of the segment between two peaks, and how far, in nats, the density may fall there
#: below the lower of them for both to be of one mode.
SEGMENT_POINTS, SEGMENT_FALL = 15, 1.0

#: Steps at a peak that are tried for its curvature, at most.
MOST_SHRINKS = 8

#: Iterations of a climb.
MOST_STEPS = 60

#: Batches of points are evaluated by it: points to log-densities, nats.
Evaluate = Callable[[np.ndarray], np.ndarray]

#: One point to the log-density and its gradient.
ValueAndGrad = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Peak(NamedTuple):
    r"""A local maximum.

    Attributes:
        position: Where it is.
        log_density: How high, nats.
        covariance: The inverse of minus the Hessian there, within the limits of the scale that
            points around have.
        log_mass: $\log$ of the mass of a normal of that height and covariance, nats.
    """

    position: np.ndarray
    log_density: float
    covariance: np.ndarray
    log_mass: float


def spread_out(rng: np.random.Generator, points: np.ndarray, n: int) -> np.ndarray:
    """Row numbers of points far from one another: each is the farthest from those before.

    Source: Gonzalez (1985), *Clustering to minimize the maximum intercluster distance*.
    """
    scaled = points / (points.std(axis=0) + 1e-30)
    rows = [int(rng.integers(len(points)))]
    distance = np.sum((scaled - scaled[rows[0]]) ** 2, axis=1)
    while len(rows) < min(n, len(points)):
        rows.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.sum((scaled - scaled[rows[-1]]) ** 2, axis=1))
    return np.array(rows)


def climb(start: np.ndarray, scale: np.ndarray, value_and_grad: ValueAndGrad) -> np.ndarray:
    """The local maximum uphill of a point, by L-BFGS in coordinates of the given scale."""

    def descent(y):
        value, gradient = value_and_grad(y * scale)
        if not np.isfinite(value) or not np.all(np.isfinite(gradient)):
            return 1e30, np.zeros_like(y)
        return -value, -gradient * scale

    from scipy.optimize import minimize

    found = minimize(
        descent, start / scale, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS}
    )
    return found.x * scale


def peak_at(position: np.ndarray, scale: np.ndarray, value_and_grad: ValueAndGrad) -> Peak | None:
    """A peak with its curvature, by central differences of the gradient; `None` of no use."""
    d = position.size
    value, gradient = value_and_grad(position)
    if not np.isfinite(value) or not np.all(np.isfinite(gradient)):
        return None
    # The step follows the curvature: first of the given scale, then of what that has shown. A step
    # that leaves the peak shows that of what lies around: a spike may stand on something wide.
    steps = 1e-2 * scale
    for _ in range(MOST_SHRINKS):
        rows, falls = [], np.zeros(d)
        for i in range(d):
            step = np.zeros(d)
            step[i] = steps[i]
            (above, ahead), (below, behind) = (value_and_grad(position + s) for s in (step, -step))
            rows.append((ahead - behind) / (2 * steps[i]))
            falls[i] = value - max(above, below)
        hessian = -np.array(rows)
        curvature = np.diag(hessian)
        if not np.all(np.isfinite(hessian)):
            return None
        is_far = falls > 1
        fitting = 0.1 / np.sqrt(np.maximum(curvature, 1 / scale**2))
        if not is_far.any() and np.all(steps < 3 * fitting):
            break
        steps = np.where(is_far, 0.2 * steps, fitting)
    hessian = (hessian + hessian.T) / 2 * scale * scale[:, None]
    values, vectors = np.linalg.eigh(hessian)
    # No flatter than what is around is wide: where coordinates are correlated, the longest
    # direction can have d times the variance that each of them has.
    values = np.clip(values, 1 / d, 1e12)
    covariance = (vectors / values) @ vectors.T * scale * scale[:, None]
    log_mass = value + 0.5 * d * np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    return Peak(position, float(value), covariance, float(log_mass))


def same_place(a: Peak, b: Peak) -> bool:
    """Whether two climbs ended at one peak."""
    step = a.position - b.position
    return float(step @ np.linalg.solve(a.covariance + b.covariance, step)) < 0.5


def joined(peaks: list[Peak], evaluate: Evaluate) -> np.ndarray:
    """The number of the mode of each peak: peaks that a ridge joins are of one mode.

    Two peaks are joined where the log-density between them, on the segment, does not fall below
    the lower one by more than `SEGMENT_FALL`, or through others that are joined.
    """
    n = len(peaks)
    modes = np.arange(n)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    if not pairs:
        return modes
    t = np.linspace(0, 1, SEGMENT_POINTS + 2)[1:-1, None]
    segments = [peaks[i].position * t + peaks[j].position * (1 - t) for i, j in pairs]
    lowest = evaluate(np.concatenate(segments)).reshape(len(pairs), -1).min(axis=1)
    for (i, j), low in zip(pairs, lowest, strict=True):
        if low > min(peaks[i].log_density, peaks[j].log_density) - SEGMENT_FALL:
            modes[modes == modes[i]] = modes[j]
    return np.unique(modes, return_inverse=True)[1]


def lookalikes(
    rng: np.random.Generator, peaks: list[np.ndarray], centre: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    r"""Points where a density may have the same again: what is cheap to look at.

    Exchanges of two coordinates and of two halves of them, which mixtures and sums of alike parts
    are even in; reflections of one coordinate and of all; steps along the axes and the diagonals.

    Args:
        rng: Random numbers.
        peaks: Points known.
        centre: Where the search started.
        scale: How far it reached in each coordinate.

    Returns:
        Points, one a row.
    """
    d = centre.size
    orders = [np.roll(np.arange(d), shift) for shift in range(1, min(d, 12))]
    pairs = [(i, j) for i in range(d) for j in range(i)]
    for i, j in (
        pairs if len(pairs) < 100 else [pairs[k] for k in rng.permutation(len(pairs))[:100]]
    ):
        order = np.arange(d)
        order[[i, j]] = j, i
        orders.append(order)
    # Blocks of two or more parts, whole or interleaved.
    for parts in range(2, d // 2 + 1):
        if d % parts == 0:
            grid = np.arange(d).reshape(parts, -1)
            for blocks in (grid, np.arange(d).reshape(-1, parts).T):
                for i in range(parts):
                    for j in range(i):
                        order = np.arange(d)
                        order[blocks[i]], order[blocks[j]] = blocks[j], blocks[i]
                        orders.append(order)
    signs = [1 - 2 * row for row in np.eye(d)[: min(d, 64)]] + [-np.ones(d)]
    images = [peak[order] for peak in peaks for order in orders]
    images += [centre + sign * (peak - centre) for peak in peaks for sign in signs]
    if d <= 6:
        corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * d)).reshape(d, -1).T
    else:
        corners = np.sign(rng.standard_normal((62, d)))
        corners = np.concatenate([corners, np.ones((1, d)), -np.ones((1, d))])
    directions = np.concatenate([corners, np.eye(d), -np.eye(d)])
    reach = np.concatenate([np.arange(1, 201) / 50, np.geomspace(4, 40, 100)])
    lines = [
        (origin + directions[:, None] * scale * reach[:, None]).reshape(-1, d)
        for origin in [centre, *peaks[:2]]
    ]
    return np.concatenate([np.array(images).reshape(-1, d), *lines]).astype(np.float32)
