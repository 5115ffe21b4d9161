"""`FlowEBM`: the library behind scikit-learn's interface."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flowjax.distributions import AbstractDistribution
from jaxtyping import Float, PRNGKeyArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from flowebm.data import (
    LogitPixels,
    Split,
    Standardise,
    Table,
    check_table,
    check_weights,
    effective_rows,
    read_table,
    split,
)
from flowebm.data.columns import Columns
from flowebm.data.kinds import KindLike, check_kind, kinds_of, said_of_turns
from flowebm.evaluation.estimate import warn
from flowebm.evaluation.log_partition import LogPartition
from flowebm.fitted_density import FittedDensity, check_pixels
from flowebm.models.architecture import (
    Architecture,
    build,
    build_flow,
    build_model,
)
from flowebm.models.ebflow import EBFlow
from flowebm.models.ebflow_architecture import EBFlowArchitecture, build_ebflow
from flowebm.models.pickled import from_bytes, to_bytes
from flowebm.models.preprocessed import PreprocessedDistribution, PreprocessedModel
from flowebm.models.saved import SavedModel, load_model, save_model
from flowebm.models.tilted import EnergyModel
from flowebm.options import Count, Positive, Range, Share, check_options
from flowebm.progress import OnBlock, OnProgress, progress_callback
from flowebm.refusal import Refused
from flowebm.samplers.gap_mixture import GapMixture
from flowebm.samplers.image_particles import ImageParticles
from flowebm.samplers.imputation import impute_rows
from flowebm.samplers.normalised import NormalisedModel
from flowebm.training.balanced import BalancedOptions
from flowebm.training.budget import Budget
from flowebm.training.driver import Callbacks
from flowebm.training.fit_balanced import fit_balanced
from flowebm.training.fit_ebflow import (
    EBFlowOptions,
    ObjectiveName,
    fit_ebflow,
)
from flowebm.training.fit_joint import fit_joint
from flowebm.training.joint_options import JointOptions
from flowebm.training.result import FitResult
from flowebm.training.row_weights import rows_in_proportion

#: Rows that a fit needs at least: fewer can hardly be parted into training and validation rows.
MIN_ROWS = 8

#: Rows under which a fit warns: the validation part is then a handful.
FEW_ROWS = 50

#: How many times what has a probability, or is missing, gets its noise: minibatches are drawn from
#: all of them.
N_NOISES = 4

#: Iterations of a fit where neither steps nor a time budget are given.
DEFAULT_STEPS = {"joint": None, "balanced": 1000, "ebflow": 3000}

#: Evaluations without improvement before a fit stops, where none are given.
DEFAULT_PATIENCE = {"joint": None, "balanced": None, "ebflow": 20}


#: Choices of an architecture that joint training makes for itself.
_OF_BALANCED = (
    "base",
    "base_flow",
    "train_base",
    "flow",
    "flow_layers",
    "flow_width",
    "flow_depth",
    "flow_knots",
    "defensive_fraction",
)


class FlowEBM(DensityMixin, BaseEstimator):
    r"""A normalised density fitted to a table, with its mass in the right modes.

    $\log p(x) = -E(x) - \log Z$ in the units of the data: standardisation and its
    log-determinant are part of $E$, and $\log Z$ comes with a standard error.

    Args:
        method: How the model is fitted; `"joint"`: mixtures of Gaussians and autoregressive
            networks by maximum likelihood, a stack of them, and a bounded tilt of the stack;
            `"balanced"`: an energy model by flow-assisted maximum likelihood; `"ebflow"`: an
            energy-based flow by score matching.
        objective: What `"ebflow"` minimises: `"ml"`, `"sml"`, `"exact"`, `"ssm"`, `"dsm"` or
            `"fdssm"`; short for that choice in `options`, which tells the default.
        max_steps: Iterations at most; where no time budget is given 1000, and 3000 for
            `"ebflow"`, whose iterations are cheaper.
        time_budget: Seconds at most, compilation included.
        patience: Evaluations (one every 50 iterations) without a better validation NLL before
            the fit stops; `"never"` goes on until that NLL is clearly above the best, if it ever
            is. By default the method decides: 20 for `"ebflow"`, `"never"` for the others. The best
            model is kept in any case.
        architecture: What the model is made of; an `Architecture`, or for `"ebflow"` an
            `EBFlowArchitecture`.
        options: Choices of the method; a `JointOptions`, `BalancedOptions` or
            `EBFlowOptions`.
        columns: What kinds of values columns hold: `"auto"`, or a dict of kinds by the names or
            numbers of columns; the kinds of the others are found. A kind is `"real"`;
            `(low, high)`, either end `None`, for values between bounds; `"whole"` or
            `("whole", low, high)` for whole numbers; `"circular"` or `("circular", period)` for
            angles; or `"levels"` for a few values and no other. Whole numbers, and values that
            many rows share, are found.
        missing: What becomes of missing entries (NaN): `"refuse"`, or `"marginalise"`: rows are
            fitted by what they have, and scored by the marginal density of that.
        point_shape: Shape of one point where rows are flattened images; `None` for a table.
        pixel_levels: Number of levels (256) where the data are whole-number pixels. They are
            taken to the line by a logit, for `"ebflow"` after noise has made them continuous;
            densities are then those of the whole numbers, and samples are whole numbers. For
            `"joint"` and `"ebflow"`.
        validation_fraction: Share of the rows that choose the best model.
        callbacks: Progress, metrics and checkpoints; an `Callbacks`.
        random_state: Seed of everything random.
        verbose: Whether to show the fit's progress, on standard error.

    Attributes:
        model_: The energy model in the units of the data; where columns have probabilities, of
            the points that stand for rows.
        flow_: The proposal in the units of the data, or of these points; a flowjax distribution.
        columns_: What each column was taken for, in words.
        log_partition_: $\log Z$, nats.
        log_partition_stderr_: Its standard error, nats.
        history_: One row of metrics a block.
        result_: The `FitResult`, over standardised points.
        n_features_in_: Number of columns.
        feature_names_in_: Their names, if all columns of the data had one.

    Source: Grenioux, Moulines, Gabrié (2023) for `"balanced"` and the last stage of `"joint"`;
    Zahm et al. (2022) for its first; Chao et al. (2023) for `"ebflow"`.
    """

    _on_block: OnBlock

    def __init__(
        self,
        method: Literal["joint", "balanced", "ebflow"] = "joint",
        *,
        objective: ObjectiveName | None = None,
        max_steps: Count | None = None,
        time_budget: Positive | None = None,
        patience: Count | Literal["never"] | None = None,
        architecture: Architecture | EBFlowArchitecture | None = None,
        options: JointOptions | BalancedOptions | EBFlowOptions | None = None,
        columns: str | Mapping[str | int, KindLike] = "auto",
        missing: Literal["refuse", "marginalise"] = "refuse",
        point_shape: tuple[int, ...] | None = None,
        pixel_levels: Annotated[int, Range(least=2)] | None = None,
        validation_fraction: Share = 0.1,
        callbacks: Callbacks | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ):
        self.method = method
        self.objective = objective
        self.max_steps = max_steps
        self.time_budget = time_budget
        self.patience = patience
        self.architecture = architecture
        self.options = options
        self.columns = columns
        self.missing = missing
        self.point_shape = point_shape
        self.pixel_levels = pixel_levels
        self.validation_fraction = validation_fraction
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowEBM":
        """Fit the density to a table.

        Args:
            X: An array or data frame of shape (n, d), or the path of a table.
            y: Ignored.
            sample_weight: How much each row counts, 0 or more, in any unit. The weighted
                distribution is what is fitted, and what the validation likelihood measures;
                a row of weight zero is as if it were not there.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If the table or a parameter is refused, with one sentence that says why.
            TrainingDiverged: If training diverges again and again.
        """
        # What is read, checked and built takes seconds too.
        budget = Budget.of(self.time_budget)
        fit = self._fit_of_the_method()
        table = read_table(X)
        values, weights = self._rows_that_count(table, sample_weight)
        check_table(
            values,
            table.names,
            min_rows=MIN_ROWS,
            allow_missing=self.missing == "marginalise",
            # Pixels at the border of an image are often constant, which noise mends.
            allow_constant=self.pixel_levels is not None,
        )
        shape = self._shape(values.shape[1])
        few = self._warn_of_few_rows(len(values) if weights is None else effective_rows(weights))
        columns = self._find_columns(values, table.names, weights)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        split_key, build_key, fit_key = jr.split(jr.key(seed), 3)
        parts = split(split_key, values.reshape(-1, *shape), self.validation_fraction)
        parts = _Parts(parts.train, parts.validation, columns, seed, budget)
        # The same key makes the same parts of them.
        weight_parts = (
            None if weights is None else split(split_key, weights, self.validation_fraction)
        )
        with progress_callback(quiet=not self.verbose) as self._on_block:
            try:
                result, preprocessing, architecture = fit(build_key, fit_key, parts, weight_parts)
            finally:
                # It cannot be pickled.
                del self._on_block
        result = replace(result, warnings=(*few, *result.warnings))
        names = table.names if isinstance(X, str | Path) or _has_names(X) else None
        self._set_fitted(
            SavedModel(
                model=cast(EnergyModel | EBFlow, result.model),
                proposal=result.flow,
                preprocessing=preprocessing,
                log_partition=result.log_partition.value,
                log_partition_stderr=result.log_partition.stderr,
                **_diagnostics_of(result.log_partition),
                warnings=result.warnings,
                architecture=architecture,
                columns=names,
                metadata={"method": self.method, "seed": seed, "missing": self.missing},
            )
        )
        self.result_ = result
        self.history_ = result.history
        return self

    def _fit_of_the_method(self) -> Callable[..., "_Fitted"]:
        """The function that fits by `method`; refuses choices that belong to another."""
        check_options(self)
        methods = {
            "joint": (self._fit_joint, Architecture, JointOptions),
            "balanced": (self._fit_balanced, Architecture, BalancedOptions),
            "ebflow": (self._fit_ebflow, EBFlowArchitecture, EBFlowOptions),
        }
        fit, *kinds = methods[self.method]
        for name, kind in zip(("architecture", "options"), kinds, strict=True):
            value = getattr(self, name)
            if not isinstance(value, kind | None):
                raise TypeError(
                    f"The method {self.method!r} takes {name} of type {kind.__name__}; got a "
                    f"{type(value).__name__}."
                )
        if self.method != "ebflow":
            if self.objective is not None:
                raise Refused(
                    f"objective is for the method 'ebflow'; leave it out for {self.method!r}."
                )
            if self.method == "balanced" and self.pixel_levels is not None:
                raise Refused(
                    "pixel_levels is for the methods 'joint' and 'ebflow'; leave it out for "
                    "'balanced'."
                )
            if self.pixel_levels is not None and len(self.point_shape or ()) != 3:
                raise Refused(
                    "pixel_levels needs an image's point_shape, (channels, height, width), for "
                    "'joint'; rows of whole numbers that are no images need neither."
                )
        return fit

    def _rows_that_count(
        self, table: Table, sample_weight: Any
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"] | None]:
        """The rows of positive weight and their weights, `None` where all count alike."""
        values, weights = table.values, None
        if self.missing == "marginalise":
            # Nothing is known of rows without any entry.
            there = ~np.isnan(values).all(axis=1)
            if sample_weight is not None:
                sample_weight = check_weights(sample_weight, len(values))[there]
            values = values if there.all() else values[there]
        if sample_weight is None:
            return values, None
        check_table(
            values,
            table.names,
            min_rows=1,
            allow_constant=True,
            allow_missing=self.missing == "marginalise",
        )
        weights = check_weights(sample_weight, len(values))
        values, weights = values[weights > 0], weights[weights > 0]
        return values, None if (weights == weights[0]).all() else weights

    def _find_columns(
        self,
        values: Float[np.ndarray, "n d"],
        names: tuple[str, ...],
        weights: Float[np.ndarray, " n"] | None,
    ) -> Columns | None:
        """The kinds of the columns; `None` where standardisation is all that they need."""
        kinds = kinds_of(self.columns, names)
        if self.point_shape is not None or self.pixel_levels is not None:
            if kinds or self.missing != "refuse":
                raise Refused("columns and missing are for tables; leave them out for images.")
            return None
        for column, kind in kinds.items():
            check_kind(values[:, column], kind, names[column])
            sentence = said_of_turns(values[:, column], kind, names[column])
            if sentence is not None:
                self._warn(sentence)
            if kind.name == "circular" and self.method != "joint":
                raise Refused(f"Circular columns are for the method 'joint'; got {self.method!r}.")
        columns = Columns.fit(values, kinds, names, weights=weights)
        return None if columns.is_plain and self.missing == "refuse" else columns

    def _warn_of_few_rows(self, rows: float) -> tuple[str, ...]:
        """Refuse or warn of too little data: a number of rows, or what weighted rows are worth."""
        if rows < 2:
            raise Refused(
                f"The weighted rows are worth {rows:.2f} rows of even weight, which have no spread "
                "to fit: give less extreme weights."
            )
        if rows >= FEW_ROWS:
            return ()
        sentence = (
            f"{rows:.0f} rows are few: {max(1, round(rows * self.validation_fraction))} of them "
            "choose the best model, and every number about the fit is as uncertain as that. With "
            f"fewer than {FEW_ROWS} rows a Gaussian is often the better density."
        )
        self._warn(sentence)
        return (sentence,)

    def _warn(self, sentence: str) -> None:
        (self.callbacks or Callbacks()).warn(sentence)

    def _fit_balanced(
        self,
        build_key: PRNGKeyArray,
        fit_key: PRNGKeyArray,
        parts: "_Parts",
        weights: Split | None,
    ):
        shape = parts.train.shape[1:]
        standardise, train, validation = self._standardised(parts, weights)
        architecture = self._architecture()
        # Gaussians are fitted to the distribution that the weights make of the data.
        as_weighted = train if weights is None else train[rows_in_proportion(weights.train)]
        components = build(architecture, shape, data=as_weighted, key=build_key)
        base = None
        if architecture.base == "flow":
            kind, key = architecture.base_flow, jr.fold_in(build_key, 1)
            base = build_flow(architecture, kind, shape, key=key)
        result = fit_balanced(
            fit_key,
            components.model,
            train,
            validation=validation,
            **_weights_of(weights),
            proposal=components.proposal,
            options=cast(BalancedOptions | None, self.options),
            base=base,
            train_base=architecture.train_base,
            **self._limits(parts.budget),
        )
        return _Fitted(result, standardise, architecture)

    def _fit_joint(
        self,
        build_key: PRNGKeyArray,
        fit_key: PRNGKeyArray,
        parts: "_Parts",
        weights: Split | None,
    ):
        pixels = None
        if self.pixel_levels is None:
            standardise, train, validation = self._standardised(parts, weights)
        else:
            standardise = pixels = LogitPixels(parts.train.shape[1:], self.pixel_levels)
            train, validation = (
                standardise.transform_rows(np.asarray(_pixels(rows, self.pixel_levels)) + 0.5)
                for rows in (parts.train, parts.validation)
            )
        architecture = self._architecture()
        if pixels is not None and architecture != Architecture():
            raise Refused(
                "Images of whole-number pixels have no tilt in a fit by 'joint': leave its "
                "architecture out, or fit them by 'balanced'."
            )
        for field in fields(architecture):
            if field.name in _OF_BALANCED and getattr(architecture, field.name) != field.default:
                raise Refused(
                    f"{field.name} is for the method 'balanced'; leave it out for 'joint'."
                )
        as_weighted = train if weights is None else train[rows_in_proportion(weights.train)]
        stopping = self._limits(parts.budget)
        del stopping["patience"]
        result = fit_joint(
            fit_key,
            build_model(architecture, train.shape[1:], data=as_weighted, key=build_key),
            train,
            validation=validation,
            **_weights_of(weights),
            redrawn=self._redrawn(parts),
            options=cast(JointOptions | None, self.options),
            **_circular_of(parts),
            pixels=pixels,
            **stopping,
        )
        return _Fitted(result, standardise, architecture)

    def _architecture(self) -> Architecture:
        """What was chosen, or the default."""
        return cast(Architecture, self.architecture or Architecture())

    def _standardised(self, parts: "_Parts", weights: Split | None):
        """The preprocessing, and points that stand for the training and validation rows."""
        if parts.columns is not None:
            train, validation = self._dequantised(parts)
            return parts.columns, train, validation
        standardise = Standardise.fit(
            parts.train,
            weights=None if weights is None else weights.train,
            # Pixels are bounded: their distributions have peaks, not tails.
            arcsinh_tails=self.point_shape is None,
        )
        train, validation = (
            standardise.transform_rows(rows).astype(jnp.result_type(float))
            for rows in (parts.train, parts.validation)
        )
        return standardise, train, validation

    def _dequantised(self, parts: "_Parts", number: int = 0) -> list[np.ndarray]:
        """Points that stand for the training and validation rows, by noise of that number."""
        rng = np.random.default_rng([parts.seed, number] if number else parts.seed)
        columns = cast(Columns, parts.columns)
        drawn = [columns.boxes(rows).draw(rng) for rows in (parts.train, parts.validation)]
        if any(np.isnan(points).any() for points in drawn):
            # Drawn from what a mixture of normals, fitted to the entries that are there, says
            # of the others: their likelihood has then the same gradient on average.
            mixture = GapMixture.fit(rng, drawn[0])
            drawn = [mixture.fill(rng, points).rows for points in drawn]
        return [points.astype(jnp.result_type(float)) for points in drawn]

    def _redrawn(self, parts: "_Parts") -> list[np.ndarray]:
        """Training points with other noise, where there is any."""
        columns = parts.columns
        is_noisy = columns is not None and (columns.is_discrete or np.isnan(parts.train).any())
        return [self._dequantised(parts, k)[0] for k in range(1, N_NOISES)] if is_noisy else []

    def _fit_ebflow(
        self,
        build_key: PRNGKeyArray,
        fit_key: PRNGKeyArray,
        parts: "_Parts",
        weights: Split | None,
    ):
        shape = parts.train.shape[1:]
        architecture = cast(EBFlowArchitecture, self.architecture or EBFlowArchitecture())
        model = build_ebflow(architecture, shape, key=build_key)
        options = cast(EBFlowOptions, self.options or EBFlowOptions())
        if self.objective is not None:
            options = replace(options, objective=self.objective)
        if self.pixel_levels is None:
            preprocessing, train, validation = self._standardised(parts, weights)
            given = {}
        else:
            preprocessing = LogitPixels(shape, self.pixel_levels, options.pixel_smoothness)
            train, validation = (
                _pixels(rows, self.pixel_levels) for rows in (parts.train, parts.validation)
            )
            given = {"preprocessing": preprocessing, "noise": True}
        result = fit_ebflow(
            fit_key,
            model,
            train,
            validation=validation,
            options=options,
            **_weights_of(weights),
            **given,
            **self._limits(parts.budget),
        )
        return _Fitted(result, preprocessing, architecture)

    def _limits(self, budget: Budget) -> dict[str, Any]:
        """What ends a fit, and who watches it."""
        steps = self.max_steps
        if steps is None:
            # A time budget ends the run; the bound on steps is then out of its way.
            steps = DEFAULT_STEPS[self.method]
            if self.time_budget is not None and steps is not None:
                steps = 1_000_000
        patience = DEFAULT_PATIENCE[self.method] if self.patience is None else self.patience
        callbacks = self.callbacks or Callbacks()
        return {
            "max_steps": steps,
            "time_budget": budget,
            "patience": None if patience == "never" else patience,
            "callbacks": replace(callbacks, on_block=[*callbacks.on_block, self._on_block]),
        }

    def score_samples(
        self, X: Any, *, on_progress: OnProgress | None = None
    ) -> Float[np.ndarray, " n"]:
        """Normalised log-density of every row, in nats and in the units of the data.

        Of whole numbers and of piled-up values it is the log-probability, of several columns the
        density of the others times the probability of these. Of a row with gaps, after a fit
        with `missing="marginalise"`, it is the marginal log-density of what is there.

        Args:
            X: An array or data frame of shape (n, d), or the path of a table.
            on_progress: Told the rows done and the rows in all, after each batch.

        Returns:
            One log-density a row.

        Raises:
            ValueError: If the table is refused or its width is not the model's.
        """
        return self.score_with_error(X, on_progress=on_progress)[0]

    def score_with_error(
        self, X: Any, *, on_progress: OnProgress | None = None
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """`score_samples`, and the standard error of each log-density but for that of $\\log Z$.

        What has a probability (a whole number, a piled-up value) and what is missing is integrated
        over by draws, of which the error is; all other log-densities are exact.

        Args:
            X: An array or data frame of shape (n, d), or the path of a table.
            on_progress: Told the rows done and the rows in all, after each batch.

        Returns:
            One log-density a row, and its standard error.

        Raises:
            ValueError: If the table is refused or its width is not the model's.
        """
        check_is_fitted(self, "model_")
        table = read_table(X)
        self._check_columns(X, table)
        check_table(
            table.values,
            table.names,
            min_rows=1,
            allow_constant=True,
            allow_missing=self.missing == "marginalise",
        )
        return self._density.log_density(table.values, table.names, on_progress=on_progress)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows, in nats a point: what a search maximises.

        Args:
            X: An array or data frame of shape (n, d), or the path of a table.
            y: Ignored.
            sample_weight: How much each row counts in the mean; all alike by default.

        Returns:
            The mean; the error of $\\log Z$ is part of its own.

        Raises:
            ValueError: If the table or the weights are refused, or the width is not the model's.
        """
        log_density = self.score_samples(X)
        if sample_weight is None:
            return float(log_density.mean())
        weights = check_weights(sample_weight, len(log_density))
        return float(np.average(log_density, weights=weights))

    def _check_columns(self, X: Any, table: Table) -> None:
        """Refuse other columns than those of the fit, as scikit-learn does and words it."""
        columns: Any = X
        if isinstance(X, str | Path):
            import pandas as pd

            # A file without a header has names that say nothing.
            known = set(getattr(self, "feature_names_in_", ())) & set(table.names)
            columns = pd.DataFrame(table.values, columns=table.names) if known else table.values
        elif not hasattr(X, "columns"):
            columns = table.values
        try:
            validate_data(self, columns, reset=False, skip_check_array=True)
        except ValueError as error:
            raise Refused(str(error)) from error

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Float[np.ndarray, "n d"]:
        """Draw independent samples of the model, in the units of the data.

        Args:
            n_samples: Number of samples.
            random_state: Seed; the fit's own by default, so that a fresh fit gives the same.
            on_progress: Told the samples done and the samples in all, after each batch.

        Returns:
            One sample a row.

        Raises:
            ValueError: If `n_samples` is below one.
        """
        check_is_fitted(self, "model_")
        seed = self.random_state if random_state is None else random_state
        seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        return self._density.sample(seed, n_samples, on_progress=on_progress)

    def impute(
        self, X: Any, n_draws: int = 1, *, random_state: int | None = None
    ) -> Float[np.ndarray, "draws n d"]:
        """Draw the missing entries of rows from the model, given the entries that are there.

        Args:
            X: An array or data frame of shape (n, d), NaN where an entry is missing, or the path
                of a table with empty entries.
            n_draws: Draws of each row; their spread is the uncertainty of what is missing.
            random_state: Seed; the fit's own by default.

        Returns:
            Complete rows, one set of them a draw; observed entries are those of `X`.

        Raises:
            ValueError: If the table is refused or its width is not the model's.
        """
        check_is_fitted(self, "model_")
        table = read_table(X)
        self._check_columns(X, table)
        check_table(
            np.where(np.isnan(table.values), 0.0, table.values),
            table.names,
            min_rows=1,
            allow_constant=True,
        )
        seed = self.random_state if random_state is None else random_state
        seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        saved = self.saved_
        imputed = impute_rows(
            jr.key(seed),
            saved.model,
            saved.proposal,
            saved.preprocessing,
            table.values.reshape(-1, *saved.shape),
            n_draws=n_draws,
        )
        return imputed.draws.reshape(n_draws, *table.values.shape)

    def denoise(
        self, X: Any, noise: float, n_draws: int = 1, *, random_state: int | None = None
    ) -> Float[np.ndarray, "draws n d"]:
        """Draw the images that noisy ones may have been, after a fit of whole-number pixels.

        Args:
            X: Images with normal noise, one a row; an array or data frame of shape (n, d).
            noise: Standard deviation of the noise, in levels.
            n_draws: Draws of each image.
            random_state: Seed; the fit's own by default.

        Returns:
            Images of whole-number pixels, one set of them a draw.

        Raises:
            ValueError: If the table is refused, the noise is not positive, or the model is none of
                images by the method `"joint"` with `pixel_levels`.
        """
        check_is_fitted(self, "model_")
        table = read_table(X)
        self._check_columns(X, table)
        check_table(table.values, table.names, min_rows=1, allow_constant=True)
        particles = ImageParticles.of(self.saved_.model)
        if particles is None:
            raise Refused(
                "denoise is for images of whole-number pixels that the method 'joint' has fitted: "
                "give point_shape and pixel_levels."
            )
        if not noise > 0:
            raise Refused(f"noise must be above 0; got {noise}.")
        seed = self.random_state if random_state is None else random_state
        seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        rows = table.values.reshape(-1, *self.saved_.shape)
        draws, _ = particles.denoise(jr.key(seed), rows, noise, n_draws=n_draws)
        return draws.reshape(n_draws, *table.values.shape)

    def to_distribution(self) -> AbstractDistribution:
        """The fitted density as a flowjax distribution in the units of the data.

        In numpyro it is used through `flowjax.experimental.numpyro.sample`.

        Returns:
            A distribution with a normalised `log_prob`, which is that of `score_samples` for NumPy
            arrays, and `sample`.
        """
        check_is_fitted(self, "model_")
        if self._density.has_probabilities:
            raise Refused(
                "Columns of whole numbers or piled-up values have probabilities, not a density: "
                "use score_samples and sample."
            )
        if isinstance(self.saved_.model, EBFlow):
            # The proposal in the units of the data is then the model itself.
            return self.flow_
        saved = self.saved_
        standardised = NormalisedModel(saved.model, saved.proposal, self.log_partition_)
        return PreprocessedDistribution(standardised, saved.preprocessing)

    def save(self, directory: str | Path) -> None:
        """Write the fitted model to `model.safetensors` and `model.json` in a folder.

        Args:
            directory: The folder; made if there is none.
        """
        check_is_fitted(self, "model_")
        save_model(directory, self.saved_)

    @classmethod
    def load(cls, directory: str | Path) -> "FlowEBM":
        """Read a fitted model that `save` or `flowebm train` wrote; executes nothing of it.

        Args:
            directory: The folder.

        Returns:
            A fitted estimator, without the history of its fit.

        Warns:
            EstimateWarning: With each sentence that the fit had to say about itself.

        Raises:
            ValueError: If the folder holds no model that this version can read.
        """
        saved = load_model(directory)
        architecture = saved.architecture
        estimator = cls(
            saved.metadata.get("method", "balanced"),
            architecture=architecture,
            columns={i: column.kind for i, column in enumerate(saved.preprocessing.columns)}
            if isinstance(saved.preprocessing, Columns)
            else "auto",
            missing=saved.metadata.get("missing", "refuse"),
            point_shape=None if len(saved.shape) == 1 else saved.shape,
            pixel_levels=getattr(saved.preprocessing, "levels", None),
        )
        estimator._set_fitted(saved)
        for sentence in saved.warnings:
            warn(sentence)
        return estimator

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: of a fitted model its files' contents, without functions."""
        state: dict[str, Any] = dict(cast(Any, super().__getstate__()))
        if "saved_" in state:
            state = {k: v for k, v in state.items() if k not in ("model_", "flow_", "_density")}
            state["saved_"] = to_bytes(self.saved_)
        if "result_" in state:
            state["result_"] = replace(self.result_, model=cast(Any, None), flow=cast(Any, None))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "saved_" in state:
            self._set_fitted(from_bytes(state["saved_"]))
        if "result_" in state:
            self.result_ = replace(
                state["result_"], model=self.saved_.model, flow=self.saved_.proposal
            )

    def _set_fitted(self, saved: SavedModel) -> None:
        """Set what a fit and a load have in common."""
        self.saved_ = saved
        self._density = FittedDensity(saved)
        if self._density.has_probabilities:
            self.model_, self.flow_ = saved.model, saved.proposal
        else:
            self.model_ = PreprocessedModel(saved.model, saved.preprocessing)
            self.flow_ = PreprocessedDistribution(saved.proposal, saved.preprocessing)
        self.log_partition_ = saved.log_partition
        self.log_partition_stderr_ = saved.log_partition_stderr
        self.n_features_in_ = int(np.prod(saved.shape))
        if saved.columns is not None:
            self.feature_names_in_ = np.asarray(saved.columns, object)
        elif hasattr(self, "feature_names_in_"):
            # Of an earlier fit.
            del self.feature_names_in_

    @property
    def columns_(self) -> dict[str, str]:
        """What each column was taken for, in words, by its name."""
        check_is_fitted(self, "model_")
        names = [f"x{i + 1}" for i in range(self.n_features_in_)]
        names = tuple(map(str, getattr(self, "feature_names_in_", names)))
        if isinstance(self.saved_.preprocessing, Columns):
            return self.saved_.preprocessing.described(names)
        return dict.fromkeys(names, "real")

    def continuous_rows(self, rows: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n *shape"]:
        """Rows as the density takes them: with pixel levels, whole numbers get their noise.

        Args:
            rows: Points in the units of the data.

        Returns:
            Points of the same shape.

        Raises:
            ValueError: If pixels lie outside their levels.
        """
        return self._density.continuous_rows(rows)

    def _shape(self, width: int) -> tuple[int, ...]:
        """The shape of one point in rows of `width` columns."""
        if self.point_shape is None:
            return (width,)
        shape = tuple(self.point_shape)
        if int(np.prod(shape)) != width:
            raise Refused(
                f"point_shape={shape} has {int(np.prod(shape))} values, the data's rows have "
                f"{width}: they must agree."
            )
        return shape


class _Parts(NamedTuple):
    """Rows of a fit in the units of the data, and the kinds of their columns."""

    train: Float[np.ndarray, "n *shape"]
    validation: Float[np.ndarray, "m *shape"]
    columns: Columns | None
    seed: int
    budget: Budget


class _Fitted(NamedTuple):
    """What a method's fit comes to."""

    result: FitResult
    preprocessing: Standardise | LogitPixels | Columns
    architecture: Architecture | EBFlowArchitecture


def _diagnostics_of(log_z: LogPartition) -> dict[str, Any]:
    """How good the estimate of log Z is, as a saved model has it; of one that is exact nothing."""
    if log_z.n == 0:
        return {}
    return {"ess": log_z.ess, "khat": log_z.khat, "n_draws": log_z.n}


def _circular_of(parts: _Parts) -> dict[str, Any]:
    """Which columns are circular, where any is, as a fit takes it."""
    if parts.columns is None or not any(parts.columns.circular):
        return {}
    return {"circular": parts.columns.circular}


def _weights_of(weights: Split | None) -> dict[str, Any]:
    """The parts of the weights as a fit takes them."""
    if weights is None:
        return {}
    return {"weights": weights.train, "validation_weights": weights.validation}


def _has_names(X: Any) -> bool:
    """Whether this is a data frame whose columns have names, not numbers."""
    return hasattr(X, "columns") and all(isinstance(name, str) for name in X.columns)


def _pixels(rows: Float[np.ndarray, "n *shape"], levels: int) -> jax.Array:
    """Whole-number pixels in as few bytes as they take."""
    check_pixels(rows, levels)
    if (rows != np.floor(rows)).any():
        raise Refused(
            "With pixel_levels the data must be whole numbers, which the fit makes continuous by "
            "itself; these are not: leave the noise out, or pixel_levels."
        )
    return jnp.asarray(rows.astype(np.uint8 if levels <= 256 else np.int32))
