"""What `flowebm.sample` returns."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PyTree

from flowebm.evaluation.diagnostics import ChainDiagnostics
from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.log_partition import LogPartition

if TYPE_CHECKING:
    from arviz import InferenceData


class SampledMode(NamedTuple):
    r"""A mode of a density.

    Attributes:
        weight: Its share of the mass, by importance sampling.
        stderr: Standard error of that; an upper limit where no draw fell in it.
        centre: The mean of its mass, a point as a vector.
        effective: How many independent draws of it the estimate is made of.
        of_draws: Its share of the kept draws.
        is_missed: Whether exploration missed it, and climbs found it.
        of_explorations: Its weight by each exploration alone; zero where one missed it.
    """

    weight: float
    stderr: float
    centre: Float[np.ndarray, " d"]
    effective: float
    of_draws: float
    is_missed: bool
    of_explorations: tuple[float, ...]


@dataclass(frozen=True)
class SamplingResult:
    r"""Draws of a density, and all that is known about them.

    Attributes:
        draws: The draws in the user's structure: an array of shape `(chains, draws, d)`, or a
            pytree whose leaves have leading axes `(chains, draws)`.
        log_density: The user's log-density of each draw, nats.
        log_partition: $\log Z = \log \int e^{\log p(x)} dx$, by importance sampling from `flow`
            on draws that trained nothing, with its standard error and $\hat k$.
        diagnostics: $\hat R$, bulk and tail ESS of every coordinate, in the order in which
            `jax.flatten_util.ravel_pytree` has them.
        global_acceptance: Probability with which each draw's global move was taken.
        local_acceptance: Mean acceptance rate of each draw's local moves.
        flow: The frozen proposal, a normalised density of points as vectors in the user's
            space: the flow in a defensive mixture.
        history: One row of metrics a block of the warm-up.
        stop_reason: Why the warm-up ended, in words.
        n_evaluations: Evaluations of the log-density, all told; one with its gradient counts
            once. `None` with NUTS, which makes as many as it likes.
        modes: The modes that were found, heaviest first.
        opinions: Estimates of $\log Z$ in other ways, by what they are called.
        warnings: What is to be said against the draws, one sentence each.
    """

    draws: PyTree[Array]
    log_density: Float[Array, "chains draws"]
    log_partition: LogPartition
    diagnostics: ChainDiagnostics
    global_acceptance: Float[Array, "chains draws"]
    local_acceptance: Float[Array, "chains draws"]
    flow: AbstractDistribution
    history: list[dict[str, Any]]
    stop_reason: str
    n_evaluations: int | None
    modes: tuple[SampledMode, ...] = ()
    opinions: dict[str, Estimate] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_arviz(self) -> "InferenceData":
        r"""The draws for ArviZ's plots and summaries.

        Returns:
            A posterior group with one variable a leaf (`x` where the draws are one array; a
            leaf in a dictionary has its key as name); `lp`, `global_acceptance` and
            `local_acceptance` in `sample_stats`; and `log_partition` with its error among the
            attributes.
        """
        # ArviZ takes a second to import and few callers need it.
        import arviz

        leaves = jax.tree_util.tree_leaves_with_path(self.draws)
        posterior = {_name(path): np.asarray(leaf) for path, leaf in leaves}
        stats = {
            "lp": self.log_density,
            "global_acceptance": self.global_acceptance,
            "local_acceptance": self.local_acceptance,
        }
        data = arviz.from_dict(
            posterior=posterior,
            sample_stats={name: np.asarray(values) for name, values in stats.items()},
        )
        data.attrs |= {
            "log_partition": self.log_partition.value,
            "log_partition_stderr": self.log_partition.stderr,
        }
        return data


def _name(path: tuple[Any, ...]) -> str:
    """`x` of a bare array, the keys on the way to a leaf otherwise."""
    return jax.tree_util.keystr(path, simple=True, separator="_") or "x"
