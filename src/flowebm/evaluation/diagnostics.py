"""Whether Markov chains have converged and mixed: R̂ and effective sample sizes."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flowebm.refusal import Refused

if TYPE_CHECKING:
    from arviz import InferenceData

RHAT_LIMIT = 1.01
# Stan and Vehtari et al. (2021) ask for 100 effective draws a chain with four chains.
ESS_PER_CHAIN = 100
CHAINS_THAT_SHARE_IT = 4


class ChainDiagnostics(NamedTuple):
    r"""Convergence diagnostics of every coordinate.

    Attributes:
        rhat: Rank-normalised split $\hat R$; 1 at convergence; shape `shape`.
        ess_bulk: Effective number of draws for the centre; shape `shape`.
        ess_tail: Effective number of draws for the 5% and 95% quantiles; shape `shape`.
        n_chains: Number of chains.
        n_draws: Draws of each chain.
    """

    rhat: Float[np.ndarray, "..."]
    ess_bulk: Float[np.ndarray, "..."]
    ess_tail: Float[np.ndarray, "..."]
    n_chains: int
    n_draws: int

    def warning(self) -> str | None:
        r"""One sentence that says what is wrong with the chains, or `None`.

        Chains are suspect when $\hat R > 1.01$ or when bulk or tail ESS is under 100 a chain
        (under 400 in all from four chains on), in any coordinate.

        Source: Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), *Rank-normalization,
        folding, and localization: an improved $\hat R$*, section 4; the Stan reference
        manual, "Effective sample size".
        """
        reasons = []
        worst_rhat = _worst(self.rhat, np.max)
        # A comparison with NaN is false: a coordinate that never moved must not pass.
        if not worst_rhat <= RHAT_LIMIT:
            reasons.append(f"R̂ is {worst_rhat:.3f} (should be at most {RHAT_LIMIT})")
        needed = ESS_PER_CHAIN * min(self.n_chains, CHAINS_THAT_SHARE_IT)
        for name, values in (("bulk", self.ess_bulk), ("tail", self.ess_tail)):
            worst = _worst(values, np.min)
            if not worst >= needed:
                reasons.append(f"{name} ESS is {worst:.0f} (should be at least {needed})")
        if not reasons:
            return None
        return (
            f"The chains have not converged or are too short: {', '.join(reasons)} in the worst "
            "coordinate; run them longer or mix them better."
        )


def chain_diagnostics(draws: Float[Array, "chains draws ..."]) -> ChainDiagnostics:
    r"""Compute $\hat R$, bulk ESS and tail ESS of every coordinate of some chains.

    Args:
        draws: The chains' positions, warm-up removed; shape `(chains, draws, *shape)`.

    Returns:
        The diagnostics; call `.warning()` on them for a sentence.

    Raises:
        ValueError: If there are fewer than 4 draws a chain, or a draw is not finite.

    Source: Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), *Bayesian Analysis* 16(2).
    """
    draws = _checked(draws)
    n_chains, n_draws, *shape = draws.shape
    per_coordinate = draws.reshape(n_chains, n_draws, -1)
    worst_split, bulk, tail = (np.asarray(v).reshape(shape) for v in _diagnose(per_coordinate))
    return ChainDiagnostics(worst_split, bulk, tail, n_chains, n_draws)


def to_inference_data(
    draws: Float[Array, "chains draws ..."], names: Sequence[str] | None = None
) -> "InferenceData":
    """Hand chains over to ArviZ, for its plots and summaries.

    Args:
        draws: The chains' positions; shape `(chains, draws, *shape)`.
        names: One variable name per column, for points of shape `(d,)`; `None` makes one
            variable `x` of shape `shape`.

    Returns:
        ArviZ `InferenceData` with a posterior group.

    Raises:
        ValueError: If the names do not match the columns, or the draws are not chains.
    """
    # ArviZ takes a second to import and few callers need it.
    import arviz

    columns = np.asarray(_checked(draws))
    if names is None:
        return arviz.from_dict(posterior={"x": columns})
    if columns.ndim != 3 or columns.shape[2] != len(names) or len(set(names)) != len(names):
        raise Refused(
            f"Draws of shape {columns.shape} and {len(names)} names do not match; give chains of "
            "shape (chains, draws, d) and d distinct names."
        )
    return arviz.from_dict(posterior={name: columns[..., i] for i, name in enumerate(names)})


def _diagnose(draws):
    """Split R̂, bulk and tail ESS of each coordinate, on the host.

    blackjax has the same; compiled for every shape anew, its sorts and transforms take longer
    than a whole short run.
    """
    with warnings.catch_warnings():
        # Of its own future.
        warnings.simplefilter("ignore")
        # It takes a second to import.
        import arviz

        columns = np.moveaxis(np.asarray(draws, float), 2, 0)
        # ArviZ wants two chains; halves of one are what is split in any case.
        halves = columns
        if columns.shape[1] == 1:
            n = columns.shape[2] // 2
            halves = columns[:, 0, : 2 * n].reshape(-1, 2, n)
        split = [float(arviz.rhat(column)) for column in halves]
        # Draws that never moved are worth nothing, where ArviZ counts all of them.
        moved = np.ptp(columns, axis=(1, 2)) > 0
        bulk, tail = (
            [
                float(arviz.ess(c, method=m)) if moves else 0.0
                for c, moves in zip(columns, moved, strict=True)
            ]
            for m in ("bulk", "tail")
        )
        return split, bulk, tail


def _checked(draws):
    draws = jnp.asarray(draws, float)
    if draws.ndim < 2 or draws.shape[0] < 1 or draws.shape[1] < 4:
        raise Refused(
            f"Chains need shape (chains, draws, *shape) with at least 4 draws; got {draws.shape}."
        )
    finite = np.isfinite(np.asarray(draws)).reshape(*draws.shape[:2], -1).all(axis=-1)
    if not finite.all():
        chain, draw = np.argwhere(~finite)[0]
        raise Refused(
            f"The draws are not finite at chain {chain}, draw {draw} ({(~finite).sum()} draws in "
            "all); find out why the chain diverged before diagnosing it."
        )
    return draws


def _worst(values, reduce):
    return float(reduce(values)) if np.size(values) else float("nan")
