"""What every fit returns."""

from dataclasses import dataclass
from typing import Any

from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float

from flowebm.evaluation.log_partition import LogPartition
from flowebm.models.energy import AbstractEnergyModel


@dataclass(frozen=True)
class FitResult:
    r"""A fitted energy model with all that is known about it.

    Attributes:
        model: The energy model with averaged parameters, from the best evaluation.
        flow: The proposal that was trained beside it; for a fit without a flow, a wide Gaussian.
        log_partition: $\log Z$ of `model` from fresh draws of `flow`, nats.
        chains: The persistent chains at the end, one a row.
        history: One row of metrics a block, of all stages.
        stop_reason: Why the last stage ended, in words.
        warnings: What the fit had to say, one sentence each.
    """

    model: AbstractEnergyModel
    flow: AbstractDistribution
    log_partition: LogPartition
    chains: Float[Array, "chains *shape"]
    history: list[dict[str, Any]]
    stop_reason: str
    warnings: tuple[str, ...] = ()
