"""`flowebm.sample`: from any log-density to draws of all its modes, and its log Z."""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import paramax
from flowjax.bijections import AbstractBijection, Chain, TriangularAffine
from flowjax.distributions import AbstractDistribution, Normal, StudentT, Transformed
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree, Scalar

from flowebm.compiled_programs import free_programs_if_many
from flowebm.evaluation.diagnostics import chain_diagnostics
from flowebm.evaluation.estimate import EstimateWarning
from flowebm.evaluation.log_partition import LogPartition, log_partition
from flowebm.models.flows import make_flow
from flowebm.models.unconstrained import UnconstrainedDensity
from flowebm.refusal import Refused
from flowebm.samplers.assisted_draws import (
    AssistedDraws,
    AssistedKernel,
    assisted_draws,
    start_chains,
)
from flowebm.samplers.population import LEAPFROG_STEPS
from flowebm.samplers.preconditioner import Preconditioner, StandardisedDensity, preconditioner
from flowebm.training.adaptive_sampling import AdaptiveSamplingTrainer
from flowebm.training.driver import Limits, Observers, Outcome, drive
from flowebm.training.optimizers import clipped_adam
from flowebm.training.progress import OnBlock, progress_observer
from flowebm.training.sampling_options import SamplingOptions
from flowebm.training.sampling_result import SamplingResult
from flowebm.training.sampling_target import sampling_target

#: Share of a time budget that the warm-up may take.
WARM_UP_BUDGET = 0.7

#: Iterations of a compiled block of the warm-up, and blocks of kept draws.
BLOCK_LENGTH = 20
DRAW_BLOCKS = 10

#: Degrees of freedom of the heavy-tailed part of the proposal.
TAIL_DF = 5.0

#: Draws of the flow behind log Z.
N_IMPORTANCE = 20_000


def sample(
    key: PRNGKeyArray,
    log_density: Callable[[Any], Scalar],
    initial: int | PyTree[ArrayLike],
    *,
    bounds: tuple[PyTree[ArrayLike], PyTree[ArrayLike]] | None = None,
    bijection: AbstractBijection | None = None,
    n_chains: int = 32,
    n_draws: int = 500,
    thin: int = 1,
    options: SamplingOptions | None = None,
    flow: AbstractDistribution | None = None,
    max_steps: int = 500,
    time_budget: float | None = None,
    progress_bar: bool = True,
) -> SamplingResult:
    r"""Sample a density known up to its constant, all of its modes in their proportions.

    The warm-up moves a population from a wide normal to the target through a ladder of
    temperatures, refitting a normalizing flow to it at each, and then goes on at the target
    until the flow's proposals get no better. Flow, step size and coordinates are then frozen,
    and chains alternate a global move that the flow proposes (independence Metropolis or i-SIR)
    with local ones (MALA, HMC or NUTS). Both leave the target invariant. The frozen flow also
    estimates $\log Z$ by importance sampling.

    Args:
        key: Random key; with the inputs it determines the result on a given device, unless a
            time budget cuts in.
        log_density: Maps one point to its log-density up to a constant, in nats: a function
            that JAX can trace and differentiate.
        initial: One point, an array or any pytree of arrays, of which the points have the
            structure; or a number $d$, for points of shape `(d,)` and a start around the origin.
            The warm-up starts from a wide normal around it.
        bounds: Lower and upper bounds, each one number for all, an array that broadcasts
            against the point's vector, or a pytree of the point's structure; infinite for none.
        bijection: Instead of bounds, a flowjax bijection from all of space to points, as
            vectors of shape `(d,)`.
        n_chains: Chains of kept draws.
        n_draws: Kept draws of each.
        thin: Steps of a chain for each kept draw.
        options: Choices of the method.
        flow: A flow over standardised points of shape `(d,)` to train; spline couplings by
            default.
        max_steps: Iterations of the warm-up at most.
        time_budget: Seconds at most, compilation included; at least one draw block is made.
        progress_bar: Whether to show progress, on standard error.

    Returns:
        Draws in the user's space with their diagnostics, $\log Z$ with its error, and the flow.

    Raises:
        TypeError: If `log_density` is no function or returns no real number.
        ValueError: If it cannot be evaluated at the initial point, is not a number there or is
            not scalar, or bounds, bijection or counts do not fit.

    Warns:
        EstimateWarning: If $\hat R > 1.01$, an ESS is too small, $\hat k > 0.7$, or the warm-up
            did not reach the target.

    Source: Gabrié, Rotskoff, Vanden-Eijnden (2022), *Adaptive Monte Carlo augmented with
    normalizing flows*; Samsonov et al. (2022), *Local-global MCMC kernels: the best of both
    worlds*.
    """
    free_programs_if_many()
    options = options or SamplingOptions()
    for name, count in (("n_chains", n_chains), ("thin", thin), ("max_steps", max_steps)):
        if count < 1:
            raise Refused(f"{name} must be 1 or more; got {count}.")
    if n_draws < 4:
        raise Refused(f"n_draws must be 4 or more, for diagnostics; got {n_draws}.")
    started = time.monotonic()
    flow_key, start_key, warm_up_key, chain_key, draw_key, log_z_key = jr.split(key, 6)
    target, centre = sampling_target(log_density, initial, bounds, bijection)
    trainer = _trainer(flow_key, start_key, target, centre, flow, options)
    with progress_observer(quiet=not progress_bar) as on_block:
        budget = None if time_budget is None else WARM_UP_BUDGET * time_budget
        outcome = drive(
            warm_up_key,
            trainer,
            Limits(max_steps, budget, None, min(BLOCK_LENGTH, max_steps)),
            Observers(on_block=[on_block]),
        )
        kernel, coordinates = _frozen(trainer, outcome)
        positions = coordinates.standardise(outcome.state.inner.positions)
        positions = _chosen(chain_key, positions, n_chains)
        deadline = None if time_budget is None else started + time_budget
        drawn, n_steps = _draws(draw_key, kernel, positions, n_draws, thin, deadline, on_block)
    result = _result(log_z_key, trainer, outcome, kernel, coordinates, drawn, n_steps)
    for sentence in result.warnings:
        warnings.warn(sentence, EstimateWarning, stacklevel=2)
    return result


