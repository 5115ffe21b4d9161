"""Choices of the adaptive flow-assisted sampler."""

from dataclasses import dataclass
from typing import Annotated, Literal

from flowebm.options import Count, Fraction, Positive, Range, Share, check_options
from flowebm.samplers import step_size as step_sizes
from flowebm.samplers.population import GlobalKernel

#: What each local kernel's step size adapts towards.
TARGET_ACCEPTANCE = {
    "mala": step_sizes.MALA_TARGET_ACCEPTANCE,
    "hmc": step_sizes.HMC_TARGET_ACCEPTANCE,
    "nuts": step_sizes.HMC_TARGET_ACCEPTANCE,
    # Roberts, Gelman and Gilks (1997).
    "rwm": 0.234,
}


@dataclass(frozen=True)
class SamplingOptions:
    r"""Choices of the adaptive flow-assisted sampler; the defaults are meant to do.

    Attributes:
        global_kernel: Flow-assisted move: `"imh"` (independence Metropolis-Hastings) or `"isir"`
            (iterated sampling-importance resampling).
        n_proposals: Proposals of a chain in an i-SIR move.
        local_kernel: Local move, in coordinates standardised by the population: `"mala"`,
            `"hmc"`, `"nuts"`, or `"rwm"` (random walk), which needs no gradients.
        n_local: Local moves after each global one.
        n_particles: Chains of the warm-up.
        initial_scale: Standard deviation of the wide normal around the initial point that the
            warm-up starts from, in every unconstrained coordinate. It should be wide enough to
            reach every mode.
        target_ess: Effective share of the particles that a step in temperature keeps: nearer to
            one, the path from the wide normal to the target is finer.
        flow_learning_rate: Adam's learning rate for the flow.
        flow_batch: Points of a flow step.
        n_flow_steps: Flow steps an iteration.
        average_decay: Decay of the average of the flow's parameters, which proposes.
        defensive_fraction: Share of a heavy-tailed density among the proposals.
        enough_ess: Effective share of the proposals at which the warm-up ends.
        patience: Iterations without a rise of it after which the warm-up ends.
    """

    global_kernel: GlobalKernel = "imh"
    n_proposals: Count = 4
    local_kernel: Literal["mala", "hmc", "nuts", "rwm"] = "mala"
    n_local: Count = 4
    n_particles: Annotated[int, Range(least=8)] = 1024
    initial_scale: Positive = 10.0
    target_ess: Share = 0.5
    flow_learning_rate: Positive = 2e-3
    flow_batch: Count = 512
    n_flow_steps: Count = 2
    average_decay: Fraction = 0.98
    defensive_fraction: Share = 0.05
    enough_ess: Positive = 0.8
    patience: Count = 100

    def __post_init__(self):
        check_options(self)
