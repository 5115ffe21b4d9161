"""The samplers that `sampling.py` compares: what each returns, and what it evaluated.

All are told the log-density and one point. Those that begin from many places begin from the same
normal around it, of standard deviation `WIDTH`, which is flowebm's default.

An evaluation is one of the density at a point, with its gradient or without.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

WIDTH = 10.0


class Drawn(NamedTuple):
    """What a sampler made.

    Attributes:
        draws: Points, shape `(groups, draws, d)`: chains, or populations of particles.
        n_evaluations: Evaluations of the density, warm-up included.
    """

    draws: jax.Array
    n_evaluations: int


def flowebm(key, target) -> Drawn:
    """`flowebm.sample` as it comes: 1,024 particles, then 500 draws of each of 32 chains."""
    from flowebm import sample

    result = sample(key, target.log_density, target.start, verbose=False)
    return Drawn(result.draws, result.n_evaluations)


def nuts(key, target, n_chains=32, n_warm_up=500, n_draws=500) -> Drawn:
    """blackjax NUTS after its window adaptation, every chain for itself, from the point."""
    run = _nuts(target.log_density, n_warm_up, n_draws)
    draws, n_evaluations = run(jr.split(key, n_chains), target.start)
    return Drawn(draws, int(np.asarray(n_evaluations, np.int64).sum()))


@cache
def _nuts(log_density, n_warm_up, n_draws):
    import blackjax

    adaptation = blackjax.window_adaptation(blackjax.nuts, log_density)

    def chain(key, start):
        warm_up_key, draw_key = jr.split(key)
        (state, parameters), warm_up = adaptation.run(warm_up_key, start, n_warm_up)
        kernel = blackjax.nuts(log_density, **parameters).step

        def step(state, key):
            state, info = kernel(key, state)
            return state, (state.position, info.num_integration_steps)

        _, (draws, n_steps) = jax.lax.scan(step, state, jr.split(draw_key, n_draws))
        return draws, n_steps.sum() + warm_up.info.num_integration_steps.sum() + 1

    return jax.jit(jax.vmap(chain, in_axes=(0, None)))


#: Populations, particles of each, HMC moves at a temperature and leapfrog steps of a move.
POPULATIONS, PARTICLES, MOVES, LEAPFROG = 16, 512, 10, 10
MAX_TEMPERATURES = 300


def smc(key, target) -> Drawn:
    """blackjax's adaptive tempered SMC, in independent populations.

    HMC moves with the particles' variances as inverse masses, and a step size that follows its
    acceptance rate from temperature to temperature; half of the effective size is kept.
    """
    populations = tempered(target.log_density)(
        jr.split(key, POPULATIONS), target.start, jnp.full(target.start.shape, WIDTH)
    )
    # The last temperature's increment is in the weights: the particles alone are of the one before.
    rows = jax.vmap(lambda key, weights: jr.choice(key, PARTICLES, (PARTICLES,), p=weights))(
        jr.split(jr.fold_in(key, 1), POPULATIONS), populations.weights
    )
    draws = jnp.take_along_axis(populations.particles, rows[..., None], axis=1)
    return Drawn(draws, smc_evaluations(populations.n_temperatures))


def smc_evaluations(n_temperatures) -> int:
    """Those of all populations, from their numbers of temperatures."""
    # At a temperature: the weights and their solver, and every move's start and leapfrog steps.
    per_particle = 2 + MOVES * LEAPFROG + 1
    return int(np.asarray(n_temperatures, np.int64).sum()) * PARTICLES * per_particle


class Populations(NamedTuple):
    """What tempered SMC leaves.

    Attributes:
        particles: Of shape `(populations, particles, d)`.
        weights: Theirs, of one sum in each population: those of the last temperature's increment.
        log_z: Each population's estimate, where the start is normalised.
        n_temperatures: How many each population took.
    """

    particles: jax.Array
    weights: jax.Array
    log_z: jax.Array
    n_temperatures: jax.Array


@cache
def tempered(log_density):
    """A function of keys, of the mean of the start and of its scales, to populations."""
    import blackjax
    from blackjax.mcmc import hmc
    from blackjax.smc import resampling
    from jax.scipy.stats import norm

    hmc_step = hmc.build_kernel()

    def population(key, start, scale):
        def log_prior(x):
            return norm.logpdf(x, start, scale).sum()

        def log_likelihood(x):
            return log_density(x) - log_prior(x)

        kernel = blackjax.smc.adaptive_tempered.build_kernel(
            log_prior,
            log_likelihood,
            partial(hmc_step, num_integration_steps=LEAPFROG),
            hmc.init,
            resampling.systematic,
            target_ess=0.5,
        )

        def unfinished(carry):
            _, state, _, n, _ = carry
            return (state.tempering_param < 1) & (n < MAX_TEMPERATURES)

        def temperature(carry):
            key, state, step_size, n, log_z = carry
            key, step_key = jr.split(key)
            parameters = {
                "step_size": step_size[None],
                "inverse_mass_matrix": state.particles.var(axis=0)[None],
            }
            state, info = kernel(step_key, state, MOVES, parameters)
            accepted = info.update_info.acceptance_rate.mean()
            log_z = log_z + info.log_likelihood_increment
            return key, state, step_size * jnp.exp(accepted - 0.65), n + 1, log_z

        start_key, key = jr.split(key)
        particles = start + scale * jr.normal(start_key, (PARTICLES, start.size))
        state = blackjax.smc.adaptive_tempered.init(particles)
        state = state._replace(tempering_param=jnp.zeros(()))
        carry = (key, state, jnp.asarray(start.size**-0.25), jnp.array(0), jnp.zeros(()))
        _, state, _, n, log_z = jax.lax.while_loop(unfinished, temperature, carry)
        return Populations(state.particles, state.weights, log_z, n)

    return jax.jit(jax.vmap(population, in_axes=(0, None, None)))


#: flowMC's chains, local and global steps of a loop, loops of training and of production, epochs.
FLOWMC = {
    "n_chains": 64,
    "n_local_steps": 50,
    "n_global_steps": 50,
    "n_training_loops": 20,
    "n_production_loops": 10,
    "n_epochs": 10,
}
TEMPERATURES = 5


def flowmc(key, target, scale=WIDTH) -> Drawn:
    """flowMC's spline flow with MALA and parallel tempering, five temperatures as by default."""
    from flowMC.resource_strategy_bundle.RQSpline_MALA_PT import RQSpline_MALA_PT_Bundle
    from flowMC.Sampler import Sampler

    build_key, start_key, sample_key = jr.split(key, 3)
    dimension, n_chains = target.start.size, FLOWMC["n_chains"]
    bundle = RQSpline_MALA_PT_Bundle(
        build_key,
        n_dims=dimension,
        logpdf=lambda x, data: target.log_density(x),
        n_temperatures=TEMPERATURES,
        **FLOWMC,
    )
    sampler = Sampler(
        n_dim=dimension,
        n_chains=n_chains,
        rng_key=sample_key,
        resource_strategy_bundles=bundle,
        checkpoint_interval=0,
    )
    start = target.start + scale * jr.normal(start_key, (n_chains, dimension))
    sampler.sample(start, {})
    draws = sampler.resources["positions_production"].data
    loops = FLOWMC["n_training_loops"] + FLOWMC["n_production_loops"]
    local, globally = FLOWMC["n_local_steps"], FLOWMC["n_global_steps"]
    # A MALA step evaluates both of its ends; tempered ones begin and exchange besides.
    per_chain = 2 * local + globally + TEMPERATURES * (2 * local + 2)
    return Drawn(draws, loops * n_chains * per_chain)


SAMPLERS = {"flowebm": flowebm, "NUTS": nuts, "tempered SMC": smc, "flowMC": flowmc}
