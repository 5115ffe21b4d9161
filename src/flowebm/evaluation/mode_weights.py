"""How much of a model's mass each mode has."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from flowebm.evaluation.heavy_tails import HEAVY, heavy_log_mean
from flowebm.evaluation.importance import importance_sample, log_mean_exp
from flowebm.evaluation.reliability import reliability
from flowebm.models import AbstractEnergyModel
from flowebm.refusal import Refused

#: Standard errors to the ends of a 95% interval.
Z_95 = 1.96


class NearestMode(eqx.Module):
    """The index of the nearest of K centres to a point, in Euclidean distance.

    Args:
        centers: One centre per mode; shape `(K, *shape)`.
    """

    centers: Float[Array, "K ..."]

    def __call__(self, x: Float[Array, "..."]) -> Int[Array, ""]:
        squares = jnp.square(self.centers - x).reshape(self.centers.shape[0], -1)
        return jnp.argmin(squares.sum(axis=1))


class ModeWeights(NamedTuple):
    """An estimate of a model's mass in each mode.

    Attributes:
        weights: Mass of each mode, summing to 1; shape `(K,)`.
        stderr: Standard error of each; shape `(K,)`.
        ess: Effective number of draws.
        khat: Pareto shape of the importance weights; above 0.7 the estimate is unsafe.
        upper: Upper end of each weight's 95% interval; shape `(K,)`. Of a mode that no draw fell
            in, $3 / n_\text{eff}$.
    """

    weights: Float[np.ndarray, " K"]
    stderr: Float[np.ndarray, " K"]
    ess: float
    khat: float
    upper: Float[np.ndarray, " K"]


def mode_weights(
    key: PRNGKeyArray,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    proposal: AbstractDistribution,
    mode: Callable[[Array], Int[Array, ""]],
    n_modes: int,
    *,
    n: int = 20_000,
    batch_size: int = 2_000,
) -> ModeWeights:
    r"""Estimate the model's mass in each mode by self-normalised importance sampling.

    $\hat\omega_k = \sum_i w_i 1[m(x_i) = k] / \sum_i w_i$ on fresh draws $x_i \sim q$: the
    mass of the *model*, whatever its training chains look like.

    Args:
        key: Key of the draws.
        model: The energy model, or a log-density function of one point.
        proposal: The distribution $q$; must cover every mode.
        mode: Maps one point to the index of its mode, 0 to `n_modes - 1`, such as
            `NearestMode(centers)`, a target's own `mode`, or a classifier.
        n_modes: Number of modes K.
        n: Number of draws.
        batch_size: Number of draws made at once; sets the memory in use.

    Returns:
        The weights with their standard errors (delta method; wider where the weights' tail is
        heavy, by as much as that of $\log Z$) and diagnostics. A mode that no draw fell in has
        weight 0, and less than $3 / n_\text{eff}$ with probability 0.95: its standard error is that
        limit's part.

    Raises:
        ValueError: If `mode` gives an index out of range, the shapes differ, a weight is NaN
            or infinite, or all are zero.

    Warns:
        EstimateWarning: If $\hat k > 0.7$ or fewer than 100 draws are effective.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, section 9.2; Hanley and
    Lippman-Hand (1983), *If nothing goes wrong, is everything all right?*, for modes without draws.
    """
    index, log_weights = importance_sample(
        key, model, proposal, n=n, batch_size=batch_size, statistic=mode
    )
    weights, stderr, lowest, highest = jax.device_get(_self_normalized(index, log_weights, n_modes))
    if lowest < 0 or highest >= n_modes:
        raise Refused(
            f"`mode` returned indices from {lowest} to {highest}; with n_modes={n_modes} they "
            f"must lie in 0..{n_modes - 1}."
        )
    quality = reliability(log_weights, "the mode weights")
    if HEAVY < quality.khat < math.inf:
        heavy = heavy_log_mean(np.asarray(log_weights), quality.khat)
        ratio = float(heavy.stderr) / float(log_mean_exp(log_weights).stderr)
        stderr = stderr * max(1.0, ratio if math.isfinite(ratio) else 1.0)
    # The rule of three: of so many draws that miss it, a larger share would be seldom.
    stderr = np.where(weights > 0, stderr, 3 / quality.ess / Z_95)
    upper = np.minimum(weights + Z_95 * stderr, 1.0)
    return ModeWeights(weights, stderr, quality.ess, quality.khat, upper)


@eqx.filter_jit
def _self_normalized(index, log_weights, n_modes):
    shares = jax.nn.softmax(log_weights)
    in_mode = jax.nn.one_hot(index, n_modes, dtype=shares.dtype)
    weights = shares @ in_mode
    n = log_weights.shape[0]
    variance = jnp.square(shares) @ jnp.square(in_mode - weights) * n / (n - 1)
    return weights, jnp.sqrt(variance), index.min(), index.max()


def total_variation(w1: Float[Array, " K"], w2: Float[Array, " K"]) -> float:
    r"""Total variation between two sets of mode weights, $\frac12 \sum_k |w_k - w'_k|$.

    Args:
        w1: Weights of K modes, summing to 1; shape `(K,)`.
        w2: The weights to compare with; shape `(K,)`.

    Returns:
        The distance, from 0 (equal) to 1 (disjoint).

    Raises:
        ValueError: If the two differ in shape.

    Source: Levin, Peres, Wilmer (2009), *Markov chains and mixing times*, section 4.1.
    """
    first, second = np.asarray(w1, float), np.asarray(w2, float)
    if first.shape != second.shape:
        raise Refused(
            f"Mode weights of shapes {first.shape} and {second.shape} cannot be compared; "
            "give both one entry per mode."
        )
    return float(0.5 * np.abs(first - second).sum())
