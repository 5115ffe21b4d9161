"""Steps of a population along a path of temperatures, as large as its weights allow."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

#: What a log-ratio counts as where the target has no mass: 0 · (-inf) would be no number.
LOG_ZERO = -1e30

#: Where the target excludes a share of the population, no step however small keeps the effective
#: size: one such step must be taken all the same.
SMALLEST_STEP = 1e-6


class TemperatureStep(NamedTuple):
    r"""One step along the path.

    Attributes:
        temperature: The next $\beta$.
        ancestors: Which point each point of the next population is.
    """

    temperature: Scalar
    ancestors: Int[Array, " n"]


def log_ratio(
    log_target: Float[Array, "..."], log_start: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""$\log p - \log b$ (nats), `LOG_ZERO` where the target has no mass or is no number."""
    return jnp.maximum(jnp.nan_to_num(log_target - log_start, nan=LOG_ZERO), LOG_ZERO)


def temperature_step(
    key: PRNGKeyArray,
    log_ratios: Float[Array, " n"],
    temperature: Scalar,
    target_ess: float | Array,
) -> TemperatureStep:
    r"""From $\pi_\beta \propto b^{1-\beta} p^\beta$ to the next $\beta$, and resample.

    The increment $\delta$ is the largest for which the weights $(p/b)^\delta$ keep the effective
    share of the population; at $\beta = 1$ it is zero and all points stay as they are.

    Args:
        key: Random key of the resampling, which is systematic.
        log_ratios: $\log p - \log b$ of the points, as `log_ratio` gives them.
        temperature: $\beta$.
        target_ess: The effective share to keep, between 0 and 1.

    Returns:
        The next temperature and the points' ancestors.

    Source: Jasra, Stephens, Doucet, Tsagaris (2011), *Inference for Lévy-driven stochastic
    volatility models via adaptive sequential Monte Carlo*, section 4.
    """
    from blackjax.smc import resampling
    from blackjax.smc.ess import ess_solver
    from blackjax.smc.solver import dichotomy

    remaining = 1 - temperature
    increment = ess_solver(lambda ratios: ratios, log_ratios, target_ess, remaining, dichotomy)
    # The solver has no answer where the population excludes the target altogether.
    increment = jnp.nan_to_num(jnp.asarray(increment), nan=SMALLEST_STEP)
    increment = jnp.minimum(jnp.maximum(increment, SMALLEST_STEP), remaining)
    log_weights = increment * log_ratios
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    ancestors = resampling.systematic(key, weights / weights.sum(), log_ratios.shape[0])
    return TemperatureStep(temperature + increment, ancestors)
