"""Chains whose global proposals and random numbers are made beforehand, on the host."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flowebm.samplers.assisted_draws import AssistedDraws, AssistedKernel, Chains


@eqx.filter_jit
def mixture_draws(
    kernel: AssistedKernel,
    chains: Chains,
    moves: Float[Array, "steps moves chains d"],
    log_uniforms: Float[Array, "steps moves chains"],
) -> tuple[Chains, AssistedDraws]:
    r"""Steps of independence Metropolis and of MALA, in one small program.

    It does what `assisted_draws` does with `"imh"` and `"mala"` or `"rwm"`. As the proposals come
    from outside, all moves are alike but for the test that accepts, and the density stands in the
    program once, which is most of what there is to compile.

    Args:
        kernel: The kernel; its proposal evaluates only.
        chains: Where the chains are.
        moves: Of every step, first an independent draw of the proposal, then the standard normal
            numbers of each local move.
        log_uniforms: Logarithms of uniform numbers.

    Returns:
        Where the chains are then, and every step.

    Source: Tierney (1994) for independence Metropolis; Roberts and Tweedie (1996) for MALA.
    """
    uses_gradient = kernel.local_kernel == "mala"
    step_size = kernel.step_size.astype(moves.dtype)

    def evaluate(x):
        if uses_gradient:
            log_p, gradient = jax.value_and_grad(kernel.model.unnormalized_log_prob)(x)
            # Where it is not a number, the move is a random walk's and its test still right.
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        else:
            log_p, gradient = kernel.model.unnormalized_log_prob(x), jnp.zeros_like(x)
        values = (log_p, gradient, kernel.proposal.log_prob(x))
        return jax.tree.map(lambda value: value.astype(x.dtype), values)

    def move(carry, numbers):
        x, log_p, gradient, log_q = carry
        noise, log_uniform, is_global = numbers
        local = x + step_size * gradient + jnp.sqrt(2 * step_size) * noise
        y = jnp.where(is_global, noise, local)
        new_p, new_gradient, new_q = jax.vmap(evaluate)(y)
        back = jnp.sum((x - y - step_size * new_gradient) ** 2, axis=1)
        there = jnp.sum((y - x - step_size * gradient) ** 2, axis=1)
        log_ratio = jnp.where(is_global, log_q - new_q, (there - back) / (4 * step_size))
        log_ratio = log_ratio + new_p - log_p
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        accepts = log_uniform < log_ratio
        carry = jax.tree.map(
            lambda new, old: jnp.where(accepts[:, None] if new.ndim == 2 else accepts, new, old),
            (y, new_p, new_gradient, new_q),
            carry,
        )
        return carry, jnp.exp(jnp.minimum(log_ratio, 0.0))

    is_global = jnp.arange(moves.shape[1]) == 0

    def step(carry, numbers):
        carry, rates = jax.lax.scan(move, carry, (*numbers, is_global))
        return carry, AssistedDraws(carry[0], carry[1], rates[0], rates[1:].mean(axis=0))

    carry = (chains.position, *jax.vmap(evaluate)(chains.position))
    carry, steps = jax.lax.scan(step, carry, (moves, log_uniforms))
    return Chains(carry[0], carry[1]), steps
