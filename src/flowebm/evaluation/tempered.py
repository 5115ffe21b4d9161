"""A bracket of the log-normaliser by annealing from the base to the model and back."""

from collections.abc import Callable
from math import nan
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.evaluation.annealing import Schedule, annealed_log_ratio, pilot_schedule
from flowebm.evaluation.estimate import warn
from flowebm.models import AbstractEnergyModel, as_energy_model
from flowebm.refusal import Refused

# Bounds that cross by more standard errors than this did not cross by chance.
CROSSING_LIMIT = 5.0


class Bracket(NamedTuple):
    r"""A stochastic lower and a stochastic upper bound on $\log Z$.

    Attributes:
        lower: Mean of $\log \hat Z$ over the forward runs, nats.
        lower_stderr: Its standard error, nats.
        upper: Mean of $-\log \widehat{1/Z}$ over the reverse runs, nats; infinite without
            samples of the model.
        upper_stderr: Its standard error, nats.
        n_temperatures: Number of annealing steps.
    """

    lower: float
    lower_stderr: float
    upper: float
    upper_stderr: float
    n_temperatures: int


def log_partition_bracket(
    key: PRNGKeyArray,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    base: AbstractDistribution,
    samples: Float[Array, "n ..."] | None = None,
    *,
    n_particles: int = 512,
    n_runs: int = 8,
    n_moves: int = 4,
    max_steps: int = 200,
    target_ess: float = 0.9,
) -> Bracket:
    r"""Bracket $\log Z$ by tempered SMC from the base to the model, and from the model back.

    Along $\pi_\beta \propto b^{1-\beta} e^{-\beta E}$, tempered sequential Monte Carlo from
    draws of $b$ gives an unbiased $\hat Z$, and from exact draws of the model an unbiased
    $\widehat{1/Z}$. By Jensen, $E[\log \hat Z] \le \log Z \le -E[\log \widehat{1/Z}]$.
    A pilot run on other draws chooses temperatures and step sizes, which are then fixed:
    choosing them on the way would bias both estimates.
    Where the model excludes part of space, the upper bound stays above $\log Z$ by minus the log
    of the base's mass on the rest: reverse runs never leave the support.

    Args:
        key: Key of all draws.
        model: The energy model, or a log-density function of one point.
        base: A normalised distribution that covers the model.
        samples: Independent exact samples of the model, in random order, for the upper bound
            (long-run, equilibrated chains serve as well as they have converged: samples that
            miss a mode spoil the bound). Shape `(n, *shape)`, $n \ge 2$ `n_runs`; at most
            `n_runs * n_particles` are used. `None` leaves the upper bound infinite.
        n_particles: Particles of a run, all moved at once; more tighten the bracket.
        n_runs: Independent runs in each direction, at least 2; their spread is the error.
        n_moves: MALA steps at each temperature.
        max_steps: Most temperatures the pilot may use.
        target_ess: Effective fraction of particles after each step of the pilot, between 0
            and 1; nearer to 1 makes the path finer and the bracket tighter.

    Returns:
        The two bounds, each with its standard error over the runs.

    Raises:
        ValueError: If the shapes differ, a count or `target_ess` is out of range, or there
            are too few samples or they are not finite.
        RuntimeError: If the pilot does not reach the model in `max_steps` temperatures.

    Warns:
        EstimateWarning: If the lower bound lies above the upper one by more than 5 standard
            errors: the samples are then not of the model.

    Source: Grosse, Ghahramani, Adams (2015), *Sandwiching the marginal likelihood using
    bidirectional Monte Carlo* (arXiv 1511.02543); Del Moral, Doucet, Jasra (2006).
    """
    model = as_energy_model(model, base.shape)
    if tuple(model.shape) != tuple(base.shape):
        raise Refused(
            f"The model's points have shape {tuple(model.shape)} but the base's "
            f"{tuple(base.shape)}; pass a base over the model's space."
        )
    if n_particles < 2 or n_runs < 2 or n_moves < 1 or max_steps < 1 or not 0 < target_ess < 1:
        raise Refused(
            "The bracket needs n_particles >= 2, n_runs >= 2, n_moves >= 1, max_steps >= 1 and "
            f"target_ess between 0 and 1; got {n_particles}, {n_runs}, {n_moves}, {max_steps} "
            f"and {target_ess}."
        )
    starts = None if samples is None else _split_in_runs(samples, base.shape, n_runs, n_particles)

    pilot_key, forward_key, reverse_key = jax.random.split(key, 3)
    schedule = pilot_schedule(
        pilot_key, model, base, n_particles, n_moves, max_steps, jnp.asarray(target_ess)
    )
    n_steps = int(schedule.n_steps)
    reached = float(schedule.temperatures[n_steps])
    if not reached >= 1.0:
        raise RuntimeError(
            f"Annealing from the base reached only temperature {reached:.3g} of 1 in {max_steps} "
            "steps; pass a base nearer to the model or a larger `max_steps`, and check that the "
            "energy is finite."
        )
    lower, lower_stderr = _mean(
        _forward(forward_key, model, base, n_runs, n_particles, n_moves, schedule)
    )
    if starts is None:
        return Bracket(lower, lower_stderr, float("inf"), nan, n_steps)
    upper, upper_stderr = _mean(-_reverse(reverse_key, model, base, starts, n_moves, schedule))
    if lower - upper > CROSSING_LIMIT * (lower_stderr**2 + upper_stderr**2) ** 0.5:
        warn(
            f"The bracket of log Z is empty: the lower bound {lower:.3f} exceeds the upper bound "
            f"{upper:.3f} by more than their errors; the samples do not represent the model (a "
            "mode may be missing), so give equilibrated ones."
        )
    return Bracket(lower, lower_stderr, upper, upper_stderr, n_steps)


