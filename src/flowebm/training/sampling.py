"""`flowebm.sample`: from any log-density to draws of all its modes, and its log Z."""

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.bijections import AbstractBijection, Chain, TriangularAffine
from flowjax.distributions import AbstractDistribution, Normal, StudentT, Transformed
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree, Scalar
from scipy.special import logsumexp

from flowebm.compiled_programs import free_programs_if_many
from flowebm.evaluation.bridge import bridge
from flowebm.evaluation.diagnostics import chain_diagnostics
from flowebm.evaluation.estimate import Estimate, EstimateWarning
from flowebm.evaluation.heavy_tails import khat_limit
from flowebm.evaluation.log_partition import LogPartition
from flowebm.models.defensive import DefensiveMixture, draw
from flowebm.models.elliptical_mixture import EllipticalMixture
from flowebm.models.flows import make_flow
from flowebm.models.triangular_map import fit_triangular_map
from flowebm.models.unconstrained import UnconstrainedDensity
from flowebm.models.wide_start import WideStart
from flowebm.progress import OnBlock, progress_callback
from flowebm.refusal import Refused
from flowebm.samplers.assisted_draws import (
    AssistedDraws,
    AssistedKernel,
    Chains,
    assisted_draws,
    mixture_draws,
)
from flowebm.samplers.kernel import LOCAL
from flowebm.samplers.nested import Live, explore
from flowebm.samplers.preconditioner import Preconditioner, StandardisedDensity, preconditioner
from flowebm.training.adaptive_sampling import AdaptiveSamplingTrainer, SamplingOptions
from flowebm.training.budget import Budget, compile_in_time
from flowebm.training.density_calls import DensityCalls
from flowebm.training.driver import Callbacks, StoppingCriteria, drive
from flowebm.training.optimizers import clipped_adam
from flowebm.training.sampling_checkpoint import SamplingCheckpoint
from flowebm.training.sampling_proposal import (
    NEW_MASS,
    Population,
    Proposal,
    find_modes,
    fit_proposal,
    is_near_normal,
    mixed_points,
)
from flowebm.training.sampling_result import SampledMode, SamplingResult
from flowebm.training.sampling_target import (
    SamplingTarget,
    StartPoints,
    sampling_target,
    straightened,
    turned,
)

#: Coordinates up to which nested sampling explores; annealing with a flow does beyond.
MOST_NESTED = 40

#: Coordinates from which on a check for one near-normal mode is worth while: exploration is then
#: by a quarter of the live points.
MOST_CHEAP = 10

#: Share of a time budget that exploration and proposals may take.
WARM_UP_BUDGET = 0.4

#: Iterations of a compiled block of the annealing, and blocks of kept draws.
BLOCK_LENGTH = 20
DRAW_BLOCKS = 10

#: Blocks in which the chains' step size is adapted, and their steps.
ADAPTING_BLOCKS = 8

#: Draws of the start density for every live point of a run.
SWEEP = 32

#: Degrees of freedom of the heavy-tailed part of the flow's proposals.
TAIL_DF = 5.0

#: Effective share of a mixture's proposals below which a flow is trained beside it, and the
#: mixture's share then, at least.
FLOW_BELOW, MIXTURE_SHARE = 0.15, 0.1

#: Effective share below which a triangular map is tried that gains so many nats a point on a
#: normal, and share below which one is that does better than the mixture.
MAP_BELOW, MAP_GAIN, BETTER_MAP_BELOW = 0.5, 0.1, 0.95

#: Factors by which the effective share must then rise, or what is missing from one fall; and maps
#: at most.
GAIN_OF_MAP, LESS_MISSING, MOST_MAPS = 1.2, 0.7, 8

#: Climbs from points where exploration ended, and from others in the coordinates of a map.
TOP_CLIMBS, MAP_CLIMBS = 6, 4

#: Share of the proposed points from which on it is said that the density is no number there.
SOME_NAN = 1e-4

#: Draws of the proposal behind log Z.
N_IMPORTANCE = 20_000

#: Standard errors by which two estimates may differ.
DISAGREE = 3.0


