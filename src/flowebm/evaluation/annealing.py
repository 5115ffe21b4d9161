"""Tempered sequential Monte Carlo along a path of densities fixed by a pilot run."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from flowebm.models import AbstractEnergyModel

OPTIMAL_MALA_ACCEPTANCE = 0.574
# Outside a bounded support the log-ratio is -inf, and 0 · (-inf) at the start of the path is
# NaN; this floor is as good as -inf at every later temperature.
LOG_ZERO = -1e30
# Where the model excludes a share of the base, no step however small keeps the sample size: one
# such step must be taken all the same.
SMALLEST_STEP = 1e-6


class Schedule(NamedTuple):
    r"""Where the annealing stops on its way, and how far its moves go there.

    Attributes:
        temperatures: $0 = \beta_0 < \dots < \beta_T = 1$, then ones; shape `(max_steps + 1,)`.
        step_sizes: MALA's step size at each, in squared units of the data; the same shape.
        n_steps: $T$.
    """

    temperatures: Float[Array, " m"]
    step_sizes: Float[Array, " m"]
    n_steps: int | Int[Array, ""]


@eqx.filter_jit
def pilot_schedule(
    key: PRNGKeyArray,
    model: AbstractEnergyModel,
    base: AbstractDistribution,
    n_particles: int,
    n_moves: int,
    max_steps: int,
    target_ess: float | Scalar,
) -> Schedule:
    r"""Choose temperatures by effective sample size, and step sizes by acceptance.

    Args:
        key: Key of the pilot run, used for nothing else.
        model: The density to reach.
        base: The density to start from.
        n_particles: Particles of the pilot.
        n_moves: MALA steps at each temperature.
        max_steps: Most temperatures.
        target_ess: Effective fraction of particles after each step.

    Returns:
        The schedule; where its entry `n_steps` is not 1 the model was not reached.
    """
    from blackjax.mcmc import mala
    from blackjax.smc import resampling, tempered
    from blackjax.smc.ess import ess_solver
    from blackjax.smc.solver import dichotomy

    log_ratio = _log_ratio(model.unnormalized_log_prob, base.log_prob)
    kernel = tempered.build_kernel(
        base.log_prob, log_ratio, mala.build_kernel(), mala.init, resampling.systematic
    )

    def unfinished(carry):
        i, state, *_ = carry
        return (state.tempering_param < 1) & (i < max_steps)

    def step(carry):
        i, state, step_size, temperatures, step_sizes = carry
        remaining = 1 - state.tempering_param
        increment = ess_solver(
            jax.vmap(log_ratio), state.particles, target_ess, remaining, dichotomy
        )
        temperature = state.tempering_param + jnp.clip(increment, SMALLEST_STEP, remaining)
        state, info = kernel(
            jax.random.fold_in(key, i), state, n_moves, temperature, {"step_size": step_size[None]}
        )
        # The moves were made at the temperature the step came from.
        step_sizes = step_sizes.at[i].set(step_size)
        acceptance = jnp.mean(info.update_info.acceptance_rate)
        step_size = step_size * jnp.exp(acceptance - OPTIMAL_MALA_ACCEPTANCE)
        temperatures = temperatures.at[i + 1].set(state.tempering_param)
        return i + 1, state, step_size, temperatures, step_sizes.at[i + 1].set(step_size)

    start_key, key = jax.random.split(key)
    particles = base.sample(start_key, (n_particles,))
    # MALA's optimum for a Gaussian of the base's variance, up to a factor near 1.
    step_size = jnp.mean(jnp.var(particles, axis=0)) * max(particles[0].size, 1) ** (-1 / 3)
    ones = jnp.ones(max_steps + 1, particles.dtype)
    state = tempered.init(particles)
    state = state._replace(tempering_param=jnp.zeros((), particles.dtype))
    n_steps, _, _, temperatures, step_sizes = jax.lax.while_loop(
        unfinished,
        step,
        (0, state, step_size, ones.at[0].set(0.0), step_size * ones),
    )
    return Schedule(temperatures, step_sizes, n_steps)


def annealed_log_ratio(
    key: PRNGKeyArray,
    particles: Float[Array, "n ..."],
    log_start: Callable[[Array], Scalar],
    log_end: Callable[[Array], Scalar],
    schedule: Schedule,
    *,
    n_moves: int,
) -> Scalar:
    r"""The log of an unbiased estimate of $Z_1 / Z_0$, by one run of tempered SMC.

    Args:
        key: Key of moves and resampling, independent of the particles.
        particles: Independent draws of the starting density; shape `(n, *shape)`.
        log_start: Starting log-density of one point, up to the constant $-\log Z_0$.
        log_end: Final log-density of one point, up to the constant $-\log Z_1$.
        schedule: Temperatures from start (0) to end (1), chosen without these particles.
        n_moves: MALA steps at each temperature.

    Returns:
        The log-ratio, nats.

    Source: Del Moral, Doucet, Jasra (2006), *Sequential Monte Carlo samplers*, section 3.
    """
    from blackjax.mcmc import mala
    from blackjax.smc import resampling, tempered

    kernel = tempered.build_kernel(
        log_start,
        _log_ratio(log_end, log_start),
        mala.build_kernel(),
        mala.init,
        resampling.systematic,
    )

    def step(i, carry):
        state, log_normalizer = carry
        state, info = kernel(
            jax.random.fold_in(key, i),
            state,
            n_moves,
            schedule.temperatures[i + 1],
            {"step_size": schedule.step_sizes[i][None]},
        )
        return state, log_normalizer + info.log_likelihood_increment

    state = tempered.init(particles)
    state = state._replace(tempering_param=schedule.temperatures[0])
    zero = jnp.zeros((), particles.dtype)
    _, log_ratio = jax.lax.fori_loop(0, schedule.n_steps, step, (state, zero))
    return log_ratio


def _log_ratio(numerator, denominator):
    return lambda x: jnp.maximum(numerator(x) - denominator(x), LOG_ZERO)
