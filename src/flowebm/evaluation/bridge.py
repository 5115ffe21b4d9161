r"""$\log Z$ by bridge sampling, from draws of a model and of a proposal together."""

import numpy as np
from jaxtyping import Float

from flowebm.evaluation.estimate import Estimate

#: Iterations of the fixed point.
N_ITERATIONS = 60


def bridge(
    of_proposal: Float[np.ndarray, " n"],
    of_model: Float[np.ndarray, "chains draws"],
    effective: float | None = None,
) -> Estimate:
    r"""Estimate $\log Z$ from log-weights at draws of the proposal and of the model.

    With $w = e^{-E} / q$, the root of

    $$\hat Z = \frac{\frac1n \sum_{x \sim q} w / (s_q + s_p w / \hat Z)}
      {\frac1m \sum_{x \sim p} 1 / (s_q + s_p w / \hat Z)},$$

    $s_q, s_p$ the shares of draws. Unlike importance weights its terms are bounded; and what the
    proposal never reaches still counts by the model's draws there.

    Args:
        of_proposal: $\log w$ of independent draws of $q$, nats.
        of_model: $\log w$ of draws of the model, a row a chain; chains tell the error.
        effective: How many independent draws the model's are worth, for $s_p$; all by default.

    Returns:
        The estimate, nats.

    Source: Meng and Wong (1996), *Simulating ratios of normalizing constants via a simple
    identity*; Frühwirth-Schnatter (2004), for the error.
    """
    n, m = of_proposal.size, effective or of_model.size
    share_p = m / (n + m)
    top = np.max(of_proposal)
    w_q, w_p = np.exp(of_proposal - top), np.exp(np.minimum(of_model - top, 600))
    z = max(np.mean(w_q), 1e-300)
    for _ in range(N_ITERATIONS):
        upper = w_q / (1 - share_p + share_p * w_q / z)
        lower = 1 / (1 - share_p + share_p * w_p / z)
        z = np.mean(upper) / np.mean(lower)
    error_q = np.var(upper, ddof=1) / np.mean(upper) ** 2 / n
    means = lower.mean(axis=1)
    error_p = np.var(means, ddof=1) / len(means) / np.mean(lower) ** 2
    return Estimate(float(np.log(z) + top), float(np.sqrt(error_q + error_p)))