def sample(
    key: PRNGKeyArray,
    log_density: Callable[[Any], Scalar],
    initial: int | PyTree[ArrayLike] | AbstractDistribution | StartPoints,
    *,
    bounds: tuple[PyTree[ArrayLike], PyTree[ArrayLike]] | None = None,
    periodic: PyTree[ArrayLike] | None = None,
    bijection: AbstractBijection | None = None,
    n_chains: int = 32,
    n_draws: int = 500,
    thin: int = 1,
    options: SamplingOptions | None = None,
    flow: AbstractDistribution | None = None,
    max_steps: int = 500,
    time_budget: float | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    verbose: bool = True,
) -> SamplingResult:
    r"""Sample a density known up to its constant, all of its modes in their proportions.

    Two independent runs of nested sampling explore from a wide start to the top of the density
    (beyond 40 coordinates, annealed particles with a flow that follows them). Gradient climbs and
    images of known peaks find what these missed. A mixture, fitted in each mode, and a flow beside
    it where that covers the density badly, then propose: chains alternate independent proposals
    (independence Metropolis or i-SIR) with local moves (MALA, HMC, NUTS or a random walk), all of
    which leave the target invariant. $\log Z$ is by importance sampling from the frozen proposal,
    and is compared with exploration's and with bridge sampling.

    Args:
        key: Random key; with the inputs it determines the result on a given device, unless a
            time budget cuts in.
        log_density: Maps one point to its log-density up to a constant, in nats. A function that
            JAX can trace and differentiate, or one of NumPy, which is called back without
            gradients. Where it is not a number there is no mass.
        initial: Where to start. One point, an array or any pytree of arrays, of which the points
            have the structure; a number $d$, for points of shape `(d,)` and a start around the
            origin; many points, as an array of shape `(n, d)` or `StartPoints`; or a flowjax
            density over points as vectors.
        bounds: Lower and upper bounds, each one number for all, an array that broadcasts
            against the point's vector, or a pytree of the point's structure; infinite for none.
        periodic: Which parameters are circular, of the same forms; they have two bounds.
        bijection: Instead of bounds, a flowjax bijection from all of space to points, as
            vectors of shape `(d,)`.
        n_chains: Chains of kept draws.
        n_draws: Kept draws of each.
        thin: Steps of a chain for each kept draw.
        options: Choices of the method.
        flow: A flow over standardised points of shape `(d,)` to train where there is need;
            spline couplings by default.
        max_steps: Halvings of the live points, and iterations of a flow's training, at most.
        time_budget: Seconds at most, compilation included; at least one draw block is made.
        checkpoint: A folder to keep exploration and draws in.
        resume: Whether to go on from what is there, to the same draws.
        verbose: Whether to show progress, on standard error.

    Returns:
        Draws in the user's space with their diagnostics, $\log Z$ with its error, the modes with
        their weights, and the proposal.

    Raises:
        TypeError: If `log_density` is no function or returns no real number.
        Refused: If it cannot be evaluated at the initial point, is not a number there or is
            not scalar, or bounds, bijection or counts do not fit.
        FileExistsError: If there is a checkpoint and `resume` is false.

    Warns:
        EstimateWarning: If $\hat R > 1.01$, an ESS is too small, $\hat k > 0.7$, exploration did
            not end, estimates of $\log Z$ or of a mode's weight disagree, an exploration missed a
            mode, the density or its gradient is not a number, or Ctrl-C was pressed.

    Source: Skilling (2006), *Nested sampling for general Bayesian computation*; Cornuet et al.
    (2012), *Adaptive multiple importance sampling*; Gabrié, Rotskoff, Vanden-Eijnden (2022),
    *Adaptive Monte Carlo augmented with normalizing flows*; Samsonov et al. (2022), *Local-global
    MCMC kernels: the best of both worlds*.
    """
    budget = Budget.of(time_budget)
    free_programs_if_many()
    options = options or SamplingOptions()
    for name, count in (("n_chains", n_chains), ("thin", thin), ("max_steps", max_steps)):
        if count < 1:
            raise Refused(f"{name} must be 1 or more; got {count}.")
    if n_draws < 4:
        raise Refused(f"n_draws must be 4 or more, for diagnostics; got {n_draws}.")
    target = sampling_target(
        log_density,
        initial,
        bounds,
        bijection,
        periodic=periodic,
        initial_scale=options.initial_scale,
    )
    shape = target.model.shape
    if flow is not None and (tuple(flow.shape) != shape or flow.cond_shape is not None):
        raise Refused(
            f"The flow must be unconditional and over points of shape {shape}; its points have "
            f"shape {tuple(flow.shape)}."
        )
    with progress_callback(quiet=not verbose) as on_block, _interruptible() as interrupted:
        work = _Work(
            keys=dict(zip(STAGES, jr.split(key, len(STAGES)), strict=True)),
            target=target,
            options=options,
            flow=flow,
            max_steps=max_steps,
            calls=DensityCalls(target.model, target.is_numpy),
            on_block=on_block,
            interrupted=interrupted,
            budget=budget,
            saved=SamplingCheckpoint(checkpoint, resume, budget),
        )
        result = _sampled(work, n_chains, n_draws, thin)
    for sentence in result.warnings:
        warnings.warn(sentence, EstimateWarning, stacklevel=2)
    return result


#: Whatever needs random numbers, each from a key of its own.
STAGES = ("sweep", "explore", "fit", "flow", "anneal", "chains", "importance", "smc")


