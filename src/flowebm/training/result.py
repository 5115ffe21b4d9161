"""What every fit returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.evaluation.diagnostics import to_inference_data
from flowebm.evaluation.log_partition import LogPartition
from flowebm.models.ebflow import EBFlow
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.stack import draw
from flowebm.refusal import Refused
from flowebm.samplers.assisted_draws import continue_chains
from flowebm.samplers.normalised import NormalisedModel
from flowebm.training.driver import Callbacks

if TYPE_CHECKING:
    from arviz import InferenceData

#: Local step size where a fit's history knows none.
STEP_SIZE = 0.02


@dataclass(frozen=True)
class FitResult:
    r"""A fitted energy model with all that is known about it.

    Attributes:
        model: The energy model with averaged parameters, from the best evaluation.
        flow: The proposal that was trained beside it; for a fit without a flow, a wide Gaussian;
            for an EBFlow, which draws its own samples, the model.
        log_partition: $\log Z$ of `model` in nats: from fresh draws of `flow`, or exact.
        chains: The persistent chains at the end, one a row; none where the flow draws exactly.
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

    def to_distribution(self) -> AbstractDistribution:
        r"""The fitted density as a flowjax distribution: normalised, and sampled by the flow.

        In numpyro it is used through `flowjax.experimental.numpyro.sample`.

        Returns:
            A `NormalisedModel`; for an EBFlow, which is one already, the model.
        """
        if isinstance(self.model, EBFlow):
            return self.model
        return NormalisedModel(self.model, self.flow, self.log_partition.value)

    def to_arviz(
        self,
        key: PRNGKeyArray | None = None,
        *,
        n_draws: int = 200,
        n_chains: int = 8,
        names: Sequence[str] | None = None,
    ) -> "InferenceData":
        r"""The persistent chains, run on with the fitted model, for ArviZ's plots and summaries.

        Training keeps each chain's last position alone, from a model that moved. From there the
        chains here go on under the model that is the result, which they leave invariant: $\hat R$
        and effective sample sizes tell how well the flow carries them between its modes.

        Args:
            key: Random key of the moves.
            n_draws: Draws of each chain; each is one flow-assisted move and two of MALA.
            n_chains: Chains, the first of those that there are.
            names: One variable name a column; `None` makes one variable `x`.

        Returns:
            A posterior group of points as the model takes them; `lp` (the normalised
            log-density), `global_acceptance` and `local_acceptance` in `sample_stats`; and
            `log_partition` with its error among the attributes.

        Raises:
            ValueError: If the fit ran no chains, or names do not match the columns.
        """
        key = jr.key(0) if key is None else key
        if isinstance(self.model, EBFlow):
            raise Refused(
                "This fit ran no chains: an EBFlow draws independent samples, by model.sample."
            )
        chains = self.chains[:n_chains]
        if not len(chains):
            chains = draw(jr.fold_in(key, 0), self.flow, n_chains)
        continued = continue_chains(
            key,
            self.model,
            self.flow,
            chains,
            n_draws,
            step_size=self.history[-1].get("step_size", STEP_SIZE),
        )
        data = to_inference_data(continued.positions, names)
        log_z = self.log_partition
        lp = np.asarray(continued.unnormalized_log_prob) - log_z.value
        rates = {name: np.asarray(getattr(continued, name)) for name in _RATES}
        data.add_groups(sample_stats={"lp": lp, **rates})
        data.attrs |= {"log_partition": log_z.value, "log_partition_stderr": log_z.stderr}
        return data


#: What `to_arviz` tells of the moves behind each draw.
_RATES = ("global_acceptance", "local_acceptance")


def collect_warnings(callbacks: Callbacks | None) -> tuple[Callbacks, list[str]]:
    """The callbacks, with a list that receives all that they are warned of."""
    callbacks = callbacks or Callbacks()
    sentences: list[str] = []
    tell = callbacks.warn

    def warn(sentence: str) -> None:
        sentences.append(sentence)
        tell(sentence)

    return replace(callbacks, warn=warn), sentences
