"""Importance sampling: weighted draws of a model, and what their weights say."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.estimate import Estimate
from flowebm.models import AbstractEnergyModel, as_energy_model
from flowebm.refusal import Refused

# Weights this close to each other (relatively) have no tail to speak of, only rounding noise,
# to which a Pareto fit would give any shape at all.
EQUAL_WEIGHTS = 1e-3

# So many weights, none of which is more than so many times as large as their mean, have no heavy
# tail, whatever shape a fit gives to the steps near the top.
MANY_WEIGHTS, BOUNDED_WEIGHTS = 1000, 3.0


class ImportanceSample(NamedTuple):
    r"""Fresh draws of a proposal and their importance weights for a model.

    Attributes:
        values: What the caller asked to know of each draw, by default its position:
            leaves of shape `(n, ...)`.
        log_weights: $\log w_i = -E(x_i) - \log q(x_i)$ in nats; shape `(n,)`.
    """

    values: PyTree
    log_weights: Float[Array, " n"]


def importance_sample(
    key: PRNGKeyArray,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    proposal: AbstractDistribution,
    *,
    n: int,
    batch_size: int = 2_000,
    statistic: Callable[[Array], Any] | None = None,
) -> ImportanceSample:
    r"""Draw $n$ independent points $x_i \sim q$ and weight them for the model.

    $\log w_i = -E(x_i) - \log q(x_i)$, so that $E_q[w] = Z$ and
    $E_q[w f] / E_q[w] = E_p[f]$. Batches go one after another: the memory in use is one
    batch's and the results'.

    Args:
        key: Key of the draws, fresh: no draw that trained the model may come back here.
        model: The energy model, or a log-density function of one point.
        proposal: The distribution $q$ over points of the model's shape; must be positive
            wherever the model is.
        n: Number of draws.
        batch_size: Number of draws made at once.
        statistic: What to keep of each point, a function of one point to arrays; `None`
            keeps the point itself.

    Returns:
        The statistic and the log-weight of every draw.

    Raises:
        ValueError: If the shapes of model and proposal differ, or a count is not positive.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, chapter 9.
    """
    model = as_energy_model(model, proposal.shape)
    if tuple(model.shape) != tuple(proposal.shape):
        raise Refused(
            f"The model's points have shape {tuple(model.shape)} but the proposal's "
            f"{tuple(proposal.shape)}; pass a proposal over the model's space."
        )
    if n < 2 or batch_size < 1:
        raise Refused(
            f"Importance sampling needs n >= 2 draws in batches of at least 1; "
            f"got n={n}, batch_size={batch_size}."
        )
    return _weighted_draws(key, model, proposal, n, min(batch_size, n), statistic)


def importance_log_weights(
    key: PRNGKeyArray,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    proposal: AbstractDistribution,
    *,
    n: int,
    batch_size: int = 2_000,
) -> Float[Array, " n"]:
    r"""The log-weights of `importance_sample` alone: of each point, one number is kept.

    Args:
        key: Key of the draws.
        model: The energy model, or a log-density function of one point.
        proposal: The distribution $q$ over points of the model's shape.
        n: Number of draws.
        batch_size: Number of draws made at once.

    Returns:
        $\log w_i = -E(x_i) - \log q(x_i)$, nats; shape `(n,)`.

    Raises:
        ValueError: If the shapes of model and proposal differ, or a count is not positive.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, chapter 9.
    """
    sample = importance_sample(key, model, proposal, n=n, batch_size=batch_size, statistic=_nothing)
    return sample.log_weights


@eqx.filter_jit
def _weighted_draws(key, model, proposal, n, batch_size, statistic):
    def one_batch(key):
        x, log_q = proposal.sample_and_log_prob(key, (batch_size,))
        log_weights = jax.vmap(model.unnormalized_log_prob)(x) - log_q
        return (x if statistic is None else jax.vmap(statistic)(x)), log_weights

    batches = jax.lax.map(one_batch, jax.random.split(key, -(-n // batch_size)))
    return ImportanceSample(
        *jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], batches)
    )


def _nothing(x):
    return None


@jax.jit
def log_mean_exp(log_weights: Float[Array, " n"]) -> Estimate:
    r"""$\log \frac1n \sum_i w_i$ with its standard error by the delta method.

    $\operatorname{se} = \sqrt{\widehat{\mathrm{var}}(w) / n} \,/\, \bar w$. The mean of the
    weights is unbiased for $Z$; its logarithm is low by about $\operatorname{se}^2 / 2$.

    Args:
        log_weights: Log-weights of independent draws, nats; shape `(n,)`, $n \ge 2$.

    Returns:
        The estimate in nats, as arrays: it may be compiled and vectorised.

    Source: Owen (2013), *Monte Carlo theory, methods and examples*, section 9.1.
    """
    n = log_weights.shape[0]
    value = jax.nn.logsumexp(log_weights) - jnp.log(n)
    relative_variance = jnp.var(jnp.exp(log_weights - value), ddof=1)
    return Estimate(value, jnp.sqrt(relative_variance / n))


def bounded_log_mean_error(log_weights: Float[np.ndarray, " n"], bound: float) -> float:
    r"""What $\log \frac1n \sum_i w_i$ is off by at most, with 95% confidence, for bounded weights.

    With $w_i \in [e^{-B}, e^B]$ independent, $\hat Z$ their mean and $V$ their variance,

    $$|\hat Z - Z| \le \epsilon = \sqrt{\frac{2 V \log(4 / \alpha)}{n}}
      + \frac{7\, (e^B - e^{-B}) \log(4 / \alpha)}{3 (n - 1)}$$

    with probability $1 - \alpha = 0.95$ at least, for any number of draws and law of the weights.

    Args:
        log_weights: Logarithms of the weights, nats.
        bound: $B$, nats.

    Returns:
        $-\log(1 - \epsilon / \hat Z)$, which is no less than $\log(1 + \epsilon / \hat Z)$, nats.

    Source: Maurer and Pontil (2009), *Empirical Bernstein bounds and sample-variance penalization*,
    theorem 4, for either side.
    """
    weights, n = np.exp(np.asarray(log_weights, np.float64)), len(log_weights)
    log_term = math.log(4 / 0.05)
    error = math.sqrt(2 * weights.var(ddof=1) * log_term / n)
    error += 7 * 2 * math.sinh(bound) * log_term / (3 * (n - 1))
    share = error / weights.mean()
    return -math.log1p(-share) if share < 1 else math.inf


@jax.jit
def effective_sample_size(log_weights: Float[Array, " n"]) -> Scalar:
    r"""Kish's effective number of draws, $(\sum_i w_i)^2 / \sum_i w_i^2$, from 1 to $n$.

    Args:
        log_weights: Log-weights, up to a common constant; shape `(n,)`.

    Returns:
        The effective number.

    Source: Kish (1965), *Survey sampling*; Owen (2013), *Monte Carlo theory, methods and examples*,
    section 9.3.
    """
    from blackjax.smc.ess import ess

    return jnp.asarray(ess(log_weights))


@jax.jit
def pareto_khat(log_weights: Float[Array, " n"]) -> Scalar:
    r"""Pareto shape $\hat k$ of the upper tail of importance weights.

    A generalised Pareto distribution is fitted to the $\min(n/5, 3\sqrt n)$ largest
    weights. Weights have finite variance for $k < 1/2$; above $\hat k = 0.7$ neither the
    estimate nor its standard error is to be believed.

    Args:
        log_weights: Log-weights, up to a common constant; shape `(n,)`.

    Returns:
        $\hat k$; 0 where the largest weights are equal, 0 at most where none of 1,000 weights or
        more is above three times their mean (a step near the top looks like a heavy tail), and
        infinity where no tail can be fitted ($n < 25$, or fewer non-zero weights than the tail
        has).

    Source: Vehtari, Simpson, Gelman, Yao, Gabry (2024), *Pareto smoothed importance
    sampling*, JMLR 25(72).
    """
    from blackjax.diagnostics import psis_weights

    n = log_weights.shape[0]
    _, khat = psis_weights(log_weights)
    tail = min(max(int(3 * n**0.5), 5), n // 5)
    if tail < 5:
        return jnp.asarray(khat)
    largest = jnp.sort(log_weights)[n - tail - 1 :]
    equal = largest[-1] - largest[0] < EQUAL_WEIGHTS
    # Of a tail with k = 0.7 so many draws have weights twenty times as large as their mean.
    log_mean = jax.nn.logsumexp(log_weights) - jnp.log(n)
    bounded = (largest[-1] - log_mean < jnp.log(BOUNDED_WEIGHTS)) & (n >= MANY_WEIGHTS)
    khat = jnp.where(bounded, jnp.minimum(khat, 0.0), khat)
    return jnp.where(equal, 0.0, jnp.where(jnp.isnan(khat), jnp.inf, khat))