@dataclass
class _Work:
    """What all stages of a call share."""

    keys: dict[str, PRNGKeyArray]
    target: SamplingTarget
    options: SamplingOptions
    flow: AbstractDistribution | None
    max_steps: int
    calls: DensityCalls
    on_block: OnBlock
    interrupted: Callable[[], bool]
    budget: Budget
    saved: SamplingCheckpoint

    def rng(self, stage: str) -> np.random.Generator:
        """NumPy's random numbers of a stage."""
        return np.random.default_rng(np.asarray(jr.key_data(self.keys[stage])))

    def out_of_time(self) -> bool:
        return self.interrupted() or self.budget.is_spent(reserve=1 - WARM_UP_BUDGET)

    def is_too_late(self, seconds: float) -> bool:
        """Whether what takes so long is not to begin."""
        left = self.budget.left()
        return self.interrupted() or (left is not None and left < seconds)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C was pressed; pressed again, it interrupts."""
    asked = False

    def handle(number, frame):
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    is_main = threading.current_thread() is threading.main_thread()
    # Whoever handles the signal already, such as the command line, goes on to do so.
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class _Found:
    """What exploration found.

    Attributes:
        population: Weighted draws.
        tops: Where it ended.
        opinions: Its own estimates of log Z.
        sentences: What is to be said against it.
        stop_reason: Why it ended.
        history: Rows of metrics.
        coordinates, proposal: Of the annealing's flow, where there was one.
    """

    population: Population
    tops: np.ndarray
    opinions: list["Opinion"]
    sentences: list[str]
    stop_reason: str
    history: list[dict[str, Any]]
    coordinates: Preconditioner | None = None
    proposal: DefensiveMixture | None = None
    step_size: float | None = None


@dataclass
class Opinion:
    """An estimate of log Z, nats, and whose it is."""

    name: str
    value: float
    stderr: float


def _sampled(work: _Work, n_chains: int, n_draws: int, thin: int) -> SamplingResult:
    found = _explored(work)
    # Far from all mass, where exploration begins, much overflows that never matters.
    work.calls.n_nan = work.calls.n_values = 0
    rng = work.rng("fit")
    population = found.population
    no_gradient = _without_gradient(work, population, rng)
    if no_gradient:
        work.calls.has_gradient = False
    tops = found.tops[rng.permutation(len(found.tops))[:TOP_CLIMBS]]
    starts = np.concatenate([tops, np.asarray(work.target.points)[:4]])
    modes = find_modes(rng, work.calls, population, starts)
    centre, reach = np.asarray(work.target.centre), np.asarray(work.target.scale)
    bounded = work.target.bounded
    proposal = fit_proposal(
        rng, work.calls, population, modes, centre, reach, bounded, work.out_of_time
    )
    if proposal.ess < BETTER_MAP_BELOW and found.proposal is None and not work.out_of_time():
        proposal = _straightened(work, found, proposal, rng)
        population = found.population
    may_train = work.calls.has_gradient and found.proposal is None and not work.out_of_time()
    if proposal.ess < FLOW_BELOW and may_train:
        trained = _trained_flow(work, proposal)
        found.coordinates, found.proposal = trained.coordinates, trained.proposal
        found.step_size = trained.step_size
        found.history += trained.history
        proposal.draws = _with_draws(proposal.draws, trained.population, proposal.ess)
    kernel, coordinates = _kernel(work, found, proposal, rng)
    # The programs of a flow's draws are the largest; of those that follow each is smaller.
    budget = work.budget.part(reserve=0.5 * (1 - WARM_UP_BUDGET))
    given = work.keys["importance"], kernel.proposal, N_IMPORTANCE
    if found.proposal is not None and not compile_in_time(budget, _proposal_draws, *given):
        found.coordinates = found.proposal = None
        kernel, coordinates = _kernel(work, found, proposal, rng)
    weighed = _weighed(work, kernel, coordinates, proposal)
    positions = _chain_starts(rng, weighed, population, n_chains)
    drawn, kernel, n_chain_evaluations = _drawn(
        work, kernel, proposal, coordinates, positions, n_draws, thin
    )
    return _result(
        work, found, proposal, kernel, coordinates, weighed, drawn, n_chain_evaluations, no_gradient
    )


def _explored(work: _Work) -> _Found:
    if work.target.model.shape[0] > MOST_NESTED:
        return _annealed(work)
    target, options, calls = work.target, work.options, work.calls
    n_live = max(8, options.n_particles // 4 * 2)
    x, log_start = _start_draws(work, 2 * SWEEP * n_live)
    log_density = calls.values(x)
    if not np.any(np.isfinite(log_density)):
        raise Refused(
            f"log_density is not finite at any of {len(x)} points around the initial one (of "
            f"standard deviation {options.initial_scale:g} in unconstrained coordinates): give "
            "another initial point, a smaller options.initial_scale, or the bounds of the "
            "parameters."
        )
    label = work.rng("sweep").random(len(x)).astype(np.float32)
    ratio = (log_density - log_start).astype(np.float32)
    sweep = Live(x, log_start, np.where(np.isnan(ratio), -np.inf, ratio), label)
    sweep = Live(*(leaf.reshape(2, -1, *leaf.shape[1:]) for leaf in sweep))
    if x.shape[1] >= MOST_CHEAP and is_near_normal(work.rng("flow"), calls, x, ratio):
        # A check is then enough of exploration.
        n_live = max(8, n_live // 8 * 2)
    history: list[dict[str, Any]] = []
    progress = work.saved.progress()

    def on_level(level, row):
        history.append(
            {"stage": "exploration", "iteration": level, "seconds": work.budget.used(), **row}
        )
        work.on_block("exploration", history[-1], work.max_steps)
        work.saved.save_progress(progress)

    found = explore(
        work.keys["explore"],
        target.model,
        target.start,
        sweep,
        n_live=n_live,
        on_level=on_level,
        out_of_time=work.out_of_time,
        progress=progress,
        most_levels=work.max_steps,
    )
    work.saved.save_progress(progress, now=True)
    calls.n_evaluations += found.n_evaluations
    population = Population.of(found)
    keep = population.log_weights > population.log_weights.max() - 60
    population = Population(*(np.asarray(leaf)[keep] for leaf in vars(population).values()))
    sentences = []
    first, second = found.log_partitions
    gap = abs(first - second)
    if gap > DISAGREE * 2**0.5 * found.stderr:
        sentences.append(
            f"Two independent explorations disagree on log Z: {first:.3f} and {second:.3f}, by "
            f"{gap / found.stderr / 2**0.5:.1f} standard errors. Something of the density is hard "
            "to find: more options.n_particles find more of it."
        )
    if not found.finished:
        sentences.insert(
            0,
            f"Exploration ended after {len(progress.kept) - 1} halvings, before it reached the "
            "top of the density: the draws are not to be trusted; give more max_steps or time.",
        )
    error = max(found.stderr, gap / 2**0.5) / 2**0.5
    value = logsumexp(found.log_partitions) - np.log(2)
    turned_target = turned(
        target,
        jax.vmap(target.model.bijection.transform)(jnp.asarray(population.position)),
        population.shares(),
    )
    tops = np.asarray(found.top)
    if turned_target is not target:
        population = _moved(population, target, turned_target)
        tops = _moved_points(tops, target, turned_target)[0]
        work.target = turned_target
        calls.model = turned_target.model
    reason = "the top of the density was reached" if found.finished else "max_steps or time"
    return _Found(
        population,
        tops,
        [Opinion("exploration by nested sampling", float(value), error)],
        sentences,
        reason,
        history,
    )


def _straightened(
    work: _Work, found: _Found, proposal: Proposal, rng: np.random.Generator
) -> Proposal:
    """A better proposal in the coordinates of a triangular map, if there is one.

    Where there is, the target and what was found are in those coordinates afterwards. What a
    proposal reaches can be more than exploration had: maps are fitted again while they gain.
    """
    bent, calls = work.target, work.calls
    points = mixed_points(rng, proposal.draws, found.population)
    peaks = np.array([position for position, _ in proposal.modes.representatives()])
    d = points.shape[1]
    origin, unit, unbounded = np.zeros(d), np.ones(d), np.zeros(d, bool)
    best, best_map = proposal, None
    for _ in range(MOST_MAPS):
        fitted, gain = fit_triangular_map(rng, points)
        if gain < MAP_GAIN or work.out_of_time():
            break
        if best_map is None and proposal.ess > MAP_BELOW:
            of_mixture = proposal.mixture.log_prob(points).mean()
            if fitted.normal_log_prob(points).mean() < of_mixture:
                break
        calls.model = straightened(bent, fitted).model
        mapped = found.population.mapped(fitted)
        starts = fitted.inverse_on_host(peaks)[0]
        modes = find_modes(rng, calls, mapped, starts, n_climbs=MAP_CLIMBS)
        now = fit_proposal(
            rng, calls, mapped, modes, origin, unit, unbounded, work.out_of_time, is_mapped=True
        )
        finds_more = now.draws.log_mean() > best.draws.log_mean() + NEW_MASS
        is_better = now.ess > GAIN_OF_MAP * best.ess or 1 - now.ess < LESS_MISSING * (1 - best.ess)
        if not is_better and not finds_more:
            break
        best, best_map = now, fitted
        points = fitted.transform_on_host(mixed_points(rng, now.draws, mapped))
    calls.model = bent.model
    if best_map is not None:
        work.target = straightened(bent, best_map)
        calls.model = work.target.model
        found.population = found.population.mapped(best_map)
    return best


def _moved_points(z: np.ndarray, old: SamplingTarget, new: SamplingTarget):
    """Points in the coordinates of another bijection, and what that adds to their log-density."""

    def move(z):
        x, log_det = old.model.bijection.transform_and_log_det(z)
        z, back = new.model.bijection.inverse_and_log_det(x)
        return z, -back - log_det

    moved, change = jax.vmap(move)(jnp.asarray(z))
    return np.asarray(moved), np.asarray(change)


def _moved(population: Population, old: SamplingTarget, new: SamplingTarget) -> Population:
    z, change = _moved_points(population.position, old, new)
    fine = np.isfinite(change) & np.all(np.isfinite(z), axis=1)
    return Population(
        z[fine],
        (population.log_density + change)[fine],
        population.log_weights[fine],
        population.run[fine],
    )


def _start_draws(work: _Work, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the start, and their log-densities."""
    if isinstance(work.target.start, WideStart):
        return work.target.start.on_host(work.rng("sweep"), n)
    x, log_prob = _density_draws(work.keys["sweep"], work.target.start, n)
    return np.asarray(x), np.asarray(log_prob)


