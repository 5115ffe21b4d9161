"""Missing entries of points and of rows, drawn from a model given the entries observed."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Scalar

from flowebm.data import LogitPixels, Standardise
from flowebm.data.columns import Columns
from flowebm.models.energy import AbstractEnergyModel, as_energy_model
from flowebm.models.random_start import seed_of
from flowebm.refusal import Refused
from flowebm.samplers import flow_isir, local_global
from flowebm.samplers import step_size as step_sizes
from flowebm.samplers.closed_form import ClosedForm
from flowebm.samplers.hot_deck import hot_deck
from flowebm.samplers.image_particles import ImageParticles
from flowebm.samplers.kernel import LOCAL
from flowebm.samplers.model_samples import sample_model
from flowebm.samplers.proposal import FunctionProposal

#: Samples of the model among which donors are sought.
POOL = 4096


class Imputation(NamedTuple):
    """Points with their missing entries drawn.

    Attributes:
        draws: Complete points: independent chains' last states along the first axis.
        global_acceptance: Each chain's mean probability of taking a fresh candidate in a global
            move, after the warm-up. Its product with the number of steps is the expected number
            of moves between modes; far below one, a draw is in the mode that it started in.
        local_acceptance: Each chain's mean acceptance rate of Langevin steps, after the warm-up.
    """

    draws: Float[Array, "draws n *shape"]
    global_acceptance: Float[Array, "draws n"]
    local_acceptance: Float[Array, "draws n"]


def impute(
    key: PRNGKeyArray,
    model: AbstractEnergyModel | Callable[[Array], Scalar],
    points: Float[Array, "n *shape"],
    missing: Bool[Array, "n *shape"],
    *,
    n_draws: int = 1,
    n_steps: int = 100,
    n_local: int = 4,
    n_candidates: int = 4,
    proposal: AbstractDistribution | None = None,
    donors: Float[Array, "pool *shape"] | None = None,
    step_size: float = 0.1,
    batch_size: int = 512,
    on_progress: Callable[[int, int], None] | None = None,
) -> Imputation:
    r"""Draw the missing entries of points from the model's conditional distribution.

    $$x_m \sim p(x_m \mid x_o) \propto e^{-E(x_m, x_o)}$$

    Observed entries stay bit for bit. Every draw is the end of a chain of its own, each step of
    which is a global move between modes and `n_local` of MALA on the missing entries alone.

    What is missing often has several modes, and Langevin steps stay in the one where they start.
    So each chain has a *hot deck*: donors chosen at random among samples of the model, the more
    likely the closer their observed part is to the point's. It starts at a donor's missing part,
    and its global moves are i-SIR with candidates from a density that is known exactly, Gaussian
    kernels about the donors' missing parts mixed with one wide Gaussian. Both kinds of move leave
    the conditional distribution invariant, so the weights of its modes become the model's own as
    far as global moves are accepted. With many missing entries that depend on one another, as
    half an image has, none is: the draws' mode weights then stay those of the donors, an estimate
    by nearest neighbours, and within each mode the draws follow the model. `global_acceptance`
    tells which.

    Args:
        key: Random key.
        model: The model, or a function of one point that returns its log-density up to a
            constant.
        points: One a row, in the model's (preprocessed) space; missing entries may be anything.
        missing: True where an entry is missing. A point with no entry observed becomes a sample.
        n_draws: Draws of each point.
        n_steps: Steps of a chain. MALA's step size adapts during the first half, for each chain,
            and then stays.
        n_local: MALA steps in each of them.
        n_candidates: Candidates of a global move.
        proposal: The model's flow, to draw the samples with; not needed where the model is
            itself a distribution, as an EBFlow is.
        donors: Complete points to choose donors from, in the place of the model's samples.
        step_size: MALA's first step size, in units of the donors' variances.
        batch_size: Chains that run at once; sets the memory in use.
        on_progress: Told the chains done and the chains in all, after each batch.

    Returns:
        The draws and the acceptance rates.

    Raises:
        ValueError: If shapes do not fit, a number is too small, or there is nothing to draw
            donors from.

    Source: Chao et al. (2023), for Langevin imputation; Samsonov et al. (2022), algorithm 2,
    for its composition with i-SIR; Andridge, Little (2010), for hot decks.
    """
    points, missing = jnp.asarray(points, float), jnp.asarray(missing, bool)
    if points.shape != missing.shape or points.ndim < 2:
        raise Refused(
            f"points has shape {points.shape} and missing {missing.shape}: both must be "
            "(n, *shape), one point a row."
        )
    least = {"n_draws": (n_draws, 1), "n_steps": (n_steps, 2), "n_local": (n_local, 1)}
    least |= {"n_candidates": (n_candidates, 1), "batch_size": (batch_size, 1)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise Refused(f"{name} must be {minimum} or more; got {value}.")
    model = as_energy_model(model, points.shape[1:])
    deck_key, chain_key = jr.split(key)
    if donors is None:
        donors = _model_samples(deck_key, model, proposal)
    if donors.shape[1:] != points.shape[1:] or len(donors) < 2:
        raise Refused(
            f"donors has shape {donors.shape}: it must have two rows or more of shape "
            f"{points.shape[1:]}."
        )
    n_chains = n_draws * len(points)
    batch_size = min(batch_size, n_chains)
    # Chains beyond the last fill up its batch, so that one program serves all batches.
    n_batches = -(-n_chains // batch_size)
    rows = (jnp.arange(n_batches * batch_size) % len(points)).reshape(n_batches, batch_size)
    batches = []
    for keys, batch_rows in zip(jr.split(chain_key, (n_batches, batch_size)), rows, strict=True):
        batch = _impute(
            keys,
            model,
            jnp.where(missing, 0.0, points)[batch_rows],
            missing[batch_rows],
            jnp.asarray(donors, points.dtype),
            jnp.asarray(step_size),
            (n_steps, n_local, n_candidates),
        )
        batches.append(batch)
        if on_progress is not None:
            jax.block_until_ready(batch)
            on_progress(min(len(batches) * batch_size, n_chains), n_chains)
    return jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves)[:n_chains].reshape(
            n_draws, len(points), *leaves[0].shape[1:]
        ),
        *batches,
    )


def _model_samples(key, model, proposal):
    if isinstance(model, AbstractDistribution):
        return eqx.filter_jit(model.sample)(key, (POOL,))
    if proposal is None:
        raise Refused(
            "Donors are samples of the model, which needs a flow to be sampled: pass proposal= or "
            "donors=."
        )
    return sample_model(key, model, proposal, POOL).positions


@eqx.filter_jit
def _impute(keys, model, points, missing, donors, step_size, numbers):
    """One chain a key and point, all at once."""
    return jax.vmap(
        lambda key, point, gaps: _chain(key, model, point, gaps, donors, step_size, numbers)
    )(keys, points, missing)


def _chain(key, model, point, missing, donors, step_size, numbers) -> Imputation:
    """One chain of one point: its last state and its acceptance rates after the warm-up."""
    from blackjax.base import build_sampling_algorithm

    mala = LOCAL["mala"]
    n_steps, n_local, n_candidates = numbers
    deck_key, key = jr.split(key)
    deck = hot_deck(deck_key, point, missing, donors)

    # MALA has one step size for all entries: it moves them by units of what the donors vary.
    def restore(z):
        return jnp.where(missing, deck.start + deck.sd * z, point)

    def log_density(z):
        return model.unnormalized_log_prob(restore(z))

    def sample_and_log_prob(key):
        x, log_prob = deck.proposal.sample_and_log_prob(key)
        return (x - deck.start) / deck.sd, log_prob

    # The units' Jacobian is a constant, up to which the proposal's density is known anyway.
    proposal = FunctionProposal(lambda z: deck.proposal.log_prob(restore(z)), sample_and_log_prob)

    def local_step(key, state, log_density, step_size):
        # The density does not depend on the observed entries of its argument. MALA lets them
        # wander, with no part in the decision, and they are put back.
        state, info = mala.step(key, state, log_density, step_size)
        return state._replace(position=jnp.where(missing, state.position, 0.0)), info

    kernel = local_global.build_kernel(flow_isir.build_kernel(n_candidates))

    def step(carry, inputs):
        state, adaptation = carry
        key, adapts = inputs
        algorithm = build_sampling_algorithm(
            local_step, mala.init, log_density, kernel_args=(adaptation.step_size,)
        )
        state, info = kernel(key, state, log_density, proposal, algorithm, n_local)
        accepted = info.local_info.acceptance_rate
        adaptation = step_sizes.update(adaptation, accepted, adapts=adapts)
        return (state, adaptation), (info.global_info.acceptance_rate, accepted.mean())

    warm_up = n_steps // 2
    state = local_global.LocalGlobalState(mala.init(jnp.zeros_like(point), log_density))
    inputs = jr.split(key, n_steps), jnp.arange(n_steps) < warm_up
    (state, _), rates = jax.lax.scan(step, (state, step_sizes.init(step_size)), inputs)
    rates = [rate[warm_up:].mean() for rate in rates]
    return Imputation(restore(jnp.asarray(state.position)), *rates)


class ImputedRows(NamedTuple):
    """Rows with their missing entries drawn, on the host.

    Attributes:
        draws: Complete rows in double precision, one set of them along the first axis a draw;
            observed entries are those of the rows given, bit for bit.
        global_acceptance: As an `Imputation` has it; NaN for rows with nothing missing.
        local_acceptance: Likewise.
    """

    draws: Float[np.ndarray, "draws n *shape"]
    global_acceptance: Float[np.ndarray, "draws n"]
    local_acceptance: Float[np.ndarray, "draws n"]


def impute_rows(
    key: PRNGKeyArray,
    model: AbstractEnergyModel,
    proposal: AbstractDistribution,
    preprocessing: Standardise | LogitPixels | Columns,
    rows: Float[np.ndarray, "n *shape"],
    *,
    n_draws: int = 1,
    n_steps: int = 100,
    dequantised: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImputedRows:
    """`impute` in the units of the data, for rows whose missing entries are NaN.

    Where the model is a stack of mixtures of Gaussians its draws are exact, without chains; those
    of an autoregressive density of images are particles.

    Args:
        key: Random key.
        model: The model of preprocessed points.
        proposal: Its flow, over the same points.
        preprocessing: From the data's units to preprocessed points, entry by entry.
        rows: Points in the data's units, NaN where an entry is missing.
        n_draws: Draws of each row.
        n_steps: Steps of a chain.
        dequantised: Whether the model is one of whole numbers made continuous by noise, as it is
            under `LogitPixels`. Rows of whole numbers then are given noise for the model's sake,
            and their missing entries are drawn as whole numbers.
        on_progress: Told the chains done and the chains in all, after each batch.

    Returns:
        The draws and the acceptance rates.

    Raises:
        ValueError: If an observed entry is infinite or outside what the preprocessing takes, or
            as `impute` does.
    """
    if n_draws < 1:
        raise Refused(f"n_draws must be 1 or more; got {n_draws}.")
    rows = np.asarray(rows, np.float64)
    missing = np.isnan(rows)
    incomplete = np.flatnonzero(missing.reshape(len(rows), -1).any(axis=1))
    draws = np.repeat(rows[None], n_draws, axis=0)
    rates = np.full((2, *draws.shape[:2]), np.nan)
    if not incomplete.size:
        return ImputedRows(draws, *rates)
    rows, missing = rows[incomplete], missing[incomplete]
    noise_key, key = jr.split(key)
    dequantised |= isinstance(preprocessing, LogitPixels)
    is_whole = dequantised and bool((missing | (rows == np.floor(rows))).all())
    noise = np.asarray(jr.uniform(noise_key, rows.shape)) if is_whole else 0.0
    # The middle of the preprocessed space stands in for what is missing: it is always inside
    # the preprocessing's domain.
    middle = preprocessing.inverse_rows(np.zeros((1, *rows.shape[1:])))
    with np.errstate(all="ignore"):
        points = preprocessing.transform_rows(np.where(missing, middle, rows + noise))
    if not np.isfinite(points).all():
        row, *entry = np.argwhere(~np.isfinite(points))[0]
        raise Refused(
            f"The value {rows[(row, *entry)]:g} in row {incomplete[row] + 1} is outside the range "
            "of values that the model's data can have (rows counted from 1): correct it, or "
            "leave it out as missing."
        )
    closed_form, particles = ClosedForm.of(model), ImageParticles.of(model)
    if particles is not None and is_whole:
        gaps = np.where(missing, np.nan, rows)
        filled, effective = particles.fill(key, gaps, n_draws=n_draws, on_progress=on_progress)
        draws[:, incomplete] = np.where(missing, filled, rows)
        # No chain moves: what stands for its moves is the share of the particles that count.
        rates[:, :, incomplete] = effective
        return ImputedRows(draws, *rates)
    if closed_form is not None:
        # No chain is needed, and every draw is independent of the others.
        gaps = np.tile(np.where(missing, np.nan, points), (n_draws, 1))
        filled = closed_form.fill(np.random.default_rng(seed_of(key)), gaps)
        all_taken = np.ones((n_draws, len(points)))
        result = ImputedRows(filled.reshape(n_draws, *points.shape), all_taken, all_taken)
    else:
        result = impute(
            key,
            model,
            jnp.asarray(points, float),
            jnp.asarray(missing),
            n_draws=n_draws,
            n_steps=n_steps,
            proposal=proposal,
            on_progress=on_progress,
        )
    imputed = preprocessing.inverse_rows(np.asarray(result.draws, np.float64))
    if is_whole:
        imputed = np.floor(imputed)
    if is_whole and isinstance(preprocessing, LogitPixels):
        # The margin lets the last level's interval reach a little beyond itself.
        imputed = np.clip(imputed, 0, preprocessing.levels - 1)
    draws[:, incomplete] = np.where(missing, imputed, rows)
    rates[:, :, incomplete] = result.global_acceptance, result.local_acceptance
    return ImputedRows(draws, *rates)
