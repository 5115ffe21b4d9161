"""Whether importance weights carry the estimate that was made from them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flowebm.evaluation.estimate import warn
from flowebm.evaluation.heavy_tails import khat_limit
from flowebm.evaluation.importance import effective_sample_size, pareto_khat
from flowebm.refusal import Refused

# A standard error made of fewer effective draws is itself uncertain by more than 7 percent.
ESS_LIMIT = 100.0


class Reliability(NamedTuple):
    r"""Diagnostics of a set of importance weights.

    Attributes:
        ess: Effective number of draws.
        khat: Pareto shape $\hat k$ of the weights' tail.
    """

    ess: float
    khat: float


def reliability(log_weights: Float[Array, " n"], quantity: str) -> Reliability:
    r"""Diagnose importance weights, and warn when an estimate made from them is unsafe.

    Args:
        log_weights: Log-weights of independent draws, nats; shape `(n,)`.
        quantity: What is estimated, as the warning names it.

    Returns:
        The effective sample size and $\hat k$.

    Raises:
        ValueError: If a weight is NaN or infinite, or all are zero.

    Warns:
        EstimateWarning: If $\hat k$ is above `khat_limit` or fewer than 100 draws are effective.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry (2024), *Pareto smoothed importance sampling*, JMLR
    25(72), for the limit of $\hat k$.
    """
    finite_or_zero, some_mass, ess, khat = jax.device_get(_diagnose(log_weights))
    n = log_weights.shape[0]
    if not np.all(finite_or_zero):
        raise Refused(
            f"The importance weights for {quantity} are NaN or infinite at "
            f"{int(np.sum(~finite_or_zero))} of {n} draws of the proposal; check that the energy "
            "and the proposal's log-density are finite there."
        )
    if not some_mass:
        raise Refused(
            f"The model has no mass at any of {n} draws of the proposal, so {quantity} cannot be "
            "estimated; pass a proposal that covers the model."
        )
    reasons = []
    if khat > (limit := khat_limit(n)):
        reasons.append(f"Pareto k̂ = {khat:.2f} > {limit:.2g}")
    if ess < ESS_LIMIT:
        reasons.append(f"only {ess:.1f} of {n} draws are effective")
    if reasons:
        warn(
            f"The estimate of {quantity} and its standard error are not to be believed "
            f"({', '.join(reasons)}); use a proposal that covers the model better, such as a "
            "defensive mixture, or more draws."
        )
    return Reliability(float(ess), float(khat))


@jax.jit
def _diagnose(log_weights):
    return (
        log_weights < jnp.inf,
        jnp.any(log_weights > -jnp.inf),
        effective_sample_size(log_weights),
        pareto_khat(log_weights),
    )
