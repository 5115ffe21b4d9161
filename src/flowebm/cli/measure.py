"""What a fitted model is worth, as the numbers of one table."""

import warnings
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import jax
import jax.random as jr
import numpy as np
import pandas as pd
from jaxtyping import Float

from flowebm.data import AbstractTarget, Standardise
from flowebm.data.columns import Columns
from flowebm.estimator import FlowEBM
from flowebm.evaluation import (
    HeldOut,
    LogPartition,
    bits_per_dimension,
    kl_divergence,
    log_partition,
    mode_weights,
    total_variation,
)
from flowebm.evaluation.held_out import nll_of_energies
from flowebm.models import EBFlow
from flowebm.progress import OnProgress


@dataclass
class Measures:
    """Measures of a model, made on the model and on points that it was not fitted to.

    Attributes:
        values: Numbers by name, as `evaluation.json` has them.
        warnings: Why some of them may not be believed, one sentence each.
    """

    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def measure(
    seed: int,
    estimator: FlowEBM,
    test: Float[np.ndarray, "n d"],
    *,
    log_z: LogPartition | None = None,
    target: AbstractTarget | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Measures:
    """Measure a fitted model.

    Args:
        seed: Seed of all draws.
        estimator: The fitted model.
        test: Held-out points in the data's units, one a row.
        log_z: Its log-normaliser; estimated from fresh draws of the flow if not given.
        target: The truth, where it is known.
        on_progress: Told the measures made and the measures in all.

    Returns:
        Held-out NLL with its 95% interval, log Z with its diagnostics, and against a truth
        the mode weights, their total variation and the KL divergence.

    Raises:
        ValueError: If there are fewer than two test points.
    """
    z_key, weights_key, kl_key = jr.split(jr.fold_in(jr.key(seed), 3), 3)
    saved = estimator.saved_
    measures = Measures()
    has_modes = target is not None and target.mode_weights is not None
    done, total = count(), 2 + (target is not None) + has_modes
    on_progress(next(done), total)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if log_z is None and isinstance(saved.model, EBFlow):
            log_z = LogPartition.exact(saved.log_partition)
        if log_z is None:
            log_z = log_partition(z_key, saved.model, saved.proposal)
        on_progress(next(done), total)
        values = _likelihood(estimator, test, log_z)
        on_progress(next(done), total)
        if target is not None:
            values["kl"] = kl_divergence(
                kl_key, target, estimator.model_, log_partition=log_z
            )._asdict()
            on_progress(next(done), total)
        if target is not None and target.mode_weights is not None:
            true = np.asarray(target.mode_weights)
            fitted = mode_weights(
                weights_key, estimator.model_, estimator.flow_, target.mode, len(true)
            )
            values["mode_weights"] = {
                "true": true,
                "fitted": fitted.weights,
                "stderr": fitted.stderr,
                "total_variation": total_variation(
                    target.mode_weights, jax.numpy.asarray(fitted.weights)
                ),
                "khat": fitted.khat,
            }
            on_progress(next(done), total)
    measures.values = values
    sentences = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    measures.warnings = list(dict.fromkeys(sentences))
    return measures


def _likelihood(estimator: FlowEBM, test: np.ndarray, log_z: LogPartition) -> dict[str, Any]:
    saved = estimator.saved_
    if isinstance(saved.preprocessing, Columns):
        # Of the log-densities that are known already the mean is taken, with its error.
        names = getattr(estimator, "feature_names_in_", None)
        rows = test if names is None else pd.DataFrame(test, columns=names)
        # Of the estimator's own log Z another one may have been made.
        log_density = estimator.score_samples(rows) + estimator.log_partition_
        in_data_units = _held_out(log_density, log_z)
        return {
            "nll": _interval(in_data_units),
            "test_points": len(test),
            "log_partition": log_z._asdict(),
        }
    points = estimator.continuous_rows(test.reshape(-1, *saved.shape))
    # As `FlowEBM.score_samples` has them: columns may have more digits than single precision.
    names = getattr(estimator, "feature_names_in_", None)
    rows = pd.DataFrame(test, columns=None if names is None else list(names))
    energies = -(estimator.score_samples(rows) + estimator.log_partition_)
    in_data_units = nll_of_energies(energies, log_z)
    values: dict[str, Any] = {"nll": _interval(in_data_units)}
    if isinstance(saved.preprocessing, Standardise):
        standardised = energies + saved.preprocessing.log_det_rows(points)
        values["nll_standardised"] = _interval(nll_of_energies(standardised, log_z))
    if len(saved.shape) > 1:
        width = int(np.prod(saved.shape))
        values["bits_per_dimension"] = {
            name: None if number is None else bits_per_dimension(number, width)
            for name, number in values["nll"].items()
        }
    values["test_points"] = len(test)
    values["log_partition"] = log_z._asdict()
    return values


def _held_out(log_prob: Float[np.ndarray, " n"], log_z: LogPartition) -> HeldOut:
    """The mean of log-densities without their normaliser; infinite if a row is impossible."""
    if np.isneginf(log_prob).any():
        return HeldOut(np.inf, np.inf, np.inf, np.inf)
    return nll_of_energies(-log_prob, log_z)


def _interval(held_out: HeldOut) -> dict[str, float | None]:
    return {
        "value": held_out.nll,
        "stderr": held_out.stderr,
        "lower": held_out.lower,
        "upper": held_out.upper,
    }