@eqx.filter_jit
def _density_draws(key: PRNGKeyArray, start: AbstractDistribution, n: int):
    x = start.sample(key, (n,))
    return x, start.log_prob(x)


def _annealed(work: _Work) -> _Found:
    """Exploration in many coordinates: annealed particles, and the flow that follows them."""
    target, options = work.target, work.options
    centre = target.centre
    start = paramax.unwrap(Normal(centre, target.scale))
    sample_key, train_key = jr.split(work.keys["anneal"])
    data = start.sample(sample_key, (options.n_particles,))
    if not np.any(np.isfinite(work.calls.values(np.asarray(data)))):
        raise Refused(
            f"log_density is not finite at any of {options.n_particles} points around the "
            f"initial one (a normal of standard deviation {options.initial_scale:g} in "
            "unconstrained coordinates): give another initial point, a smaller "
            "options.initial_scale, or the bounds of the parameters."
        )
    trainer = _trainer(work, start, data, 0.0)
    found = _driven(work, train_key, trainer)
    temperature = found.history[-1]["temperature"]
    if temperature < 1:
        found.sentences.append(
            f"The warm-up ended at temperature {temperature:.3g} of 1 ({found.stop_reason}), "
            "before it reached the target; its draws are not to be trusted: give more max_steps "
            "or time, or a smaller initial_scale.",
        )
        # A flow of what lies on the way is not worth its programs.
        found.coordinates = found.proposal = found.step_size = None
    found.opinions += _tempered_opinion(work, start)
    return found


