r"""How often 95% intervals for log Z from importance weights cover the truth without a warning.

    python benchmarks/calibration.py --weights

Pairs of a target and a proposal whose log Z is 0, by their weights alone: $n$ draws, many
repetitions. Narrow proposals have weights of infinite variance or nearly so; $k$ is the shape of
their tail where it is known.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from flowebm.evaluation.heavy_tails import HEAVY, heavy_log_mean, khat_limit
from flowebm.evaluation.importance import effective_sample_size, log_mean_exp, pareto_khat
from flowebm.evaluation.reliability import ESS_LIMIT

N_DRAWS, REPETITIONS = 20_000, 300

LogWeights = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def normal(d: int, scale: float) -> LogWeights:
    """A standard normal in d coordinates under one so many times as wide."""

    def log_weights(rng, shape):
        squares = rng.chisquare(d, shape)
        return 0.5 * (1 - scale**2) * squares + d * np.log(scale)

    return log_weights


def student(d: int, df: float, fraction: float = 0.05, scale: float = 3.0) -> LogWeights:
    """A Student t under a standard normal with a share of one that is three times as wide."""

    def log_weights(rng, shape):
        is_wide = rng.random(shape) < fraction
        squares = rng.chisquare(d, shape) * np.where(is_wide, scale**2, 1.0)
        target = gammaln((df + d) / 2) - gammaln(df / 2) - d / 2 * np.log(df * np.pi)
        target = target - (df + d) / 2 * np.log1p(squares / df)
        narrow = np.log1p(-fraction) - squares / 2
        wide = np.log(fraction) - squares / 2 / scale**2 - d * np.log(scale)
        return target - np.logaddexp(narrow, wide) + d / 2 * np.log(2 * np.pi)

    return log_weights


def shifted(distance: float) -> LogWeights:
    """A standard normal under one that stands elsewhere: log-normal weights."""
    return lambda rng, shape: distance * rng.normal(size=shape) - distance**2 / 2


def laplace(scale: float) -> LogWeights:
    """A Laplace density under a normal."""

    def log_weights(rng, shape):
        x = scale * rng.normal(size=shape)
        return -np.abs(x) + x**2 / 2 / scale**2 + np.log(scale / 2) + 0.5 * np.log(2 * np.pi)

    return log_weights


PAIRS: dict[str, LogWeights] = (
    {
        f"normal, d={d}, {s:g} times as wide": normal(d, s)
        for d, s in [
            (1, 0.5),
            (1, 0.6),
            (2, 0.5),
            (2, 0.6),
            (2, 0.7),
            (2, 0.8),
            (5, 0.6),
            (5, 0.7),
            (5, 1.3),
            (10, 0.65),
            (10, 0.75),
            (10, 0.85),
            (20, 0.8),
            (30, 0.9),
            (30, 1.3),
        ]
    }
    | {
        f"Student t, d={d}, {df:g} degrees": student(d, df)
        for d, df in [(1, 3), (2, 3), (5, 4), (5, 10), (10, 5)]
    }
    | {f"normal, {x:g} away": shifted(x) for x in (1, 1.5, 2, 2.5, 3)}
    | {f"Laplace under a normal of {s:g}": laplace(s) for s in (1, 1.5)}
)


def coverage(
    log_weights: LogWeights, *, n: int = N_DRAWS, repetitions: int = REPETITIONS, seed: int = 0
) -> dict[str, float]:
    """Shares of intervals that hold log Z = 0, of those without a warning, and their number.

    Args:
        log_weights: Draws log-weights of a shape.
        n: Draws of one estimate.
        repetitions: Estimates.
        seed: Seed of all draws.
    """
    drawn = log_weights(np.random.default_rng(seed), (repetitions, n))
    plain, khat, ess = jax.lax.map(
        lambda w: (log_mean_exp(w), pareto_khat(w), effective_sample_size(w)),
        jnp.asarray(drawn, float),
    )
    khat, ess = np.asarray(khat, float), np.asarray(ess)
    values, errors = np.array(plain.value, float), np.array(plain.stderr, float)
    held_plainly = np.abs(values) <= 1.96 * errors
    for i in np.flatnonzero((khat > HEAVY) & np.isfinite(khat)):
        values[i], errors[i] = heavy_log_mean(drawn[i], khat[i])
    believed = (khat <= khat_limit(n)) & (ess >= ESS_LIMIT)
    held = np.abs(values) <= 1.96 * errors

    def share(of: np.ndarray) -> float:
        return float(of[believed].mean()) if believed.any() else float("nan")

    return {
        "khat": float(np.median(khat)),
        "believed": float(believed.mean()),
        "held": share(held),
        "held_plainly": share(held_plainly),
    }


def main() -> None:
    print("| pair | k̂ | not warned of | covered | by the delta method |\n|---|---|---|---|---|")
    for name, log_weights in PAIRS.items():
        row = coverage(log_weights)
        print(
            f"| {name} | {row['khat']:.2f} | {row['believed']:.0%} | {row['held']:.1%} | "
            f"{row['held_plainly']:.1%} |",
            flush=True,
        )
