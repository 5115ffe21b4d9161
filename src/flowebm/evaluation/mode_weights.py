"""How much of a model's mass each mode has."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from flowebm.evaluation.importance import importance_sample
from flowebm.evaluation.reliability import reliability
from flowebm.models import AbstractEnergyModel
from flowebm.refusal import Refused


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
    """

    weights: Float[np.ndarray, " K"]
    stderr: Float[np.ndarray, " K"]
    ess: float
    khat: float


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
        The weights with their standard errors (delta method) and diagnostics. A mode that no
        draw fell in has weight and standard error 0: neither says more than the proposal saw.

    Raises:
        ValueError: If `mode` gives an index out of range, the shapes differ, a weight is NaN
            or infinite, or all are zero.

    Warns:
        EstimateWarning: If $\hat k > 0.7$ or fewer than 100 draws are effective.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, section 9.2.
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
    return ModeWeights(weights, stderr, quality.ess, quality.khat)


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