def _split_in_runs(samples, shape, n_runs, n_particles):
    samples = jnp.asarray(samples, float)
    if samples.shape[1:] != tuple(shape) or samples.shape[0] < 2 * n_runs:
        raise Refused(
            f"The reverse runs need at least {2 * n_runs} samples of shape {tuple(shape)}, two a "
            f"run; got an array of shape {samples.shape}."
        )
    if not bool(jnp.all(jnp.isfinite(samples))):
        raise Refused("The samples are not all finite; remove the chains that diverged.")
    per_run = min(samples.shape[0] // n_runs, n_particles)
    return samples[: n_runs * per_run].reshape(n_runs, per_run, *shape)


def _mean(log_ratios):
    log_ratios = np.asarray(log_ratios, np.float64)
    return float(log_ratios.mean()), float(log_ratios.std(ddof=1) / len(log_ratios) ** 0.5)


@eqx.filter_jit
def _forward(key, model, base, n_runs, n_particles, n_moves, schedule):
    def one_run(key):
        start_key, run_key = jax.random.split(key)
        particles = base.sample(start_key, (n_particles,))
        return annealed_log_ratio(
            run_key,
            particles,
            base.log_prob,
            model.unnormalized_log_prob,
            schedule,
            n_moves=n_moves,
        )

    return jax.lax.map(one_run, jax.random.split(key, n_runs))


@eqx.filter_jit
def _reverse(key, model, base, starts, n_moves, schedule):
    # The path from the model to the base visits the same densities in the opposite order.
    order = jnp.maximum(schedule.n_steps - jnp.arange(schedule.temperatures.shape[0]), 0)
    schedule = Schedule(
        1 - schedule.temperatures[order], schedule.step_sizes[order], schedule.n_steps
    )

    def one_run(key_and_start):
        key, particles = key_and_start
        return annealed_log_ratio(
            key, particles, model.unnormalized_log_prob, base.log_prob, schedule, n_moves=n_moves
        )

    return jax.lax.map(one_run, (jax.random.split(key, starts.shape[0]), starts))