def _trainer(
    flow_key: PRNGKeyArray,
    start_key: PRNGKeyArray,
    target: UnconstrainedDensity,
    centre: Array,
    flow: AbstractDistribution | None,
    options: SamplingOptions,
) -> AdaptiveSamplingTrainer:
    shape = target.shape
    if flow is None:
        flow = make_flow("spline-coupling", shape, key=flow_key)
    if tuple(flow.shape) != shape or flow.cond_shape is not None:
        raise Refused(
            f"The flow must be unconditional and over points of shape {shape}; its points have "
            f"shape {tuple(flow.shape)}."
        )
    start = paramax.unwrap(Normal(centre, options.initial_scale))
    data = start.sample(start_key, (options.n_particles,))
    mass = jnp.isfinite(jax.vmap(target.unnormalized_log_prob)(data))
    if not bool(mass.any()):
        raise Refused(
            f"log_density is not finite at any of {options.n_particles} points around the "
            f"initial one (a normal of standard deviation {options.initial_scale:g} in "
            "unconstrained coordinates): give another initial point, a smaller "
            "options.initial_scale, or the bounds of the parameters."
        )
    flow_batch = min(options.flow_batch, options.n_particles // options.n_flow_steps)
    return AdaptiveSamplingTrainer(
        target=target,
        start=start,
        flow=flow,
        wide=paramax.non_trainable(StudentT(jnp.full(shape, TAIL_DF))),
        data=data,
        optimizer=clipped_adam(5.0, options.flow_learning_rate),
        options=options,
        batch_size=flow_batch * options.n_flow_steps,
    )


def _frozen(
    trainer: AdaptiveSamplingTrainer, outcome: Outcome
) -> tuple[AssistedKernel, Preconditioner]:
    """The kernel as the warm-up left it."""
    options, state = trainer.options, outcome.state.inner
    coordinates = preconditioner(state.moments)
    kernel = AssistedKernel(
        model=StandardisedDensity(trainer.target, coordinates),
        proposal=trainer.proposal(state.average),
        step_size=state.step_size.step_size,
        global_kernel=options.global_kernel,
        n_proposals=options.n_proposals,
        local_kernel=options.local_kernel,
        n_local=options.n_local,
    )
    return kernel, coordinates


def _chosen(key: PRNGKeyArray, positions: Array, n_chains: int) -> Array:
    """So many particles, none twice while there are others."""
    n = positions.shape[0]
    rounds = -(-n_chains // n)
    rows = jnp.concatenate([jr.permutation(k, n) for k in jr.split(key, rounds)])
    return positions[rows[:n_chains]]


def _draws(
    key: PRNGKeyArray,
    kernel: AssistedKernel,
    positions: Array,
    n_draws: int,
    thin: int,
    deadline: float | None,
    on_block: OnBlock,
) -> tuple[AssistedDraws, int]:
    """Blocks of draws, until there are enough or the time is up; and how many steps that took."""
    started = time.monotonic()
    # Blocks of one length, of which one program is compiled; what is too much is dropped.
    length = max(4, -(-n_draws // DRAW_BLOCKS))
    chains = start_chains(kernel.model, positions)
    blocks: list[AssistedDraws] = []
    for block in range(-(-n_draws // length)):
        chains, drawn = assisted_draws(jr.fold_in(key, block), kernel, chains, length, thin)
        blocks.append(jax.block_until_ready(drawn))
        now = time.monotonic()
        done = min(n_draws, length * len(blocks))
        on_block("draws", {"iteration": done, "seconds": now - started}, n_draws)
        if deadline is not None and now >= deadline:
            break
    drawn = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:n_draws], *blocks)
    return drawn, length * len(blocks) * thin


def _result(
    key: PRNGKeyArray,
    trainer: AdaptiveSamplingTrainer,
    outcome: Outcome,
    kernel: AssistedKernel,
    coordinates: Preconditioner,
    drawn: AssistedDraws,
    n_steps: int,
) -> SamplingResult:
    target = trainer.target
    drawn = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), drawn)
    z = coordinates.restore(drawn.position)
    points, draws = target.parameters(z)
    log_det = jnp.vectorize(
        lambda z: target.bijection.transform_and_log_det(z)[1], signature="(d)->()"
    )(z)
    log_z, sentences = _log_partition(key, kernel)
    diagnostics = chain_diagnostics(points)
    if (sentence := diagnostics.warning()) is not None:
        sentences = [sentence, *sentences]
    temperature = float(outcome.state.inner.temperature)
    if temperature < 1:
        sentences = [
            f"The warm-up ended at temperature {temperature:.3g} of 1 ({outcome.stop_reason}), "
            "before it reached the target; its draws are not to be trusted: give more max_steps "
            "or time, or a smaller initial_scale.",
            *sentences,
        ]
    standardised = TriangularAffine(coordinates.mean, coordinates.factor)
    return SamplingResult(
        draws=draws,
        log_density=drawn.logdensity - coordinates.log_det - log_det,
        log_partition=log_z,
        diagnostics=diagnostics,
        global_acceptance=drawn.global_acceptance,
        local_acceptance=drawn.local_acceptance,
        flow=Transformed(kernel.proposal, Chain([standardised, target.bijection])),
        history=outcome.history,
        stop_reason=outcome.stop_reason,
        n_evaluations=_n_evaluations(
            trainer.options, int(outcome.state.iteration), n_steps, drawn.logdensity.shape[0]
        ),
        warnings=tuple(sentences),
    )


def _log_partition(key: PRNGKeyArray, kernel: AssistedKernel) -> tuple[LogPartition, list[str]]:
    r"""$\log Z$ from fresh draws, and what is to be said against it."""
    proposal = kernel.proposal
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EstimateWarning)
        try:
            log_z = log_partition(key, kernel.model, proposal, n=N_IMPORTANCE)
        except ValueError as error:
            # The draws are worth having all the same.
            unknown = LogPartition(math.nan, math.nan, 0.0, math.inf, N_IMPORTANCE)
            return unknown, [str(error)]
    return log_z, [str(w.message) for w in caught if issubclass(w.category, EstimateWarning)]


def _n_evaluations(
    options: SamplingOptions, n_iterations: int, n_steps: int, n_chains: int
) -> int | None:
    """Evaluations of the log-density: of the checks, the warm-up, the draws and log Z."""
    local = {"mala": 1, "hmc": LEAPFROG_STEPS}.get(options.local_kernel)
    if local is None:
        return None
    proposals = options.n_proposals if options.global_kernel == "isir" else 1
    step = proposals + 1 + options.n_local * local
    # At the door: the initial point, and the particles where they start.
    checks = 1 + options.n_particles
    # A step of the warm-up also weighs where the particles are.
    warm_up = n_iterations * options.n_particles * (step + 1)
    return checks + warm_up + n_chains * (1 + n_steps * step) + N_IMPORTANCE
