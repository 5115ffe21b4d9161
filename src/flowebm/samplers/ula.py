"""The unadjusted Langevin algorithm: the local kernel of persistent contrastive divergence."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree, Scalar

if TYPE_CHECKING:
    from blackjax.base import SamplingAlgorithm


class ULAState(NamedTuple):
    """State of the unadjusted Langevin algorithm.

    Attributes:
        position: The point, a pytree of arrays.
        logdensity: $-E(x)$, the log-density up to a constant (nats), a scalar.
        logdensity_grad: $-\\nabla E(x)$, of the shape of the position, kept so that a step
            costs one gradient.
    """

    position: PyTree
    logdensity: Any
    logdensity_grad: PyTree


class ULAInfo(NamedTuple):
    """What one step tells, in the fields of the adjusted kernels, which it can stand in for.

    Attributes:
        acceptance_rate: 1, since nothing is rejected; a scalar.
        is_accepted: True; a scalar.
    """

    acceptance_rate: Any
    is_accepted: Any


def init(position: PyTree, logdensity_fn: Callable[[Any], Scalar]) -> ULAState:
    """The state at a position: one evaluation of the density and its gradient.

    Args:
        position: One point, a pytree of arrays.
        logdensity_fn: Maps one point to its log-density up to a constant (nats).

    Returns:
        The position with its log-density and gradient.
    """
    return ULAState(position, *jax.value_and_grad(logdensity_fn)(position))  # pyright: ignore[reportArgumentType]


def build_kernel() -> Callable[..., tuple[ULAState, ULAInfo]]:
    r"""Build the kernel `(rng_key, state, logdensity_fn, step_size) -> (state, info)`.

    $$x' = x - \varepsilon \nabla E(x) + \sqrt{2\varepsilon}\, \xi, \qquad \xi \sim N(0, I)$$

    Returns:
        The kernel, of one point.

    Source: Roberts, Tweedie (1996), section 1.4.1.
    """

    def kernel(rng_key, state, logdensity_fn, step_size):
        """Move by one Euler step of the overdamped Langevin diffusion."""
        from blackjax.mcmc.diffusions import DiffusionState, overdamped_langevin

        one_step = overdamped_langevin(jax.value_and_grad(logdensity_fn))
        new_state = one_step(rng_key, DiffusionState(*state), step_size)
        return ULAState(*new_state), ULAInfo(jnp.ones(()), jnp.array(True))

    return kernel


def as_top_level_api(
    logdensity_fn: Callable[[Any], Scalar], step_size: float
) -> "SamplingAlgorithm":
    r"""The unadjusted Langevin algorithm as a blackjax algorithm.

    Without a Metropolis correction it samples a density that differs from the target by
    $O(\varepsilon)$, and runs away where $\varepsilon$ exceeds twice the inverse curvature.

    Args:
        logdensity_fn: Maps one point to its log-density up to a constant (nats).
        step_size: $\varepsilon$, in squared units of the position.

    Returns:
        `init(position)` and `step(rng_key, state)`, each for one chain.

    Source: Roberts, Tweedie (1996), section 1.4.1.
    """
    from blackjax.base import build_sampling_algorithm

    return build_sampling_algorithm(build_kernel(), init, logdensity_fn, kernel_args=(step_size,))
