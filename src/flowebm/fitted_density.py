"""What a fitted model answers: log-densities of rows, and rows drawn from it.

It knows neither scikit-learn nor how a model is fitted, whose imports take longer than an answer.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.data.columns import Boxes, Columns
from flowebm.data.dequantise import dequantise
from flowebm.data.kinds import check_kind
from flowebm.data.logit_pixels import LogitPixels
from flowebm.models.batches import SIZES, in_batches
from flowebm.models.bounded import BoundedTilt, NoTilt, tilts
from flowebm.models.ebflow import EBFlow
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.saved import SavedModel
from flowebm.models.stack import log_probs
from flowebm.models.tilted import EnergyModel
from flowebm.progress import OnProgress
from flowebm.refusal import Refused
from flowebm.samplers.closed_form import ClosedForm
from flowebm.samplers.gap_mixture import GapMixture
from flowebm.samplers.model_samples import sample_model

#: Rows whose densities are evaluated before progress is told of.
BATCH_SIZE = SIZES[0]

#: Draws that estimate a probability, and how many more where the standard error of its logarithm
#: is large by these.
DRAWS, LARGE_ERROR = (16, 64, 256), 0.05

#: Samples of the model that a mixture is fitted to which proposes missing entries, and the share of
#: its draws that are twice as wide.
GAP_SAMPLES, GAP_WIDE = 5000, 0.2


class FittedDensity:
    """A fitted model in the units of its data.

    Args:
        saved: The model as it is saved.

    Attributes:
        saved: The same.
        width: Numbers in one row.
    """

    def __init__(self, saved: SavedModel):
        self.saved = saved
        self.width = int(np.prod(saved.shape))
        self._gaps: GapMixture | None = None

    @property
    def has_probabilities(self) -> bool:
        """Whether columns have whole numbers or piled-up values, of which there is no density."""
        preprocessing = self.saved.preprocessing
        return isinstance(preprocessing, Columns) and preprocessing.is_discrete

    @property
    def marginalises(self) -> bool:
        """Whether rows may have gaps, which are integrated over."""
        return self.saved.metadata.get("missing", "refuse") == "marginalise"

    def log_density(
        self,
        values: Float[np.ndarray, "n d"],
        names: Sequence[str],
        *,
        on_progress: OnProgress | None = None,
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Normalised log-density of every row, and its standard error but for that of $\\log Z$.

        What has a probability (a whole number, a piled-up value) and what is missing is integrated
        over by draws, of which the error is; all other log-densities are exact.

        Args:
            values: One point a row, in the model's columns.
            names: The columns' names, for messages.
            on_progress: Told the rows done and the rows in all, after each batch.

        Returns:
            One log-density a row, in nats, and its standard error.

        Raises:
            ValueError: If a value is none that its column can have.
        """
        saved = self.saved
        log_prob, stderr = np.empty(len(values)), np.zeros(len(values))
        if isinstance(saved.preprocessing, Columns):
            for i, column in enumerate(saved.preprocessing.columns):
                check_kind(values[:, i], column.kind, names[i])
            boxes = saved.preprocessing.boxes(values)
            for part in _parts(len(log_prob)):
                log_prob[part], stderr[part] = _integrals(
                    saved.model, boxes.rows(part), self._gap_mixture
                )
                if on_progress is not None:
                    on_progress(part.stop, len(log_prob))
            return log_prob - saved.log_partition, stderr
        rows = self.continuous_rows(values.reshape(-1, *saved.shape))
        # Standardised in double precision: a column's offset may have more digits than single
        # precision has.
        standardised = saved.preprocessing.transform_rows(rows)
        for part in _parts(len(rows)):
            log_prob[part] = unnormalised_log_probs(saved.model, standardised[part])
            log_prob[part] += saved.preprocessing.log_det_rows(rows[part])
            if on_progress is not None:
                on_progress(part.stop, len(rows))
        return log_prob - saved.log_partition, stderr

    def sample(
        self, seed: int, n: int, *, on_progress: OnProgress | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Draw independent samples.

        Args:
            seed: Seed of the draws.
            n: Number of samples.
            on_progress: Told the samples done and the samples in all, after each batch.

        Returns:
            One sample a row.
        """
        preprocessing = self.saved.preprocessing
        points = self._points(jr.key(seed), n, on_progress)
        rows = preprocessing.inverse_rows(np.asarray(points, np.float64))
        if isinstance(preprocessing, LogitPixels):
            rows = np.clip(np.floor(rows), 0, preprocessing.levels - 1)
        return rows.reshape(n, -1)

    def continuous_rows(self, rows: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n *shape"]:
        """Rows as the density takes them: with pixel levels, whole numbers get their noise.

        Args:
            rows: Points in the units of the data.

        Returns:
            Points of the same shape.

        Raises:
            ValueError: If pixels lie outside their levels.
        """
        preprocessing = self.saved.preprocessing
        if not isinstance(preprocessing, LogitPixels):
            return rows
        check_pixels(rows, preprocessing.levels)
        if not (rows == np.floor(rows)).all():
            return rows
        if self.saved.metadata.get("method") == "joint":
            # Its densities are the same all over a level.
            return rows + 0.5
        return dequantise(self.saved.metadata.get("seed", 0), rows)

    def _gap_mixture(self) -> GapMixture:
        """A mixture of normals of the model's samples, which proposes missing entries."""
        if self._gaps is None:
            points = self._points(jr.key(self.saved.metadata.get("seed", 0)), GAP_SAMPLES)
            rng = np.random.default_rng(0)
            self._gaps = GapMixture.fit(rng, np.asarray(points, np.float64))
        return self._gaps

    def _points(
        self, key: PRNGKeyArray, n: int, on_progress: OnProgress | None = None
    ) -> Float[Array, "n *shape"]:
        """Samples of the model over its own points."""
        saved = self.saved
        if isinstance(saved.model, EBFlow):
            return _exact_samples(key, saved.model, n, on_progress)
        return sample_model(key, saved.model, saved.proposal, n, on_progress=on_progress).positions


def check_pixels(rows: Float[np.ndarray, "n *shape"], levels: int) -> None:
    """Refuse pixels that lie outside their levels.

    Args:
        rows: Images, one a row.
        levels: The number of levels.

    Raises:
        ValueError: If there are such.
    """
    if rows.min() < 0 or rows.max() >= levels:
        raise Refused(
            f"Pixels of {levels} levels lie from 0 to {levels - 1}; these go from {rows.min():g} "
            f"to {rows.max():g}: give the right number of levels."
        )


def _parts(n: int) -> Iterator[slice]:
    """Parts of `n` rows, of `BATCH_SIZE` at most."""
    for start in range(0, n, BATCH_SIZE):
        yield slice(start, min(start + BATCH_SIZE, n))


def _integrals(
    model: Any, boxes: Boxes, gap_mixture: Callable[[], GapMixture]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    r"""Unnormalised log-densities of rows, and their standard errors.

    $\log \frac1R \sum_r p(z_r) e^{w_r}$ over draws in each row's box, and into its gaps, of which
    rows with a large error get more. Gaps need no draws where the model is a stack of mixtures.
    """
    value, stderr = np.empty(len(boxes.center)), np.zeros(len(boxes.center))
    are_points, log_probs_of = boxes.are_points, partial(unnormalised_log_probs, model)
    closed_form = ClosedForm.of(model) if np.isnan(boxes.center).any() else None
    if closed_form is not None:
        are_points, log_probs_of = (boxes.scale == 0).all(axis=1), closed_form.log_prob
    rng = np.random.default_rng(0)
    few, *more = DRAWS
    # A point is known by one draw.
    for n, choose in ((1, are_points), (few, ~are_points), *((n, None) for n in more)):
        rows = np.flatnonzero(stderr > LARGE_ERROR if choose is None else choose)
        if not len(rows):
            continue
        log_terms = []
        for points, log_weights in boxes.rows(rows).proposals(n):
            if closed_form is None and np.isnan(points).any():
                points, log_q = gap_mixture().fill(rng, points, wide=GAP_WIDE)
                log_weights = log_weights - log_q
            log_terms.append(log_probs_of(points) + log_weights)
        value[rows], stderr[rows] = _log_mean(np.stack(log_terms))
    return value, stderr


def _log_mean(log_terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of means along the first axis, and their standard errors."""
    highest = log_terms.max(axis=0)
    possible = ~np.isneginf(highest)
    terms = np.exp(log_terms - np.where(possible, highest, 0.0))
    mean = np.where(possible, terms.mean(axis=0), 1.0)
    stderr = np.where(possible, terms.std(axis=0) / mean, 0.0) / max(len(terms) - 1, 1) ** 0.5
    return np.log(mean) + highest, stderr


def _exact_samples(
    key: PRNGKeyArray, model: EBFlow, n: int, on_progress: OnProgress | None
) -> Float[Array, "n *shape"]:
    """Samples of an energy-based flow, by batches of bounded memory."""
    keys = jr.split(key, n)

    @eqx.filter_jit
    def sample(model, keys):
        # Factorised once a batch, whatever the number of samples in it.
        return jax.vmap(model.sample)(keys)

    batches = []
    for start in range(0, n, BATCH_SIZE):
        batches.append(sample(model, keys[start : start + BATCH_SIZE]))
        if on_progress is not None:
            jax.block_until_ready(batches[-1])
            on_progress(min(start + BATCH_SIZE, n), n)
    return jnp.concatenate(batches)


def unnormalised_log_probs(
    model: AbstractEnergyModel, points: Float[np.ndarray, "n *shape"]
) -> Float[np.ndarray, " n"]:
    """$-E(x)$ of every point, in double precision.

    Of a stack with a bounded tilt each part has a program of its own, which its fit has compiled.

    Args:
        model: The model.
        points: One a row, as the model takes them.
    """
    if isinstance(model, EnergyModel) and isinstance(model.tilt, NoTilt | BoundedTilt):
        return log_probs(model.base, points) - tilts(model.tilt, points)
    return in_batches(partial(_log_probs, model), points).astype(np.float64)


@eqx.filter_jit
def _log_probs(model, points):
    return jax.vmap(model.unnormalized_log_prob)(points)
