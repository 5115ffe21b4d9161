"""What every fit returns."""

from dataclasses import dataclass, replace
from typing import Any

from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float

from flowebm.evaluation.log_partition import LogPartition
from flowebm.models.energy import AbstractEnergyModel
from flowebm.training.driver import Observers


@dataclass(frozen=True)
class FitResult:
    r"""A fitted energy model with all that is known about it.

    Attributes:
        model: The energy model with averaged parameters, from the best evaluation.
        flow: The proposal that was trained beside it; for a fit without a flow, a wide Gaussian;
            for an EBFlow, which draws its own samples, the model.
        log_partition: $\log Z$ of `model` in nats: from fresh draws of `flow`, or exact.
        chains: The persistent chains at the end, one a row; none where there were none.
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


def collect_warnings(observers: Observers | None) -> tuple[Observers, list[str]]:
    """The observers, with a list that receives all that they are warned of."""
    observers = observers or Observers()
    sentences: list[str] = []
    tell = observers.warn

    def warn(sentence: str) -> None:
        sentences.append(sentence)
        tell(sentence)

    return replace(observers, warn=warn), sentences
