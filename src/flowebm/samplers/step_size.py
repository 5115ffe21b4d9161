"""Step size adaptation that keeps following a target which keeps moving."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

MALA_TARGET_ACCEPTANCE = 0.574
"""Optimal for MALA in high dimension: Roberts, Rosenthal (1998), theorem 2."""

HMC_TARGET_ACCEPTANCE = 0.8
"""For HMC, where 0.6 to 0.9 is near optimal: Betancourt, Byrne, Girolami (2014), section 4."""


class StepSizeState(NamedTuple):
    """State of the adaptation, two scalars.

    Attributes:
        log_step_size: $\\log\\varepsilon$; steps on this scale keep $\\varepsilon$ positive
            and do not depend on the units of the position.
        n_updates: The number of updates so far, which sets the gain.
    """

    log_step_size: Any
    n_updates: Any

    @property
    def step_size(self) -> Float[Array, ""]:
        """$\\varepsilon$, to hand to the kernel."""
        return jnp.exp(self.log_step_size)


def init(step_size: ArrayLike) -> StepSizeState:
    """Start the adaptation at a first guess.

    Args:
        step_size: $\\varepsilon > 0$, in the kernel's units (for MALA and ULA squared units
            of the position).

    Returns:
        The state before the first update.
    """
    return StepSizeState(jnp.log(jnp.asarray(step_size, float)), jnp.zeros((), jnp.int32))


def update(
    state: StepSizeState,
    acceptance_rate: Float[ArrayLike, "..."],
    *,
    target: float = MALA_TARGET_ACCEPTANCE,
    min_gain: float = 0.05,
    adapts: bool | Bool[Array, ""] = True,
) -> StepSizeState:
    r"""Move the step size toward the target acceptance rate.

    $$\log\varepsilon_{t+1} = \log\varepsilon_t + \gamma_t (\bar a_t - a^*), \qquad
      \gamma_t = \max(\gamma_{\min}, (t+1)^{-0.6})$$

    This is Robbins-Monro with a floor under its gain. Dual averaging, blackjax's choice,
    is made for a warm-up with an end on a fixed target: its gain goes to zero and its
    average remembers every error since the start. In training the density moves at every
    iteration, so the gain stops falling at $\gamma_{\min}$ and the adaptation forgets in
    about $1/\gamma_{\min}$ iterations. The noise that a constant gain leaves in
    $\log\varepsilon$ is of the order of $\sqrt{\gamma_{\min}}$ times the standard error of
    $\bar a$, small because $\bar a$ is a mean over all chains.

    Chains with a step size that never settles have no exact invariant law: hold it fixed
    for draws that count.

    Args:
        state: The state of the adaptation.
        acceptance_rate: The acceptance rates of all chains and local steps of an iteration,
            of any shape; one that is not a number counts as a rejection.
        target: $a^*$, the acceptance rate to aim at.
        min_gain: $\gamma_{\min}$, the floor under the gain.
        adapts: Whether to move at all: after a warm-up it is false.

    Returns:
        The next state.

    Source: Robbins, Monro (1951); Andrieu, Thoms (2008), section 4.2, for the scale.
    """
    rates = jnp.asarray(acceptance_rate, state.log_step_size.dtype)
    error = jnp.mean(jnp.where(jnp.isnan(rates), 0.0, rates)) - target
    gain = adapts * jnp.maximum(min_gain, (state.n_updates + 1.0) ** -0.6)
    return StepSizeState(state.log_step_size + gain * error, state.n_updates + adapts)
