"""What a likelihood on validation points is reported as."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flowebm.evaluation.estimate import Estimate
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.training.row_weights import RowWeights
from flowebm.training.trainer import Metrics


def validation_metrics(
    energies: Float[Array, " m"], log_z: Estimate, weights: RowWeights | None
) -> Metrics:
    r"""The NLL of validation points, $\overline{E(x)} + \log \hat Z$, and $\log \hat Z$.

    Args:
        energies: The energy of every validation point, nats.
        log_z: $\log \hat Z$ with its standard error, nats.
        weights: How much the points count; all alike if `None`.

    Returns:
        Both values with their standard errors, as metrics of an evaluation.
    """
    mean = weighted_mean(energies, None if weights is None else weights.validation)
    return {
        "nll": jnp.asarray(mean.value + log_z.value),
        "nll_stderr": jnp.sqrt(mean.stderr**2 + log_z.stderr**2),
        "log_partition": jnp.asarray(log_z.value),
        "log_partition_stderr": jnp.asarray(log_z.stderr),
    }
