"""The log-normaliser of a model, by importance sampling."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.heavy_tails import HEAVY, heavy_log_mean
from flowebm.evaluation.importance import importance_log_weights, log_mean_exp
from flowebm.evaluation.reliability import reliability
from flowebm.models import AbstractEnergyModel


class LogPartition(NamedTuple):
    r"""An estimate of $\log Z$.

    Attributes:
        value: $\log \hat Z$, nats.
        stderr: Its standard error, nats.
        ess: Effective number of draws.
        khat: Pareto shape of the importance weights; above 0.7 (less for few draws) the
            estimate is unsafe.
        n: Number of draws.
    """

    value: float
    stderr: float
    ess: float
    khat: float
    n: int

    @classmethod
    def exact(cls, value: float) -> "LogPartition":
        r"""A $\log Z$ that is known without draws."""
        return cls(value, stderr=0.0, ess=math.inf, khat=-math.inf, n=0)

    @classmethod
    def from_log_weights(cls, log_weights: Float[Array, " n"]) -> "LogPartition":
        r"""$\log \hat Z$ from log-weights of independent draws, nats; warns as `log_partition`."""
        quality = reliability(log_weights, "log Z")
        value, stderr = log_mean_exp(log_weights)
        if HEAVY < quality.khat < math.inf:
            heavy = heavy_log_mean(np.asarray(log_weights), quality.khat)
            # Of a few values that repeat themselves no tail can be made.
            value, stderr = heavy if math.isfinite(heavy.stderr) else (value, stderr)
        return cls(float(value), float(stderr), quality.ess, quality.khat, log_weights.shape[0])


def log_partition(
    key: PRNGKeyArray,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    proposal: AbstractDistribution,
    *,
    n: int = 20_000,
    batch_size: int = 2_000,
) -> LogPartition:
    r"""Estimate $\log Z = \log \int e^{-E(x)} dx$ from fresh draws of a proposal.

    $\hat Z = \frac1n \sum_i e^{-E(x_i)} / q(x_i)$, $x_i \sim q$, is unbiased for $Z$. Where
    $\hat k > 0.4$ the largest weights are replaced by a model of their tail, and the error counts
    what draws of it may have missed (`flowebm.evaluation.heavy_tails`).

    Args:
        key: Key of the draws.
        model: The energy model, or a log-density function of one point.
        proposal: The distribution $q$, positive wherever the model is: a fitted flow, better
            a defensive mixture of it with a wide base. It must not be a fixed pool of draws
            that the model was trained on.
        n: Number of draws.
        batch_size: Number of draws made at once; sets the memory in use.

    Returns:
        The estimate with its standard error and the weights' diagnostics.

    Raises:
        ValueError: If the shapes differ, a weight is NaN or infinite, or all are zero.

    Warns:
        EstimateWarning: If $\hat k > \min(1 - 1/\log_{10} n,\ 0.7)$ or fewer than 100 draws are
            effective.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, section 9.1.
    """
    log_weights = importance_log_weights(key, model, proposal, n=n, batch_size=batch_size)
    return LogPartition.from_log_weights(log_weights)


def as_log_partition(log_partition: LogPartition | Estimate | float) -> tuple[float, float]:
    r"""Read a $\log Z$ given as an estimate, or as a number known exactly.

    Args:
        log_partition: An estimate with its standard error, or an exact number; nats.

    Returns:
        The value and its standard error, 0 for an exact number.
    """
    if isinstance(log_partition, LogPartition | Estimate):
        return float(log_partition.value), float(log_partition.stderr)
    return float(log_partition), 0.0
