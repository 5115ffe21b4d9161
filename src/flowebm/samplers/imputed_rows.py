"""Rows with gaps, in the units of the data, filled with draws from a model."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Float, PRNGKeyArray

from flowebm.data import LogitPixels, Standardise
from flowebm.data.columns import Columns
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.random_start import seed_of
from flowebm.refusal import Refused
from flowebm.samplers.closed_form import ClosedForm
from flowebm.samplers.image_particles import ImageParticles
from flowebm.samplers.imputation import impute


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
