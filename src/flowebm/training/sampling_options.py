"""Choices of the adaptive flow-assisted sampler."""

from dataclasses import dataclass
from typing import Literal

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
    n_proposals: int = 4
    local_kernel: Literal["mala", "hmc", "nuts", "rwm"] = "mala"
    n_local: int = 4
    n_particles: int = 1024
    initial_scale: float = 10.0
    target_ess: float = 0.5
    flow_learning_rate: float = 2e-3
    flow_batch: int = 512
    n_flow_steps: int = 2
    average_decay: float = 0.98
    defensive_fraction: float = 0.05
    enough_ess: float = 0.8
    patience: int = 100

    def __post_init__(self):
        for name, known in (
            ("global_kernel", ("imh", "isir")),
            ("local_kernel", tuple(TARGET_ACCEPTANCE)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Unknown {name} {getattr(self, name)!r}: choose one of {', '.join(known)}."
                )
        for name in ("n_proposals", "n_local", "flow_batch", "n_flow_steps", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}.")
        if self.n_particles < 8:
            raise ValueError(f"n_particles must be 8 or more; got {self.n_particles}.")
        if not self.initial_scale > 0:
            raise ValueError(f"initial_scale must be positive; got {self.initial_scale}.")
        for name in ("target_ess", "defensive_fraction", "average_decay"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be inside (0, 1); got {getattr(self, name)}.")
