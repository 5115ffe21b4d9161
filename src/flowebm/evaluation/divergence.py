"""How far a model is from a truth whose density is known."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, PRNGKeyArray, Scalar

from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.importance import importance_log_weights, importance_sample, log_mean_exp
from flowebm.evaluation.log_partition import LogPartition, as_log_partition
from flowebm.evaluation.reliability import reliability
from flowebm.models import AbstractEnergyModel, as_energy_model
from flowebm.refusal import Refused


def kl_divergence(
    key: PRNGKeyArray,
    truth: AbstractDistribution,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    *,
    n: int = 20_000,
    log_partition: LogPartition | Estimate | float | None = None,
    batch_size: int = 2_000,
) -> Estimate:
    r"""Estimate $\mathrm{KL}(p^* \| p) = E_{p^*}[\log p^*(x) + E(x)] + \log Z$, in nats.

    Without `log_partition`, $Z$ is estimated by importance sampling from the truth, with
    draws independent of the first expectation's, so that the two errors add in quadrature.
    The estimate of a divergence near zero may be negative within its error.

    Args:
        key: Key of the draws.
        truth: The known density $p^*$, with `log_prob` and `sample`.
        model: The energy model, or a log-density function of one point.
        n: Number of draws for each expectation.
        log_partition: The model's $\log Z$ where it is known: an estimate with its error, or
            an exact number. Needed when the truth is zero where the model is not (a truth
            with bounded support), since draws of the truth cannot see that mass.
        batch_size: Number of draws made at once; sets the memory in use.

    Returns:
        The divergence and its standard error, nats.

    Raises:
        ValueError: If the shapes differ, or a density at a draw is NaN or infinite.

    Warns:
        EstimateWarning: If the importance weights that give $\log Z$ have $\hat k > 0.7$ or
            an effective sample size below 100.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, chapter 9.
    """
    key_gap, key_partition = jax.random.split(key)
    log_ratio = importance_log_weights(key_gap, model, truth, n=n, batch_size=batch_size)
    gap = _mean(-log_ratio, "log-density")
    if log_partition is None:
        log_weights = importance_log_weights(
            key_partition, model, truth, n=n, batch_size=batch_size
        )
        reliability(log_weights, "log Z from the truth's draws")
        given = log_mean_exp(log_weights)
    else:
        given = log_partition
    log_z, log_z_stderr = as_log_partition(given)
    return Estimate(gap.value + log_z, (gap.stderr**2 + log_z_stderr**2) ** 0.5)


def fisher_divergence(
    key: PRNGKeyArray,
    truth: AbstractDistribution,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    *,
    n: int = 20_000,
    batch_size: int = 2_000,
) -> Estimate:
    r"""Estimate $E_{p^*} \|\nabla \log p^*(x) - s(x)\|^2$ on fresh draws of the truth.

    It needs no $\log Z$, and hardly sees the relative weights of separated modes.

    Args:
        key: Key of the draws.
        truth: The known density $p^*$, with `log_prob` and `sample`.
        model: The energy model, or a log-density function of one point.
        n: Number of draws.
        batch_size: Number of draws made at once; sets the memory in use.

    Returns:
        The divergence and its standard error, in inverse squared units of the data.

    Raises:
        ValueError: If the shapes differ, or a score at a draw is NaN or infinite.

    Source: Hyvärinen (2005), section 2, whose objective is half of it.
    """
    squares, _ = importance_sample(
        key,
        model,
        truth,
        n=n,
        batch_size=batch_size,
        statistic=_ScoreGap(truth, as_energy_model(model, truth.shape)),
    )
    return _mean(squares, "score")


def _mean(values, what):
    # Sums of many terms lose digits in single precision.
    values = np.asarray(values, np.float64)
    bad = int(np.sum(~np.isfinite(values)))
    if bad:
        raise Refused(
            f"The model's or the truth's {what} is NaN or infinite at {bad} of {len(values)} draws "
            "of the truth, so their divergence is not finite; check both there."
        )
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5)


class _ScoreGap(eqx.Module):
    """The squared distance of the two scores at one point."""

    truth: AbstractDistribution
    model: AbstractEnergyModel

    def __call__(self, x):
        return jnp.sum(jnp.square(jax.grad(self.truth.log_prob)(x) - self.model.score(x)))
