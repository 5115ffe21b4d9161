"""Run many chains of one algorithm, compiled end to end."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import PRNGKeyArray, PyTree

from flowebm.refusal import Refused

if TYPE_CHECKING:
    from blackjax.base import SamplingAlgorithm


def run_chains(
    key: PRNGKeyArray,
    algorithm: "SamplingAlgorithm",
    positions: PyTree,
    n_steps: int,
    *,
    thin: int = 1,
    keep: Callable[[Any, Any], Any] = lambda state, info: state.position,
) -> tuple[Any, Any]:
    """Run independent chains, one from each position.

    Args:
        key: PRNG key.
        algorithm: Any blackjax algorithm; its functions are for one chain.
        positions: Where the chains start: a pytree whose leaves have a leading axis
            `n_chains`.
        n_steps: Steps of each chain.
        thin: Keep every `thin`-th step only.
        keep: What to keep of one chain's state and info: `(state, info) -> pytree`; the
            position unless said otherwise.

    Returns:
        The final states, with a leading axis `n_chains`, and what was kept, with leading
        axes `(n_steps // thin, n_chains)`; its last entry is of the final states.

    Raises:
        ValueError: If `n_steps` is not a positive multiple of `thin`.
    """
    if thin < 1 or n_steps < 1 or n_steps % thin:
        raise Refused(
            f"Got n_steps={n_steps} and thin={thin}: pass n_steps as a positive multiple of thin."
        )
    n_chains = jax.tree.leaves(positions)[0].shape[0]
    key_init, key_steps = jax.random.split(key)

    def step(states, step_key):
        states, infos = jax.vmap(algorithm.step)(jax.random.split(step_key, n_chains), states)
        return states, jax.vmap(keep)(states, infos)

    def block(states, step_keys):
        states, kept = jax.lax.scan(step, states, step_keys)
        return states, jax.tree.map(lambda leaf: leaf[-1], kept)

    states = jax.vmap(algorithm.init)(positions, jax.random.split(key_init, n_chains))
    step_keys = jax.random.split(key_steps, n_steps).reshape(n_steps // thin, thin)
    return jax.lax.scan(block, states, step_keys)
