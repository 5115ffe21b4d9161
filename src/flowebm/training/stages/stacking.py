"""Shares of a stack, from held-out points."""

import numpy as np
from jaxtyping import Float

from flowebm.models.batches import on_device
from flowebm.models.stack import Stack
from flowebm.training.candidate import Candidate
from flowebm.training.rows import Rows

#: Draws of the shares that their posterior mean is made of, and steps between two of them.
N_SWEEPS, BURN_IN = 400, 100

#: Shares under which a component is left out: it would cost every density more than it gives.
LEAST_SHARE = 0.005


def posterior_mean_shares(
    seed: int,
    log_probs: Float[np.ndarray, "k m"],
    weights: Float[np.ndarray, " m"] | None = None,
) -> Float[np.ndarray, " k"]:
    r"""The posterior mean of $s$ in $\sum_j s_j q_j(x)$, given held-out points.

    Under an even prior, $p(s \mid v) \propto \prod_i \sum_j s_j q_j(v_i)$, by Gibbs sampling of
    which component each point is from. The likeliest shares would be 0 or 1 where points are few,
    and be wrong as often as they mislead.

    Args:
        seed: Seed of the draws.
        log_probs: $\log q_j$ of every point.
        weights: How much the points count, adding up to one; all alike by default.

    Returns:
        Shares, adding up to one.

    Source: Diebolt and Robert (1994), *Estimation of finite mixture distributions through Bayesian
    sampling*, for the sampler; Smyth and Wolpert (1999) for stacking.
    """
    rng = np.random.default_rng(seed)
    k, m = log_probs.shape
    if k == 1:
        return np.ones(1)
    counts = np.ones(m) if weights is None else m * np.asarray(weights)
    density = np.exp(log_probs - log_probs.max(axis=0))
    # A point that weighs 1.3 counts once, and once more with probability 0.3.
    whole = np.floor(counts)
    shares, total = np.full(k, 1 / k), np.zeros(k)
    for sweep in range(N_SWEEPS + BURN_IN):
        cumulative = np.cumsum(shares[:, None] * density, axis=0)
        times = whole + (rng.random(m) < counts - whole)
        choice = (rng.random(m) * cumulative[-1] > cumulative).sum(axis=0)
        alpha = 1 + np.bincount(np.minimum(choice, k - 1), times, k)
        shares = rng.dirichlet(alpha)
        if sweep >= BURN_IN:
            # The mean given the counts varies less than the draw.
            total += alpha / alpha.sum()
    return total / total.sum()


def stack(seed: int, candidates: list[Candidate], rows: Rows) -> Candidate:
    """The candidates in the shares that validation points give them.

    Args:
        seed: Seed of the shares.
        candidates: Fitted densities, one at least.
        rows: The rows.

    Returns:
        Their stack, without those of a share below half a percent; the one that is left alone
        where no other has more.
    """
    weights = None if rows.weights is None else np.asarray(rows.weights.validation)
    log_probs = np.stack([np.asarray(c.log_prob, np.float64) for c in candidates])
    shares = posterior_mean_shares(seed, log_probs, weights)
    kept = np.flatnonzero(shares >= LEAST_SHARE)
    shares = posterior_mean_shares(seed, log_probs[kept], weights)
    mixed = np.logaddexp.reduce(np.log(shares)[:, None] + log_probs[kept], axis=0)
    density = Stack([candidates[j].density for j in kept], on_device(np.log(shares)))
    name = " + ".join(f"{s:.2f} {candidates[j].name}" for s, j in zip(shares, kept, strict=True))
    return Candidate(name, density, mixed)
