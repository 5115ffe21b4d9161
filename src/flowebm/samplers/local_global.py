"""One global move by a flow, then local steps: mixing between modes and within them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jaxtyping import PyTree, Scalar

from flowebm.refusal import Refused
from flowebm.samplers.proposal import Proposal, WeightedState

if TYPE_CHECKING:
    from blackjax.base import SamplingAlgorithm


class LocalGlobalState(NamedTuple):
    """State of the composed kernel, which is its local kernel's.

    The proposal's density is not kept: local steps have changed the position by the time
    the next global move needs it, so each global move evaluates it once.

    Attributes:
        local_state: The local kernel's state (with `position` and `logdensity`); it keeps
            the gradient from one step to the next.
    """

    local_state: Any

    @property
    def position(self) -> PyTree:
        """The point, a pytree of arrays."""
        return self.local_state.position

    @property
    def logdensity(self) -> Any:
        """$-E(x)$, the log-density up to a constant (nats)."""
        return self.local_state.logdensity


class LocalGlobalInfo(NamedTuple):
    """What one composed step tells.

    Attributes:
        global_info: The global kernel's info.
        local_info: The local kernel's infos, every field with a leading axis `n_local`.
    """

    global_info: Any
    local_info: Any


def init(
    position: PyTree,
    logdensity_fn: Callable[[Any], Scalar],
    local_algorithm: "SamplingAlgorithm",
) -> LocalGlobalState:
    """The state at a position: the local kernel's initial state.

    Args:
        position: One point, a pytree of arrays.
        logdensity_fn: Not used, the local algorithm has its own; here for blackjax's form.
        local_algorithm: The local kernel.

    Returns:
        The position with what the local kernel keeps of it.
    """
    del logdensity_fn
    return LocalGlobalState(local_algorithm.init(position, None))


def build_kernel(
    global_kernel: Callable,
) -> Callable[..., tuple[LocalGlobalState, LocalGlobalInfo]]:
    """Build the kernel that composes a global kernel with local steps.

    It maps `(rng_key, state, logdensity_fn, proposal, local_algorithm, n_local)` to
    `(state, info)`.

    Besides the two kernels' own evaluations a step costs one evaluation of the proposal
    (at the current point) and, when the global move is accepted, one of the gradient (at
    the new point). Under `vmap` the gradient is evaluated in either case.

    Args:
        global_kernel: `flow_imh.build_kernel()` or `flow_isir.build_kernel(n_proposals)`.

    Returns:
        The kernel, of one point.

    Source: Samsonov et al. (2022), algorithm 2 (Ex²MCMC); Gabrié, Rotskoff, Vanden-Eijnden (2022),
    section 2.
    """

    def kernel(rng_key, state, logdensity_fn, proposal, local_algorithm, n_local):
        """Make one global move, then `n_local` local steps."""
        key_global, key_local = jax.random.split(rng_key)
        weighted = WeightedState(
            state.position, state.logdensity, proposal.log_prob(state.position)
        )
        moved, global_info = global_kernel(key_global, weighted, logdensity_fn, proposal)
        # A chain that stayed still has its gradient.
        local_state = jax.lax.cond(
            global_info.is_accepted,
            lambda: local_algorithm.init(moved.position, None),
            lambda: state.local_state,
        )
        local_state, local_info = jax.lax.scan(
            lambda local, key: local_algorithm.step(key, local),
            local_state,
            jax.random.split(key_local, n_local),
        )
        return LocalGlobalState(local_state), LocalGlobalInfo(global_info, local_info)

    return kernel


def as_top_level_api(
    logdensity_fn: Callable[[Any], Scalar],
    proposal: Proposal,
    global_kernel: Callable,
    local_algorithm: "SamplingAlgorithm",
    n_local: int,
) -> "SamplingAlgorithm":
    """A global move by a flow followed by local steps, as a blackjax algorithm.

    Args:
        logdensity_fn: Maps one point to its log-density up to a constant (nats).
        proposal: The global kernel's density $q$, e.g. a flowjax distribution.
        global_kernel: `flow_imh.build_kernel()` or `flow_isir.build_kernel(n_proposals)`.
        local_algorithm: Any blackjax algorithm on the same density whose state has a
            `position` and a `logdensity` and whose `init` draws nothing (MALA, HMC, NUTS,
            ULA, a random walk).
        n_local: The number of local steps after each global move.

    Returns:
        `init(position)` and `step(rng_key, state)`, each for one chain.

    Raises:
        ValueError: If `n_local` is negative.

    Source: Samsonov et al. (2022), algorithm 2 (Ex²MCMC); Gabrié, Rotskoff,
    Vanden-Eijnden (2022), section 2.
    """
    from blackjax.base import build_sampling_algorithm

    if n_local < 0:
        raise Refused(f"Got n_local={n_local}: pass the number of local steps, 0 or more.")
    return build_sampling_algorithm(
        build_kernel(global_kernel),
        init,
        logdensity_fn,
        init_args=(local_algorithm,),
        kernel_args=(proposal, local_algorithm, n_local),
    )
