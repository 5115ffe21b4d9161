r"""The mean of weights with a heavy tail, with an error that counts what the draws have missed."""

import numpy as np
from jaxtyping import Float

from flowebm.evaluation.estimate import Estimate

#: Pareto shape from which a tail is modelled: below, means of weights behave.
HEAVY = 0.4

#: Prior of the tail's shape, a normal: where proposals are too narrow, shapes are large.
SHAPE_MEAN, SHAPE_STD = 0.7, 0.2

#: A larger shape of the tail has no mean to speak of.
MOST_SHAPE = 0.95

#: How much wider an error is at a shape of 0.7, in proportion from 0.5 on: draws whose tail looks
#: lighter than it is are those that have missed it (`benchmarks/calibration.py`).
WIDER = 0.9


def khat_limit(n: int) -> float:
    r"""The Pareto shape above which an estimate from $n$ draws is not to be believed.

    $\min(1 - 1/\log_{10} n,\ 0.7)$.

    Args:
        n: Number of draws.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry (2024), *Pareto smoothed importance sampling*,
    section 3.2.4.
    """
    return min(1 - 1 / np.log10(max(n, 11)), 0.7)


def heavy_log_mean(log_weights: Float[np.ndarray, " n"], khat: float) -> Estimate:
    r"""$\log \frac1n \sum_i w_i$, with the largest weights replaced by a model of their tail.

    The excesses of the $M = \min(n/5, 3\sqrt n)$ largest weights over the next one are generalised
    Pareto, of mean $\sigma / (1 - k)$; shape and scale are averaged over their posterior on Zhang
    and Stephens' grid. The error has the spread of that posterior, of the number of draws in the
    tail and of the other weights; it is widened where $\hat k$ comes near to 0.7.

    Args:
        log_weights: Log-weights of independent draws, nats.
        khat: Their Pareto shape, above `HEAVY`.

    Returns:
        The mean of $\log Z$ and its standard error, nats.

    Source: Zhang and Stephens (2009), *A new and efficient estimation method for the generalized
    Pareto distribution*; Vehtari et al. (2024) for the tail.
    """
    ordered = np.sort(np.asarray(log_weights, np.float64))
    largest, n = ordered[-1], len(ordered)
    weights = np.exp(ordered - largest)
    tail = int(min(n / 5, 3 * n**0.5))
    body, threshold, share = weights[:-tail], weights[-tail - 1], tail / n
    scales, shapes, posterior = _pareto_posterior(weights[-tail:] - threshold)
    means = threshold + scales / (1 - np.minimum(shapes, MOST_SHAPE))
    inside = body.sum() / n
    log_means = np.log(inside + share * means)
    value = posterior @ log_means
    # Of the sum of the other weights and the number of those in the tail; and of the scale.
    mean = posterior @ means
    second = np.square(body).sum() / n + share * mean**2
    variance = (second - (inside + share * mean) ** 2) / n
    variance += (share * (mean - threshold)) ** 2 / tail
    relative = variance / (inside + share * mean) ** 2
    stderr = np.sqrt(posterior @ np.square(log_means - value) + relative)
    widening = 1 + WIDER * max(0.0, khat - 0.5) / 0.2
    return Estimate(float(value + largest), float(widening * stderr))


def _pareto_posterior(
    excesses: Float[np.ndarray, " m"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales and shapes of generalised Pareto distributions, and their posterior probabilities."""
    m = len(excesses)
    n_grid = 30 + int(m**0.5)
    steps = np.arange(1, n_grid + 1)
    quartile = excesses[int(m / 4 + 0.5) - 1]
    if not quartile > 0:
        return np.full(1, np.nan), np.full(1, np.nan), np.ones(1)
    grid = 1 / excesses[-1] + (1 - np.sqrt(n_grid / (steps - 0.5))) / (3 * quartile)
    shapes = np.log1p(-grid[:, None] * excesses).mean(axis=1)
    log_likelihood = m * (np.log(-grid / shapes) - shapes - 1)
    log_posterior = log_likelihood - 0.5 * ((shapes - SHAPE_MEAN) / SHAPE_STD) ** 2
    posterior = np.exp(log_posterior - log_posterior.max())
    return -shapes / grid, shapes, posterior / posterior.sum()