def _tempered_opinion(work: _Work, start: AbstractDistribution) -> list[Opinion]:
    """log Z by a second, independent exploration: tempered SMC of a quarter of the particles."""
    from flowebm.evaluation.tempered import log_partition_bracket

    if not work.calls.has_gradient or work.out_of_time():
        return []
    n = max(32, work.options.n_particles // 16)
    try:
        bracket = log_partition_bracket(
            work.keys["smc"], work.target.model, start, n_particles=n, n_runs=4
        )
    except RuntimeError:
        return []
    work.calls.n_evaluations += 4 * n * bracket.n_temperatures * 5
    # The mean of log Z's estimates is low by half of their variance.
    variance = 4 * bracket.lower_stderr**2
    value = bracket.lower + variance / 2
    return [Opinion("tempered SMC", value, max(bracket.lower_stderr, 0.02) + variance / 2)]


def _trained_flow(work: _Work, proposal: Proposal) -> _Found:
    """A flow for what the mixture covers badly, trained on chains from weighted draws."""
    rows = proposal.draws.rows(work.rng("flow"), work.options.n_particles)
    data = jnp.asarray(proposal.draws.position[rows])
    start = paramax.unwrap(Normal(data.mean(axis=0), data.std(axis=0) + 1e-6))
    trainer = _trainer(work, start, data, 1.0)
    return _driven(work, work.keys["anneal"], trainer)


def _trainer(
    work: _Work, start: AbstractDistribution, data: Array, temperature: float
) -> AdaptiveSamplingTrainer:
    shape, options = work.target.model.shape, work.options
    flow = work.flow
    if flow is None:
        flow = make_flow("spline-coupling", shape, key=work.keys["flow"])
    flow_batch = min(options.flow_batch, options.n_particles // options.n_flow_steps)
    return AdaptiveSamplingTrainer(
        target=work.target.model,
        start=start,
        flow=flow,
        wide=paramax.non_trainable(StudentT(jnp.full(shape, TAIL_DF))),
        data=data,
        optimizer=clipped_adam(5.0, options.flow_learning_rate),
        options=options,
        batch_size=flow_batch * options.n_flow_steps,
        temperature=temperature,
    )


def _driven(work: _Work, key: PRNGKeyArray, trainer: AdaptiveSamplingTrainer) -> _Found:
    options = work.options
    budget = work.budget.part(reserve=1 - WARM_UP_BUDGET)
    outcome = drive(
        key,
        trainer,
        StoppingCriteria(work.max_steps, budget, None, min(BLOCK_LENGTH, work.max_steps)),
        Callbacks(on_block=[work.on_block]),
    )
    state = outcome.state.inner
    n_iterations = int(outcome.state.iteration)
    # A step of the warm-up also weighs where the particles are.
    per_step = _evaluations_of_step(options, options.local_kernel) or 0
    work.calls.n_evaluations += n_iterations * options.n_particles * (per_step + 1)
    position = np.asarray(state.positions)
    n = len(position)
    return _Found(
        population=Population(position, work.calls.values(position), np.zeros(n), np.zeros(n, int)),
        tops=position,
        opinions=[],
        sentences=[],
        stop_reason=outcome.stop_reason,
        history=outcome.history,
        coordinates=preconditioner(state.moments),
        proposal=trainer.proposal(state.average),
        step_size=float(state.step_size.step_size),
    )


def _with_draws(draws: Population, particles: Population, ess: float) -> Population:
    """Weighted draws and particles together, in proportion to what they are worth."""
    n = len(particles.position)
    share = draws.effective() / (draws.effective() + n)
    log_weights = np.concatenate(
        [
            draws.log_weights - logsumexp(draws.log_weights) + np.log(share),
            np.full(n, np.log1p(-share) - np.log(n)),
        ]
    )
    return Population(
        np.concatenate([draws.position, particles.position]),
        np.concatenate([draws.log_density, particles.log_density]),
        log_weights,
        np.zeros(len(log_weights), int),
    )


def _kernel(
    work: _Work, found: _Found, proposal: Proposal, rng: np.random.Generator
) -> tuple[AssistedKernel, Preconditioner]:
    """The kernel that draws, with its flow or mixture in standard coordinates."""
    options, d = work.options, work.target.model.shape[0]
    coordinates, flow = found.coordinates, found.proposal
    if coordinates is None or flow is None:
        coordinates = _within_modes(rng, proposal)
        density = _standard_mixture(proposal, coordinates)
    else:
        # Particles and points of the mixture's rounds, each by what the other has not seen.
        rows = found.population if found.step_size is None else proposal.draws
        points = coordinates.standardise(
            jnp.asarray(rows.position[rows.rows(rng, 1000)], jnp.float32)
        )
        mixture = _standard_mixture(proposal, coordinates)
        of_flow, of_mixture = _log_probs((flow, mixture), points)
        shares = np.array([MIXTURE_SHARE, 0.3, 0.5, 0.7, 0.9])[:, None]
        scores = np.logaddexp(np.log1p(-shares) + of_flow, np.log(shares) + of_mixture)
        scores = np.mean(scores, axis=1)
        share = float(shares[np.argmax(np.nan_to_num(scores, nan=-np.inf)), 0])
        density = DefensiveMixture(flow, mixture, share)
    kernel = AssistedKernel(
        model=StandardisedDensity(work.target.model, coordinates),
        proposal=density,
        step_size=jnp.asarray(found.step_size or d ** (-1 / 3), jnp.float32),
        global_kernel=options.global_kernel,
        n_proposals=options.n_proposals,
        local_kernel=options.local_kernel if work.calls.has_gradient else "rwm",
        n_local=options.n_local,
    )
    return kernel, coordinates


def _within_modes(rng: np.random.Generator, proposal: Proposal) -> Preconditioner:
    """Coordinates in which modes, wherever they are, have the scale of one on average."""
    draws = proposal.draws
    rows = draws.rows(rng, 4000)
    if draws.effective() < 10:
        # Copies of a few points have no scale: then that of the proposals themselves.
        rows = rng.permutation(len(draws.position))[:4000]
    points = draws.position[rows].astype(float)
    labels = proposal.mixture.modes_of(points)
    mean = points.mean(axis=0)
    for mode in np.unique(labels):
        points[labels == mode] -= points[labels == mode].mean(axis=0)
    # On the host: each step would be a program to compile.
    sd = points.std(axis=0) + 1e-12
    n = max(2.0, min(draws.effective(), 4000.0))
    correlation = np.corrcoef((points / sd).T).reshape(len(sd), len(sd))
    off_diagonal = correlation - np.diag(np.diag(correlation))
    noise = np.sum((1 - off_diagonal**2) ** 2) / n
    # Schäfer and Strimmer (2005), as `preconditioner` has it.
    shrinkage = np.clip(noise / max(np.sum(off_diagonal**2), noise), 1e-4, 1.0)
    factor = sd[:, None] * np.linalg.cholesky(np.eye(len(sd)) + (1 - shrinkage) * off_diagonal)
    leaves = (mean, factor, np.linalg.inv(factor))
    return Preconditioner(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves))


def _standard_mixture(proposal: Proposal, coordinates: Preconditioner) -> EllipticalMixture:
    mixture = proposal.mixture
    mean, inverse = (
        np.asarray(coordinates.mean, float),
        np.asarray(coordinates.inverse_factor, float),
    )
    return mixture._replace(
        means=(mixture.means - mean) @ inverse.T, factors=inverse @ mixture.factors
    ).distribution()


@dataclass
class _Weighed:
    """Fresh draws of the frozen proposal with their weights: what log Z is known by."""

    position: np.ndarray
    log_density: np.ndarray
    log_weights: np.ndarray


def _weighed(
    work: _Work, kernel: AssistedKernel, coordinates: Preconditioner, proposal: Proposal
) -> _Weighed:
    if isinstance(kernel.proposal, EllipticalMixture):
        x = proposal.mixture.draw(work.rng("importance"), N_IMPORTANCE)
        log_q = proposal.mixture.log_prob(x)
    else:
        y, log_q = _proposal_draws(work.keys["importance"], kernel.proposal, N_IMPORTANCE)
        x = np.asarray(coordinates.restore(y))
        log_q = np.asarray(log_q, float) - float(coordinates.log_det)
    log_density = work.calls.values(x)
    log_weights = np.where(np.isfinite(log_q), log_density - log_q, -np.inf)
    return _Weighed(x, log_density, log_weights)


@eqx.filter_jit
def _log_probs(densities: tuple[AbstractDistribution, ...], points: Array) -> tuple[Array, ...]:
    return tuple(density.log_prob(points) for density in densities)


@eqx.filter_jit
def _proposal_draws(key: PRNGKeyArray, proposal: AbstractDistribution, n: int):
    def batch(key):
        return draw(key, proposal, 2000)

    y, log_q = jax.lax.map(batch, jr.split(key, n // 2000))
    return y.reshape(n, -1), log_q.ravel()


def _chain_starts(
    rng: np.random.Generator, weighed: _Weighed, population: Population, n_chains: int
) -> np.ndarray:
    """Chains of two origins, in turn: weighted draws of the proposal, and of exploration."""
    n = (n_chains + 1) // 2
    fresh = Population(weighed.position, weighed.log_density, weighed.log_weights, np.zeros(0))
    if not np.any(np.isfinite(weighed.log_weights)):
        fresh = population
    starts = np.empty((2 * n, population.position.shape[1]), np.float32)
    starts[0::2] = fresh.position[rng.permutation(fresh.rows(rng, n))]
    starts[1::2] = population.position[rng.permutation(population.rows(rng, n))]
    return starts[:n_chains]


def _drawn(
    work: _Work,
    kernel: AssistedKernel,
    proposal: Proposal,
    coordinates: Preconditioner,
    positions: np.ndarray,
    n_draws: int,
    thin: int,
) -> tuple[AssistedDraws, AssistedKernel, int | None]:
    """Blocks of draws, until there are enough or the time is up; and how often they evaluated."""
    # Blocks of one length, of which one program is compiled; what is too much is dropped.
    length = max(4, -(-n_draws // DRAW_BLOCKS))
    started = time.monotonic()
    state = work.saved.chains()
    blocks: list[AssistedDraws] = []
    n_adapting = ADAPTING_BLOCKS
    run = partial(_block, work, proposal, coordinates, length=length, thin=thin)
    if state is not None:
        chains, blocks, step_size = state
        kernel = eqx.tree_at(lambda k: k.step_size, kernel, jnp.asarray(step_size, jnp.float32))
    else:
        chains = _chains_at(work, coordinates, positions)
        wanted = LOCAL[kernel.local_kernel].target_acceptance
        step_size = float(kernel.step_size)
        for block in range(ADAPTING_BLOCKS):
            n_adapting, began = block + 1, work.budget.used()
            chains, drawn = run(10_000 + block, kernel, chains)
            accepted = float(np.mean(np.asarray(drawn.local_acceptance)))
            step_size *= math.exp(4 * (accepted - wanted) / (1 + block) ** 0.5)
            kernel = eqx.tree_at(lambda k: k.step_size, kernel, jnp.asarray(step_size, jnp.float32))
            # One more of these, and one of those that are kept.
            if block and work.is_too_late(2 * (work.budget.used() - began)):
                break
    n_blocks = -(-n_draws // length)
    for block in range(len(blocks), n_blocks):
        began = work.budget.used()
        chains, drawn = run(block, kernel, chains)
        blocks.append(jax.device_get(drawn))
        work.saved.save_chains(chains, blocks, float(kernel.step_size))
        done = min(n_draws, length * len(blocks))
        work.on_block("draws", {"iteration": done, "seconds": time.monotonic() - started}, n_draws)
        if work.is_too_late(work.budget.used() - began):
            break
    n_blocks = len(blocks) + n_adapting
    n_steps, n_chains = n_blocks * length * thin, len(positions)
    if _is_lean(kernel):
        count = n_chains * (n_blocks + n_steps * (1 + work.options.n_local))
    else:
        per_step = _evaluations_of_step(work.options, kernel.local_kernel)
        count = None if per_step is None else n_chains * n_steps * per_step
    drawn = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n_draws], *blocks)
    return drawn, kernel, count


def _is_lean(kernel: AssistedKernel) -> bool:
    """Whether `mixture_draws` serves."""
    return (
        isinstance(kernel.proposal, EllipticalMixture)
        and kernel.global_kernel == "imh"
        and kernel.local_kernel in ("mala", "rwm")
    )


def _chains_at(work: _Work, coordinates: Preconditioner, positions: np.ndarray) -> Chains:
    log_density = work.calls.values(positions) + float(coordinates.log_det)
    inverse = np.asarray(coordinates.inverse_factor)
    standard = (positions - np.asarray(coordinates.mean)) @ inverse.T
    return Chains(jnp.asarray(standard, jnp.float32), jnp.asarray(log_density, jnp.float32))


def _block(
    work: _Work,
    proposal: Proposal,
    coordinates: Preconditioner,
    block: int,
    kernel: AssistedKernel,
    chains: Chains,
    *,
    length: int,
    thin: int,
) -> tuple[Chains, AssistedDraws]:
    """Some draws of all chains."""
    key = work.keys["chains"]
    if not _is_lean(kernel):
        return assisted_draws(jr.fold_in(key, block), kernel, chains, length, thin)
    rng = np.random.default_rng([*np.asarray(jr.key_data(key)).ravel(), block])
    n_chains, d = chains.position.shape
    n_steps = length * thin
    moves = rng.standard_normal((n_steps, 1 + kernel.n_local, n_chains, d), np.float32)
    fresh = proposal.mixture.draw(rng, n_steps * n_chains)
    inverse = np.asarray(coordinates.inverse_factor)
    fresh = (fresh - np.asarray(coordinates.mean)) @ inverse.T
    # Draws come component by component.
    moves[:, 0] = rng.permutation(fresh).reshape(n_steps, n_chains, d)
    uniform = 1 - rng.random(moves.shape[:3], np.float32)
    chains, drawn = mixture_draws(kernel, chains, jnp.asarray(moves), jnp.asarray(np.log(uniform)))
    return chains, jax.tree.map(lambda leaf: np.asarray(leaf)[thin - 1 :: thin], drawn)


def _evaluations_of_step(options: SamplingOptions, local_kernel: str) -> int | None:
    local = LOCAL[local_kernel].evaluations
    if local is None:
        return None
    proposals = options.n_proposals if options.global_kernel == "isir" else 1
    return proposals + 1 + options.n_local * local


def _result(
    work: _Work,
    found: _Found,
    proposal: Proposal,
    kernel: AssistedKernel,
    coordinates: Preconditioner,
    weighed: _Weighed,
    drawn: AssistedDraws,
    n_chain_evaluations: int | None,
    no_gradient: list[str],
) -> SamplingResult:
    drawn = jax.tree.map(lambda leaf: np.asarray(leaf).swapaxes(0, 1), drawn)
    z = _restored(coordinates, np.asarray(drawn.position))
    points, draws, log_det = _in_parameters(work.target.model, jnp.asarray(z))
    log_density = drawn.logdensity - float(coordinates.log_det) - np.asarray(log_det)
    modes, of_modes = _modes(work, found, proposal, weighed, z)
    # What exploration is known to have missed is no contradiction between its log Z and others.
    missed = sum(mode.weight for mode in modes if mode.is_missed)
    for opinion in found.opinions:
        opinion.value -= math.log(max(1 - missed, 1e-6))
    log_z, sentences = _log_partition(found, proposal, kernel, coordinates, weighed, drawn, z)
    diagnostics = chain_diagnostics(points)
    if (sentence := diagnostics.warning()) is not None:
        sentences = [sentence, *sentences]
    if sentence is not None or log_z.khat > khat_limit(log_z.n):
        # The weights' own error is then of no use: that of exploration, and how far all differ, is.
        spread = max(abs(opinion.value - log_z.value) for opinion in found.opinions)
        error = max(opinion.stderr for opinion in found.opinions)
        log_z = log_z._replace(stderr=max(log_z.stderr, error, spread))
    sentences = [*found.sentences, *sentences, *of_modes, *_said_of_density(work, no_gradient)]
    if work.interrupted():
        sentences.insert(0, "Interrupted: these are the draws that there were.")
    standardised = TriangularAffine(coordinates.mean, coordinates.factor)
    count = None
    if n_chain_evaluations is not None:
        count = work.calls.n_evaluations + n_chain_evaluations + 1
    return SamplingResult(
        draws=draws,
        log_density=log_density,
        log_partition=log_z,
        diagnostics=diagnostics,
        global_acceptance=drawn.global_acceptance,
        local_acceptance=drawn.local_acceptance,
        flow=Transformed(kernel.proposal, Chain([standardised, work.target.model.bijection])),
        history=found.history,
        stop_reason=found.stop_reason,
        n_evaluations=count,
        modes=modes,
        opinions={o.name: Estimate(o.value, o.stderr) for o in found.opinions},
        warnings=tuple(sentences),
    )


def _restored(coordinates: Preconditioner, y: np.ndarray) -> np.ndarray:
    return (y @ np.asarray(coordinates.factor).T + np.asarray(coordinates.mean)).astype(np.float32)


@eqx.filter_jit
def _in_parameters(model: UnconstrainedDensity, z: Array):
    """Points as vectors and in the user's structure, and the bijection's log-determinants."""
    points, draws = model.parameters(z)
    log_det = jax.vmap(jax.vmap(lambda z: model.bijection.transform_and_log_det(z)[1]))(z)
    return points, draws, log_det


def _log_partition(
    found: _Found,
    proposal: Proposal,
    kernel: AssistedKernel,
    coordinates: Preconditioner,
    weighed: _Weighed,
    drawn: AssistedDraws,
    z: np.ndarray,
) -> tuple[LogPartition, list[str]]:
    r"""$\log Z$ by importance sampling, beside what other ways say of it."""
    if not np.any(np.isfinite(weighed.log_weights)):
        unknown = LogPartition(math.nan, math.nan, 0.0, math.inf, N_IMPORTANCE)
        return unknown, [
            f"The density has no mass at any of {N_IMPORTANCE} draws of the proposal, so log Z "
            "cannot be estimated."
        ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EstimateWarning)
        log_z = LogPartition.from_log_weights(jnp.asarray(weighed.log_weights, jnp.float32))
    sentences = [str(w.message) for w in caught if issubclass(w.category, EstimateWarning)]
    if isinstance(kernel.proposal, EllipticalMixture):
        log_q = proposal.mixture.log_prob(z.reshape(-1, z.shape[-1])).reshape(z.shape[:2])
        of_draws = drawn.logdensity - float(coordinates.log_det) - log_q
    else:
        of_draws = drawn.logdensity - _log_q(kernel.proposal, jnp.asarray(drawn.position))
        of_draws = np.asarray(of_draws, float)
    found.opinions.insert(0, Opinion("importance sampling", log_z.value, log_z.stderr))
    if np.all(np.isfinite(of_draws)):
        bridged = bridge(weighed.log_weights, np.asarray(of_draws))
        found.opinions.append(
            Opinion("bridge sampling", float(bridged.value), float(bridged.stderr))
        )
    base = found.opinions[0]
    doubts = []
    for other in found.opinions[1:]:
        gap = abs(other.value - base.value)
        if gap > DISAGREE * math.hypot(base.stderr, other.stderr):
            doubts.append((gap, other))
    if doubts:
        widest = max(gap for gap, _ in doubts)
        said = ", ".join(f"{o.name} {o.value:.3f} ± {o.stderr:.3f}" for _, o in doubts)
        sentences.append(
            f"Estimates of log Z disagree: importance sampling has {base.value:.3f} ± "
            f"{base.stderr:.3f}, {said}. At least one of them misses some of the mass; the error "
            f"that is reported, {widest:.3f}, covers both."
        )
        log_z = log_z._replace(stderr=math.hypot(log_z.stderr, widest))
    return log_z, sentences


@eqx.filter_jit
def _log_q(proposal: AbstractDistribution, y: Array) -> Array:
    return jax.lax.map(jax.vmap(proposal.log_prob), y)


def _modes(
    work: _Work, found: _Found, proposal: Proposal, weighed: _Weighed, z: np.ndarray
) -> tuple[tuple[SampledMode, ...], list[str]]:
    """Each mode's weight by importance sampling, beside what chains and explorations say."""
    mixture, n_modes = proposal.mixture, proposal.modes.n
    finite = np.isfinite(weighed.log_weights)
    if not finite.any():
        return (), []
    shares = np.exp(weighed.log_weights - np.max(weighed.log_weights[finite]))
    shares /= shares.sum()
    labels = mixture.modes_of(weighed.position.astype(float))
    of_draws = mixture.modes_of(z.reshape(-1, z.shape[-1]).astype(float)).reshape(z.shape[:2])
    population = found.population
    heavy = population.log_weights > population.log_weights.max() - 25
    of_points = mixture.modes_of(population.position[heavy].astype(float))
    weights = population.shares()[heavy]
    run = population.run[heavy]
    n, n_effective = len(shares), 1 / np.sum(shares**2)
    modes, sentences = [], []
    for mode in range(n_modes):
        own = labels == mode
        weight = float(shares[own].sum())
        stderr = float(np.sqrt(np.sum(shares**2 * (own - weight) ** 2) * n / (n - 1)))
        if not own.any() or weight == 0:
            # What no draw has hit may have as much as three of them.
            stderr = 3.0 / n_effective
        per_chain = (of_draws == mode).mean(axis=1)
        chain_weight = float(per_chain.mean())
        chain_error = (
            float(per_chain.std(ddof=1) / len(per_chain) ** 0.5) if len(per_chain) > 1 else math.inf
        )
        gap = abs(chain_weight - weight)
        origins = [per_chain[0::2], per_chain[1::2]]
        if min(map(len, origins)) > 3:
            means = [o.mean() for o in origins]
            spread = math.hypot(*(o.std(ddof=1) / len(o) ** 0.5 for o in origins))
            if abs(means[0] - means[1]) > 4 * spread + 0.02:
                sentences.append(
                    f"Chains that began at proposals have {means[0]:.3f} of their draws in mode "
                    f"{mode}, those that began where exploration was {means[1]:.3f}: they do "
                    "not mix."
                )
        if gap > DISAGREE * math.hypot(stderr, chain_error) + 0.01:
            sentences.append(
                f"Mode {mode} has weight {weight:.3f} ± {stderr:.3f} by importance sampling and "
                f"{chain_weight:.3f} ± {chain_error:.3f} of the chains' draws."
            )
            stderr = max(stderr, gap)
        by_run = [
            float(weights[(of_points == mode) & (run == r)].sum())
            for r in range(int(run.max()) + 1)
        ]
        centre = (
            np.average(weighed.position[own], axis=0, weights=shares[own])
            if weight
            else (proposal.modes.representatives()[mode][0])
        )
        centre = work.target.model.bijection.transform(jnp.asarray(centre, jnp.float32))
        missed = [w * len(by_run) < 0.02 * weight for w in by_run]
        if weight > 0.01 and any(missed):
            place = np.array2string(np.asarray(centre)[:6], precision=3)
            whom = "one of two explorations" if not all(missed) else "exploration"
            sentences.append(
                f"Mode {mode}, of weight {weight:.3f} around {place}, was missed by {whom}"
                f"{' and found by climbs' if all(missed) else ''}: there may be more of its kind."
            )
        own_shares = shares[own]
        modes.append(
            SampledMode(
                weight=weight,
                stderr=stderr,
                centre=np.asarray(centre),
                effective=float(own_shares.sum() ** 2 / np.sum(own_shares**2)) if weight else 0.0,
                of_draws=chain_weight,
                is_missed=all(missed),
                of_explorations=tuple(w * len(by_run) for w in by_run),
            )
        )
    order = sorted(range(n_modes), key=lambda mode: -modes[mode].weight)
    return tuple(modes[mode] for mode in order), sentences


def _without_gradient(work: _Work, population: Population, rng: np.random.Generator) -> list[str]:
    """The parameters whose gradient is not a number at points of the population."""
    if not work.calls.has_gradient:
        return []
    rows = population.rows(rng, 8)
    wrong = np.zeros(population.position.shape[1])
    for row in rows:
        _, gradient = work.calls.value_and_grad(population.position[row])
        wrong += ~np.isfinite(gradient)
    return [name for name, count in zip(work.target.names, wrong, strict=True) if count > 4]


def _said_of_density(work: _Work, no_gradient: list[str]) -> list[str]:
    """What is wrong with the function itself."""
    sentences = []
    calls = work.calls
    if no_gradient:
        sentences.append(
            f"The gradient of log_density is not a number in {', '.join(no_gradient)}: chains "
            "move at random there, and no flow can be trained. Look for square roots of zero, "
            "or 0/0 in an unused branch."
        )
    if calls.n_nan > SOME_NAN * calls.n_values:
        sentences.append(
            f"log_density was not a number at {calls.n_nan} of {calls.n_values} points that were "
            "proposed, which were taken to have no mass."
        )
    return sentences
